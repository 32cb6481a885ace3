"""A cache in front of a store, kept together by one of the five strategies.

| strategy      | a get that misses          | a put                                    |
|---------------|----------------------------|------------------------------------------|
| CACHE_ASIDE   | a miss; `load` brings it   | the store, then the cache forgets the key |
| READ_THROUGH  | loads, under a fill lease  | the store, then the cache forgets the key |
| WRITE_THROUGH | loads                      | the store, then the cache, under a fill lease |
| WRITE_BEHIND  | loads                      | a queue on disk and the cache; the store later |
| REFRESH_AHEAD | loads, and loads again before what is read often expires | as WRITE_THROUGH |

Invariants: what a get returns is at least as new, in the order of the store, as what any put had stored that had
returned when the get began, in whatever process (its near cache lags, as ever): loads and puts go through fill leases
(core/through.py), and where the cache does not take a new value, its old one is invalidated, and that it could not be
is raised. With WRITE_BEHIND this holds within its process, where the queue is read before the store.

Changes of one key by threads of a process follow each other, in the store and in the cache. Of processes that change
one key at the same moment none leaves its value in the cache; the next load brings the store's. A queue is its own
process's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from stratacache.client.base import Cache, Fill, Ttl
from stratacache.client.core.request import distinct_keys
from stratacache.client.strategies.flusher import Flusher
from stratacache.client.strategies.refresher import Refresher
from stratacache.client.strategies.store import BackingStore
from stratacache.client.strategies.turns import Turns
from stratacache.client.strategies.write_queue import DELETED, WriteQueue
from stratacache.node.errors import InvalidationIncompleteError, UsageError
from stratacache.node.types import MISS, CacheStrategy

_WRITES_CACHE = (CacheStrategy.WRITE_THROUGH, CacheStrategy.WRITE_BEHIND, CacheStrategy.REFRESH_AHEAD)


def _distinct(keys: Iterable[str]) -> list[str]:
    """The keys without repeats; raises UsageError for a single one, and for keys that are no text: stores want that."""
    wanted = distinct_keys(keys)
    for key in wanted:
        if not isinstance(key, str):
            raise UsageError(f"key {key!r:.80} is a {type(key).__name__}; keys of a store are text")
    return wanted


class StoreBackedCache:
    """`cache` in front of `store`. Thread-safe.

    `ttl` and `tags` go with everything that is put into the cache. `queue_dir` is where WRITE_BEHIND keeps what is not
    stored yet; it is read again after a crash. `refresh_share` is for REFRESH_AHEAD: a value that is read in the last
    part of its life (0.2: the last fifth) is loaded anew in the background.
    """

    def __init__(
        self,
        cache: Cache,
        store: BackingStore,
        strategy: CacheStrategy = CacheStrategy.READ_THROUGH,
        *,
        ttl: Ttl = None,
        tags: Iterable[str] = (),
        queue_dir: str | os.PathLike[str] | None = None,
        queue_entries_max: int = 100_000,
        queue_bytes_max: int = 256 << 20,
        refresh_share: float = 0.2,
        clock: Callable[[], float] = time.monotonic,
        seed: int | None = None,
    ) -> None:
        self.strategy = CacheStrategy(strategy)
        self._cache = cache
        self._store = store
        self._ttl = ttl
        self._tags = tuple(tags)
        self._turns = Turns()
        self._queue: WriteQueue | None = None
        self._flusher: Flusher | None = None
        self._refresher: Refresher | None = None
        if self.strategy is CacheStrategy.WRITE_BEHIND:
            if queue_dir is None:
                raise UsageError("WRITE_BEHIND needs queue_dir: where what is not stored yet survives a crash")
            self._queue = WriteQueue(queue_dir, entries_max=queue_entries_max, bytes_max=queue_bytes_max)
            self._flusher = Flusher(self._queue, store, seed=seed)
            if len(self._queue):
                self._flusher.wake()
        if self.strategy is CacheStrategy.REFRESH_AHEAD:
            if ttl is None:
                raise UsageError("REFRESH_AHEAD needs ttl: without an expiry there is nothing to be ahead of")
            self._refresher = Refresher(cache, ttl, refresh_share, self._reload, clock)

    def get(self, key: str, default: Any = MISS) -> Any:
        """The value of a key, or `default` when neither cache nor store has it. Raises what the store raises."""
        return self.get_many([key]).get(key, default)

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of those keys that the cache or the store has; one call of the store for what is missing."""
        wanted = _distinct(keys)
        if self.strategy is CacheStrategy.CACHE_ASIDE:
            return self._cache.get_many(wanted)
        found = self.load_many(wanted)
        if self._refresher is not None:
            self._refresher.was_read(found)
        return found

    def load(self, key: str, default: Any = MISS) -> Any:
        """As `get`, and always from the store when the cache misses."""
        return self.load_many([key]).get(key, default)

    def load_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """As `get_many`, and always from the store when the cache misses."""
        found = self._cache.get_or_compute_many(_distinct(keys), self._fill, ttl=self._ttl, tags=self._tags)
        return {key: value for key, value in found.items() if value is not MISS}

    def put(self, key: str, value: Any) -> None:
        """Store a value. See `put_many`."""
        self.put_many({key: value})

    def put_many(self, items: Mapping[str, Any]) -> None:
        """Store values; when this returns they are in the store, or with WRITE_BEHIND in the queue on disk.

        Raises what the store raises (whether it took them is not known then: the cache has forgotten them), UsageError
        for what can't be cached, LimitError when the queue is full (in both cases nothing was changed), and
        InvalidationIncompleteError when an old value may still be served.
        """
        items = dict(items)
        _distinct(items)
        with self._turns.of(items):
            through = getattr(self._cache, "put_through", None)
            if self.strategy not in _WRITES_CACHE or through is None:
                self._change(lambda: self._store_many(items), items)
                return
            stored = through(items, lambda: self._store_many(items), ttl=self._ttl, tags=self._tags)
            if self._refresher is not None:
                self._refresher.was_put(stored)

    def _store_many(self, items: Mapping[str, Any]) -> None:
        if self._queue is not None:
            self._queue.add(items)
            self._wake()
        else:
            self._store.store_many(items)

    def _change(self, change: Callable[[], None], keys: Iterable[str]) -> None:
        """Change the store, then have the cache forget the keys, also where it is not known whether the store did."""
        try:
            change()
        except UsageError:
            raise
        except BaseException:
            with suppress(InvalidationIncompleteError):  # it goes on being tried; the caller hears of the store
                self._cache.invalidate_many(keys)
            raise
        self._cache.invalidate_many(keys)

    def delete(self, key: str) -> None:
        """Delete a key from the store and the cache."""
        self.delete_many([key])

    def delete_many(self, keys: Iterable[str]) -> None:
        """Delete keys from the store (with WRITE_BEHIND: later) and from the cache (now)."""
        wanted = _distinct(keys)
        with self._turns.of(wanted):
            if self._queue is None:
                self._change(lambda: self._store.delete_many(wanted), wanted)
            else:
                self._change(lambda: self._store_many(dict.fromkeys(wanted, DELETED)), wanted)

    def flush(self, deadline_s: float = 30.0) -> bool:
        """Wait until everything that was put is in the store; False when the deadline came first."""
        return self._flusher is None or self._flusher.wait_empty(deadline_s)

    def stats(self) -> dict[str, Any]:
        """The cache's stats, and under `store` how writing behind and refreshing ahead stand."""
        store: dict[str, Any] = {"strategy": self.strategy.value}
        if self._flusher is not None:
            store.update(self._flusher.report())
        if self._refresher is not None:
            store.update(self._refresher.report())
        return {**self._cache.stats(), "store": store}

    def close(self, deadline_s: float = 5.0) -> None:
        """Flush within the deadline and end the threads. What could not be flushed stays in `queue_dir`.

        The cache and the store stay open: they were handed in.
        """
        if self._flusher is not None and self._queue is not None:
            self.flush(deadline_s)
            self._flusher.close()
            self._queue.close()
        if self._refresher is not None:
            self._refresher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wake(self) -> None:
        if self._flusher is not None:
            self._flusher.wake()

    def _fill(self, keys: list[str]) -> dict[str, Fill[Any]]:
        """What the store, or the queue before it, has of these keys; what is absent is handed out but not cached."""
        started = time.perf_counter()
        waiting = self._queue.waiting(keys) if self._queue is not None else {}
        rest = [key for key in keys if key not in waiting]
        found = {**(self._store.load_many(rest) if rest else {}), **waiting}
        cost_s = (time.perf_counter() - started) / max(1, len(keys))
        fills = {}
        for key in keys:
            value = found.get(key, MISS)
            absent = value is MISS or value is DELETED
            fills[key] = Fill(value=MISS if absent else value, store=not absent, cost_s=cost_s)
        return fills

    def _reload(self, key: str) -> None:
        """Load one key anew under a lease, whether it is cached or not."""
        self._cache.get_or_compute(key, lambda: self._fill([key])[key], ttl=self._ttl, tags=self._tags, refresh=True)
