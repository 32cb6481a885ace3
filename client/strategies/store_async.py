"""A cache in front of a store, for asyncio.

Stores block: files, databases and object stores through libraries that know nothing of the loop. So each call runs in a
thread, of a pool of its own: a slow store holds up neither the loop nor what else runs in the loop's threads.

Invariants: nothing is decided here; a call that is cancelled goes on in its thread to its end, so that a put is never
left between the store and the cache.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from stratacache.client.strategies.forks import begins_anew
from stratacache.client.strategies.store_backed import StoreBackedCache
from stratacache.node.types import MISS

P = ParamSpec("P")
T = TypeVar("T")


class AsyncStoreBackedCache:
    """The methods of a `StoreBackedCache`, awaited: `AsyncStoreBackedCache(StoreBackedCache(connect(), store))`.

    `threads_max` calls run at a time. Closing it closes `backed` too.
    """

    def __init__(self, backed: StoreBackedCache, *, threads_max: int = 16) -> None:
        self._backed = backed
        self._threads_max = threads_max
        self.reset_after_fork()
        begins_anew(self)

    def reset_after_fork(self) -> None:
        """The threads are the parent's: a child has its own."""
        self._threads = ThreadPoolExecutor(self._threads_max, thread_name_prefix="stratacache-store")

    async def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.wrap_future(self._threads.submit(function, *args, **kwargs))

    async def get(self, key: str, default: Any = MISS) -> Any:
        """As `StoreBackedCache.get`."""
        return await self._call(self._backed.get, key, default)

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """As `StoreBackedCache.get_many`."""
        return await self._call(self._backed.get_many, list(keys))

    async def load(self, key: str, default: Any = MISS) -> Any:
        """As `StoreBackedCache.load`."""
        return await self._call(self._backed.load, key, default)

    async def load_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """As `StoreBackedCache.load_many`."""
        return await self._call(self._backed.load_many, list(keys))

    async def put(self, key: str, value: Any) -> None:
        """As `StoreBackedCache.put`."""
        await self._call(self._backed.put, key, value)

    async def put_many(self, items: Mapping[str, Any]) -> None:
        """As `StoreBackedCache.put_many`."""
        await self._call(self._backed.put_many, dict(items))

    async def delete(self, key: str) -> None:
        """As `StoreBackedCache.delete`."""
        await self._call(self._backed.delete, key)

    async def delete_many(self, keys: Iterable[str]) -> None:
        """As `StoreBackedCache.delete_many`."""
        await self._call(self._backed.delete_many, list(keys))

    async def flush(self, deadline_s: float = 30.0) -> bool:
        """As `StoreBackedCache.flush`."""
        return await self._call(self._backed.flush, deadline_s)

    async def stats(self) -> dict[str, Any]:
        """As `StoreBackedCache.stats`."""
        return await self._call(self._backed.stats)

    async def close(self, deadline_s: float = 5.0) -> None:
        """As `StoreBackedCache.close`; calls that are under way end first."""
        await self._call(self._backed.close, deadline_s)
        self._threads.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
