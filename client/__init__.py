"""The consistent-hash client: routing, near cache, codecs, keys, decorators. Works without Ray.

Invariant: importing this package imports what its names need only when they are used, and never Ray, NumPy or asyncio.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from stratacache.node.errors import (
    AccessError,
    CacheError,
    CorruptionError,
    DeadlineError,
    EncodingError,
    InvalidationIncompleteError,
    LimitError,
    UnavailableError,
    UsageError,
)
from stratacache.node.types import MISS, AIOperation, CacheLevel, CacheStrategy, EvictionPolicy

if TYPE_CHECKING:
    from stratacache.client.async_client import AsyncCacheClient
    from stratacache.client.base import AsyncCache, Cache, Fill
    from stratacache.client.batch import cached_batch
    from stratacache.client.connecting import connect, connect_async
    from stratacache.client.decorator import cached
    from stratacache.client.intelligent import IntelligentCacheManager
    from stratacache.client.keys import key_for
    from stratacache.client.options import ClientOptions
    from stratacache.client.strategies import (
        AsyncStoreBackedCache,
        BackingStore,
        DirectoryStore,
        FsspecStore,
        StoreBackedCache,
    )
    from stratacache.client.sync_client import CacheClient

__all__ = [
    "MISS",
    "AIOperation",
    "AccessError",
    "AsyncCache",
    "AsyncCacheClient",
    "AsyncStoreBackedCache",
    "BackingStore",
    "Cache",
    "CacheClient",
    "CacheError",
    "CacheLevel",
    "CacheStrategy",
    "ClientOptions",
    "CorruptionError",
    "DeadlineError",
    "DirectoryStore",
    "EncodingError",
    "EvictionPolicy",
    "Fill",
    "FsspecStore",
    "IntelligentCacheManager",
    "InvalidationIncompleteError",
    "LimitError",
    "StoreBackedCache",
    "UnavailableError",
    "UsageError",
    "cached",
    "cached_batch",
    "connect",
    "connect_async",
    "key_for",
]

# Where each name that is imported on first use lives. A name stands here, under TYPE_CHECKING and in __all__.
_LAZY = {
    "AsyncCache": "base",
    "AsyncCacheClient": "async_client",
    "AsyncStoreBackedCache": "strategies",
    "BackingStore": "strategies",
    "Cache": "base",
    "CacheClient": "sync_client",
    "ClientOptions": "options",
    "DirectoryStore": "strategies",
    "Fill": "base",
    "FsspecStore": "strategies",
    "IntelligentCacheManager": "intelligent",
    "StoreBackedCache": "strategies",
    "cached": "decorator",
    "cached_batch": "batch",
    "connect": "connecting",
    "connect_async": "connecting",
    "key_for": "keys",
}

if not TYPE_CHECKING:  # type checkers see the imports above, and so a name that is missing

    def __getattr__(name: str) -> Any:
        module = _LAZY.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
