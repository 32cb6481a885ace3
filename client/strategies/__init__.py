"""Keeping a cache and the store behind it together: the five strategies, the stores, the durable queue."""

from __future__ import annotations

from stratacache.client.strategies.store import BackingStore, DirectoryStore
from stratacache.client.strategies.store_async import AsyncStoreBackedCache
from stratacache.client.strategies.store_backed import StoreBackedCache
from stratacache.client.strategies.store_fsspec import FsspecStore
from stratacache.client.strategies.write_queue import WriteQueue

__all__ = [
    "AsyncStoreBackedCache",
    "BackingStore",
    "DirectoryStore",
    "FsspecStore",
    "StoreBackedCache",
    "WriteQueue",
]
