"""Finding the running cache from inside a Ray program: what `connect()` without an address asks.

Invariants: looking up never creates anything; every failure is an UnavailableError that names the way out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from stratacache.client.view import View
from stratacache.cluster.config import RAY_NAMESPACE
from stratacache.node.errors import UnavailableError

DEFAULT_NAME: Final = "default"
LOOKUP_DEADLINE_S: Final = 10.0
_ELSEWHERE: Final = 'or connect by address: connect("strata://host:port")'


class Access(NamedTuple):
    """What a client of a running cache needs: the view, the token, and with TLS the authority's file and the name."""

    view: View
    token: str | None
    tls: tuple[str, str] | None


def current_view(name: str | None = None, timeout_s: float = LOOKUP_DEADLINE_S) -> tuple[View, str | None]:
    """The view of the cache that runs in this process's Ray cluster, and its token; see `access`."""
    found = access(name, timeout_s)
    return found.view, found.token


def access(name: str | None = None, timeout_s: float = LOOKUP_DEADLINE_S) -> Access:
    """How to use the cache that runs in this process's Ray cluster.

    Works in a driver, in tasks and in actors. Without `name` it is the only cluster there is, or the one named
    `default` among several.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    coordinator = find_coordinator(name)
    try:
        blob, token, tls = ray.get(coordinator.view.remote(), timeout=timeout_s)
    except GetTimeoutError:
        raise UnavailableError(
            f"the coordinator gave no answer within {timeout_s:g} s: see `stratacache status`, {_ELSEWHERE}"
        ) from None
    except RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, UnavailableError):
            raise cause from None
        raise UnavailableError(f"the coordinator can't be asked ({type(error).__name__}): try again") from error
    return Access(View.from_bytes(blob), token, tls)


def find_coordinator(name: str | None = None) -> Any:
    """The coordinator's actor handle; raises UnavailableError when there is none."""
    ray = _ray()
    if name is None:
        name = _only_name(running_clusters())
    from stratacache.cluster.config import coordinator_name

    try:
        with _asking_ray():
            return ray.get_actor(coordinator_name(name), namespace=RAY_NAMESPACE)
    except ValueError:
        raise UnavailableError(
            f"no cache named {name!r} runs in this Ray cluster{_others()}: start it with "
            f"`stratacache up{'' if name == DEFAULT_NAME else f' --name {name}'}`, {_ELSEWHERE}"
        ) from None


def running_clusters() -> list[str]:
    """The names of the caches that run in this Ray cluster."""
    ray = _ray()
    with _asking_ray():
        names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True) if _is_ours(actor)]
    return sorted({name.partition("/")[0] for name in names if name.endswith("/coordinator")})


@contextmanager
def _asking_ray() -> Iterator[None]:
    """Ray's own errors as ours: a client's operation may be looking for a view when Ray can't be asked."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        raise UnavailableError(
            f"Ray's control service can't be asked ({type(error).__name__}): try again, {_ELSEWHERE}"
        ) from error


def _is_ours(actor: dict[str, str]) -> bool:
    return actor["namespace"] == RAY_NAMESPACE


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise UnavailableError(
            f"Ray is not installed here: install stratacache[ray] to look for the running cache, {_ELSEWHERE}"
        ) from None
    if not ray.is_initialized():
        raise UnavailableError(f"this process is not connected to Ray: call ray.init() before connect(), {_ELSEWHERE}")
    return ray


def _only_name(names: list[str]) -> str:
    if len(names) == 1 or not names:
        return names[0] if names else DEFAULT_NAME
    if DEFAULT_NAME in names:
        return DEFAULT_NAME
    raise UnavailableError(f"several caches run in this Ray cluster ({', '.join(names)}): name one of them")


def _others() -> str:
    names = running_clusters()
    return f" (running: {', '.join(names)})" if names else ""
