"""`connect` and `connect_async`: from an address to a client that has seen the cluster.

Invariants: a wrong address, an unreachable one and a wrong token are told at once, in one line with the way out;
nothing is left open then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stratacache.client.options import ClientOptions
from stratacache.client.sync_client import CacheClient

if TYPE_CHECKING:
    from stratacache.client.async_client import AsyncCacheClient


def connect(
    address: str | None = None,
    *,
    strict: bool = False,
    namespace: str = "default",
    shared: bool = True,
    **options: Any,
) -> CacheClient:
    """Open a cache and return a client for it.

    `address` is `strata://host:port[,host:port]`, `stratas://...` (TLS), `unix:PATH`, `local:DIR` (a cache inside this
    process), or None for the cache of the Ray cluster that this program runs in. `strict=True` raises where the client
    otherwise goes on without the cache. `shared=False` keeps connections and near cache apart from those of other
    clients in this process. The other options are the fields of ClientOptions: token, near_bytes_max, deadline_s, ...

    Raises UsageError for an address or option that makes no sense, UnavailableError when nobody answers there,
    AccessError for a wrong token.
    """
    return CacheClient(
        ClientOptions(address=address, **options), strict=strict, default_namespace=namespace, shared=shared
    )


def connect_async(
    address: str | None = None,
    *,
    strict: bool = False,
    namespace: str = "default",
    shared: bool = True,
    **options: Any,
) -> AsyncCacheClient:
    """As `connect`, for asyncio. It is not a coroutine: the client connects with its first call, or `async with`."""
    from stratacache.client.async_client import AsyncCacheClient  # noqa: PLC0415 - asyncio is not for everybody

    return AsyncCacheClient(
        ClientOptions(address=address, **options), strict=strict, default_namespace=namespace, shared=shared
    )
