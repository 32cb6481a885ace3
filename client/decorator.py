"""`@cached`: a function whose results are kept, shared by every process that calls it.

A call becomes a key, tags and a time to live in recipe.py; the client's `get_or_compute` does the rest (near cache, one
computation for the whole cluster, fill leases). This module is the shell between the two.

Invariants: a cache that fails or is not there never keeps the function from running, unless `strict`; what the function
raises is what the caller sees; an argument that can't be part of a key is an EncodingError before anything runs; the
decorated function pickles without a socket.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from datetime import timedelta
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from stratacache.client.base import AsyncCache, Cache, Ttl
from stratacache.client.recipe import Options
from stratacache.client.wrapping import wrap
from stratacache.node.errors import UsageError
from stratacache.node.types import MISS, AIOperation, MissType

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class Cached(Protocol[P, R_co]):
    """A decorated function: call it as before, or ask about one call by giving its arguments."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """The cached result of this call, or the computed one."""
        ...

    def key_for(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key under which the result of this call is kept."""
        ...

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> int:
        """Remove the result of this call everywhere; 1 when there was one. Raises InvalidationIncompleteError."""
        ...

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Compute this call anew and replace its result; readers see the old one until then."""
        ...

    def invalidate_all(self) -> int:
        """Remove the results of all calls of this function, of every version; the number removed."""
        ...

    def __get__(self, instance: Any, owner: type | None = None) -> Cached[..., R_co]: ...


class AsyncCached(Protocol[P, R_co]):
    """A decorated async function; as Cached, with coroutines (except `key_for`)."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        """As `Cached.__call__`."""
        ...

    def key_for(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """As `Cached.key_for`."""
        ...

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> int:
        """As `Cached.invalidate`."""
        ...

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """As `Cached.refresh`."""
        ...

    async def invalidate_all(self) -> int:
        """As `Cached.invalidate_all`."""
        ...

    def __get__(self, instance: Any, owner: type | None = None) -> AsyncCached[..., R_co]: ...


class Decorator(Protocol):
    """What `cached(...)` returns."""

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a coroutine is an R_co too: the first that fits counts
        self, function: Callable[P, Coroutine[Any, Any, R_co]], /
    ) -> AsyncCached[P, R_co]: ...
    @overload
    def __call__(self, function: Callable[P, R_co], /) -> Cached[P, R_co]: ...


def cached(
    *,
    operation: AIOperation | str | None = None,
    ttl: Ttl | MissType = MISS,
    tags: Iterable[str] = (),
    namespace: str | None = None,
    ignore: Iterable[str] = (),
    key: Callable[..., Any] | None = None,
    version: str | int = "",
    fingerprint: bool = False,
    negative: type[Exception] | tuple[type[Exception], ...] = (),
    negative_ttl: Ttl = timedelta(minutes=1),
    codec: str = "auto",
    automatic_tags: bool = True,
    strict: bool = False,
    refreshable: bool = False,
    client: Cache | AsyncCache | str | None = None,
) -> Decorator:
    """Cache the results of a function, an async function or a method.

    The key is made of the function's name, `version`, and all arguments with defaults applied. `self` is an argument
    like the others: give its class a `__cache_key__()` method, make it a dataclass, or put "self" into `ignore`.

    - `operation`: the kind of work; sets the key's first part, the default TTL and a tag. Default: the function's name.
    - `ttl`: timedelta, seconds, or None for no expiry. Default: the operation's (four hours without one).
    - `tags`: groups for `invalidate_tags`; `"model:{model}"` is filled in from the arguments, ignored ones included.
    - `ignore`: names of parameters that don't change the result (a logger, a timeout).
    - `key`: called with the arguments of a call, returns what the key is made of instead of them.
    - `version`: raise it when the function changes its results. `fingerprint=True` does so by the function's source.
    - `negative`: exceptions that are results too: cached for `negative_ttl` and raised again on a hit.
    - `automatic_tags`: also tag with the operation, `model:...`, `mode:...`, `large_input` or `small_input`.
    - `strict`: raise when there is no cache or it fails, instead of computing without it.
    - `refreshable`: keep each call's arguments (up to 64 KiB) with its result, so that the cluster can compute it again
      in a Ray task before a regular reader finds it expired. The function must be importable where Ray's workers run,
      or be defined in the driver's script.
    - `client`: a client or an address; default is what `connect()` finds, at the first call, once for the process.
    """
    options = Options(
        operation=operation,
        ttl=ttl,
        tags=_names(tags, "tags"),
        namespace=namespace,
        ignore=_names(ignore, "ignore"),
        key=key,
        version=version,
        fingerprint=fingerprint,
        negative=negative if isinstance(negative, tuple) else (negative,),
        negative_ttl=negative_ttl,
        codec=codec,
        automatic_tags=automatic_tags,
        strict=strict,
        refreshable=refreshable,
    )

    def decorate(function: Any) -> Any:
        return wrap(function, options, client)

    return decorate


def _names(given: Iterable[str], option: str) -> tuple[str, ...]:
    if isinstance(given, str):
        raise UsageError(f"{option}={given!r}: hand in a list, as in {option}=[{given!r}]")
    return tuple(given)
