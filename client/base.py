"""What every cache client can do: the two interfaces that decorators, strategies and pipelines are written against.

Invariants: `Cache` and `AsyncCache` have the same methods with the same arguments; a miss is `MISS` (or the caller's
default), never an exception and never None; `namespace=None` means the namespace that the client is bound to
(`"default"` unless `namespace(...)` bound another); a reading call returns its default, and a put returns False, when
the cache can't answer (fail-open), while an invalidation raises.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeAlias, TypedDict, TypeVar, Unpack, overload

from stratacache.node.types import MISS, MissType

Key: TypeAlias = str | bytes
"""A key inside its namespace; a `str` is its UTF-8 bytes."""

Ttl: TypeAlias = timedelta | float | None
"""How long an entry may be served: a timedelta, seconds, or None for no expiry."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
K = TypeVar("K", str, bytes)

Declared = TypeVar("Declared")

Results: TypeAlias = Mapping[K, T] | Sequence[T]
"""What a function of many keys returns: the value of each, or all values in the order of the keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill(Generic[T_co]):
    """What a compute function may return instead of a bare value, to decide on its storing after the fact.

    `get_or_compute` hands `value` to the caller and stores `stored` (or `value` when `stored` is not given) with those
    options that are given here; the others are those of the call. `store=False` hands the value out without storing
    it. Negative caching is `Fill(value=error, stored=CachedError(...), ttl=60)`. `metadata` travels with the entry
    (docs/PROTOCOL.md); it holds the recipe of a value that can be refreshed ahead.
    """

    value: T_co
    stored: Any = MISS
    store: bool = True
    ttl: Ttl | MissType = MISS
    tags: Iterable[str] | None = None
    cost_s: float | None = None
    codec: str | None = None
    metadata: bytes = b""


class ComputeManyOptions(TypedDict, total=False):
    """What `get_or_compute_many` takes beside the keys and the function."""

    ttl: Ttl
    tags: Iterable[str]
    namespace: str | None
    cost_s: float | None
    codec: str
    wait_s: float | None


class ComputeOptions(ComputeManyOptions, total=False):
    """What `get_or_compute` takes beside the key and the function."""

    refresh: bool


def declared_as(declared: Declared) -> Callable[[Callable[..., Any]], Declared]:  # noqa: ARG001 - for its type
    """Give a method the type of the one that it implements, overloads included, so that they stand once."""
    return lambda method: method  # type: ignore[return-value]  # what this is for


class Cache(Protocol):
    """A blocking cache client: safe to share between threads, to carry across a fork, and to pickle."""

    def get(self, key: Key, default: Any = MISS, *, namespace: str | None = None) -> Any:
        """The value under `key`, or `default` when there is none. Arrays are read-only."""
        ...

    def get_many(self, keys: Iterable[K], *, namespace: str | None = None) -> dict[K, Any]:
        """The values of those keys that are cached; the others are absent from the result."""
        ...

    def put(
        self,
        key: Key,
        value: Any,
        *,
        ttl: Ttl = None,
        tags: Iterable[str] = (),
        namespace: str | None = None,
        cost_s: float | None = None,
        codec: str = "auto",
    ) -> bool:
        """Store a value; True when every owner that must hold it has acknowledged it.

        `ttl` gets the client's jitter. `tags` name groups for `invalidate_tags`. `cost_s` is the seconds that the value
        took to compute: it decides what is worth keeping.
        """
        ...

    def put_many(
        self,
        items: Mapping[K, Any],
        *,
        ttl: Ttl = None,
        tags: Iterable[str] = (),
        namespace: str | None = None,
        cost_s: float | None = None,
        codec: str = "auto",
    ) -> int:
        """Store many values with the same options; the number of those that were acknowledged. `cost_s` is for each."""
        ...

    def contains(self, key: Key, *, namespace: str | None = None) -> bool:
        """Whether a live entry is there, without fetching it."""
        ...

    def touch(self, key: Key, *, ttl: Ttl, namespace: str | None = None) -> bool:
        """Give an entry a new time to live from now (None: no expiry); False when there is no such entry."""
        ...

    def ttl(self, key: Key, *, namespace: str | None = None) -> Any:
        """Seconds left as a float, None for an entry without expiry, MISS when there is no such entry."""
        ...

    @overload
    def get_or_compute(self, key: Key, compute: Callable[[], Fill[T]], **options: Unpack[ComputeOptions]) -> T: ...
    @overload
    def get_or_compute(self, key: Key, compute: Callable[[], T | Fill[T]], **options: Unpack[ComputeOptions]) -> T:
        """The cached value, or that of `compute`, which runs once for all callers in the cluster (single flight).

        The caller that gets the fill lease computes and stores; the others wait for it up to `wait_s` (default: the
        client's `lease_wait_s`) and then compute for themselves. What `compute` raises reaches every caller that waits
        in this process, and nothing is stored. `cost_s` is measured when it is not given. An invalidation of the key,
        of one of its tags or of its namespace while `compute` runs keeps its result out of the cache.

        With `refresh=True` the cached value is not looked at: `compute` runs under a fill lease while readers go on
        being served the old value, which the new one then replaces.
        """
        ...

    @overload
    def get_or_compute_many(
        self,
        keys: Iterable[K],
        compute: Callable[[list[K]], Results[K, Fill[T]]],
        **options: Unpack[ComputeManyOptions],
    ) -> dict[K, T]: ...
    @overload
    def get_or_compute_many(
        self,
        keys: Iterable[K],
        compute: Callable[[list[K]], Results[K, T | Fill[T]]],
        **options: Unpack[ComputeManyOptions],
    ) -> dict[K, T]:
        """All values: the cached ones, and the others from one call of `compute` with the distinct missing keys.

        `compute` returns a mapping of those keys, or a sequence in their order. Keys that another process computes are
        waited for up to `wait_s` after our own are done, and only then computed here (a second call). `cost_s` is for
        each key; measured, it is the call's time divided by its keys.
        """
        ...

    def invalidate(self, key: Key, *, namespace: str | None = None) -> int:
        """Remove one entry everywhere; the number removed. Raises InvalidationIncompleteError."""
        ...

    def invalidate_many(self, keys: Iterable[Key], *, namespace: str | None = None) -> int:
        """Remove many entries everywhere; the number removed. Raises InvalidationIncompleteError."""
        ...

    def invalidate_tags(self, tags: Iterable[str]) -> int:
        """Remove every entry that has one of these tags, in all namespaces. Raises InvalidationIncompleteError."""
        ...

    def invalidate_namespace(self, namespace: str | None = None) -> int:
        """Remove every entry of a namespace. Raises InvalidationIncompleteError."""
        ...

    def clear(self) -> int:
        """Remove everything from the whole cache. Raises InvalidationIncompleteError."""
        ...

    def stats(self) -> dict[str, Any]:
        """`client` (this process's counters), `shards` (id -> its figures), `total` (merged), `missing` (no answer)."""
        ...

    def patterns(self) -> dict[str, Any]:
        """Access patterns by shard id, as the shards report them."""
        ...

    def ping(self) -> dict[str, float]:
        """Seconds of one round trip for every shard that answers."""
        ...

    def namespace(self, name: str) -> Self:
        """The same client bound to another default namespace; it shares everything else."""
        ...

    def close(self) -> None:
        """Give this handle back; the last one of its process closes the connections."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class AsyncCache(Protocol):
    """The same methods for asyncio. `compute` may be a plain function or a coroutine function."""

    async def get(self, key: Key, default: Any = MISS, *, namespace: str | None = None) -> Any:
        """As `Cache.get`."""
        ...

    async def get_many(self, keys: Iterable[K], *, namespace: str | None = None) -> dict[K, Any]:
        """As `Cache.get_many`."""
        ...

    async def put(
        self,
        key: Key,
        value: Any,
        *,
        ttl: Ttl = None,
        tags: Iterable[str] = (),
        namespace: str | None = None,
        cost_s: float | None = None,
        codec: str = "auto",
    ) -> bool:
        """As `Cache.put`."""
        ...

    async def put_many(
        self,
        items: Mapping[K, Any],
        *,
        ttl: Ttl = None,
        tags: Iterable[str] = (),
        namespace: str | None = None,
        cost_s: float | None = None,
        codec: str = "auto",
    ) -> int:
        """As `Cache.put_many`."""
        ...

    async def contains(self, key: Key, *, namespace: str | None = None) -> bool:
        """As `Cache.contains`."""
        ...

    async def touch(self, key: Key, *, ttl: Ttl, namespace: str | None = None) -> bool:
        """As `Cache.touch`."""
        ...

    async def ttl(self, key: Key, *, namespace: str | None = None) -> Any:
        """As `Cache.ttl`."""
        ...

    @overload
    async def get_or_compute(
        self, key: Key, compute: Callable[[], Fill[T] | Awaitable[Fill[T]]], **options: Unpack[ComputeOptions]
    ) -> T: ...
    @overload
    async def get_or_compute(
        self, key: Key, compute: Callable[[], Awaitable[T | Fill[T]]], **options: Unpack[ComputeOptions]
    ) -> T: ...
    @overload
    async def get_or_compute(
        self, key: Key, compute: Callable[[], T | Fill[T]], **options: Unpack[ComputeOptions]
    ) -> T:
        """As `Cache.get_or_compute`. Cancelling one waiter leaves the computation and the other waiters alone."""
        ...

    @overload
    async def get_or_compute_many(
        self,
        keys: Iterable[K],
        compute: Callable[[list[K]], Results[K, Fill[T]] | Awaitable[Results[K, Fill[T]]]],
        **options: Unpack[ComputeManyOptions],
    ) -> dict[K, T]: ...
    @overload
    async def get_or_compute_many(
        self,
        keys: Iterable[K],
        compute: Callable[[list[K]], Awaitable[Results[K, T | Fill[T]]]],
        **options: Unpack[ComputeManyOptions],
    ) -> dict[K, T]: ...
    @overload
    async def get_or_compute_many(
        self,
        keys: Iterable[K],
        compute: Callable[[list[K]], Results[K, T | Fill[T]]],
        **options: Unpack[ComputeManyOptions],
    ) -> dict[K, T]:
        """As `Cache.get_or_compute_many`."""
        ...

    async def invalidate(self, key: Key, *, namespace: str | None = None) -> int:
        """As `Cache.invalidate`."""
        ...

    async def invalidate_many(self, keys: Iterable[Key], *, namespace: str | None = None) -> int:
        """As `Cache.invalidate_many`."""
        ...

    async def invalidate_tags(self, tags: Iterable[str]) -> int:
        """As `Cache.invalidate_tags`."""
        ...

    async def invalidate_namespace(self, namespace: str | None = None) -> int:
        """As `Cache.invalidate_namespace`."""
        ...

    async def clear(self) -> int:
        """As `Cache.clear`."""
        ...

    async def stats(self) -> dict[str, Any]:
        """As `Cache.stats`."""
        ...

    async def patterns(self) -> dict[str, Any]:
        """As `Cache.patterns`."""
        ...

    async def ping(self) -> dict[str, float]:
        """As `Cache.ping`."""
        ...

    def namespace(self, name: str) -> Self:
        """As `Cache.namespace`; not a coroutine."""
        ...

    async def close(self) -> None:
        """As `Cache.close`."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
