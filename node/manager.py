"""One bounded level in a process: any Python values, any policy, safe to use from several threads.

This is the small cache, for values that stay objects; `MultiLevelCache` (engine.py) is the large one, for bytes.

Invariants: `entry_count` and `total_size` are those of the live table at every moment and never exceed the budgets;
an expired value is never given; a cached None is a hit; entries are changed in place, never rebuilt by a read.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from .clock import Clock, NodeClock
from .entry import NEVER_MS
from .errors import LimitError, UsageError
from .limits import check_cost
from .policies import make_policy
from .policies.base import Evictable
from .stats import ratio
from .types import MISS, EvictionPolicy

if TYPE_CHECKING:
    from collections.abc import Iterable

HOUR_MS: Final = 3_600_000


class CacheEntry(Evictable):
    """One value of a CacheManager, with what is known about it. Times are milliseconds of the manager's clock."""

    __slots__ = ("access_count", "created_ms", "full_key", "last_accessed_ms", "metadata", "namespace", "tags", "value")

    def __init__(
        self,
        full_key: tuple[str, str],
        value: Any,
        size_bytes: int,
        *,
        now_ms: int,
        ttl: timedelta | None = None,
        tags: frozenset[str] = frozenset(),
        cost_s: float = 1.0,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self.key = full_key[1].encode()
        self.size = size_bytes
        self.cost_s = cost_s
        self.expires_ms = NEVER_MS if ttl is None else now_ms + round(ttl.total_seconds() * 1000)
        self.stamp = 0
        self.order = self.link = None
        self.full_key = full_key
        self.namespace = full_key[0]
        self.value = value
        self.created_ms = self.last_accessed_ms = now_ms
        self.access_count = 0
        self.tags = tags
        self.metadata = metadata or {}

    @property
    def size_bytes(self) -> int:
        """Bytes charged against the budget."""
        return self.size

    def is_expired(self, now_ms: int) -> bool:
        """Whether its TTL has passed."""
        return self.expires_ms <= now_ms

    def calculate_age(self, now_ms: int) -> timedelta:
        """Time since it was put."""
        return timedelta(milliseconds=now_ms - self.created_ms)

    def get_access_rate(self, now_ms: int) -> float:
        """Reads per hour since it was put; the plain count while no time has passed."""
        age_ms = now_ms - self.created_ms
        return self.access_count * HOUR_MS / age_ms if age_ms > 0 else float(self.access_count)


@dataclass(slots=True)
class CacheStatistics:
    """Counters of a cache or of one of its namespaces; `hit_ratio` and the mean are computed when asked for."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    expirations: int = 0
    total_size: int = 0
    entry_count: int = 0
    disk_usage: int = 0
    timed_accesses: int = 0
    timed_ns: int = 0

    @property
    def hit_ratio(self) -> float:
        """Hits by requests, right at every moment."""
        return ratio(self.hits, self.misses)

    @property
    def memory_usage(self) -> int:
        """Bytes held in memory."""
        return self.total_size

    @property
    def average_access_time(self) -> float:
        """Mean seconds of a get."""
        return self.timed_ns / self.timed_accesses / 1e9 if self.timed_accesses else 0.0

    def get_summary(self) -> dict[str, Any]:
        """All figures as plain numbers."""
        return {
            "hits": self.hits,
            "misses": self.misses,
            "evictions": self.evictions,
            "expirations": self.expirations,
            "total_size": self.total_size,
            "entry_count": self.entry_count,
            "hit_ratio": self.hit_ratio,
            "average_access_time": self.average_access_time,
            "memory_usage": self.memory_usage,
            "disk_usage": self.disk_usage,
        }


@dataclass(slots=True)
class _Space:
    statistics: CacheStatistics = field(default_factory=CacheStatistics)
    entries: set[CacheEntry] = field(default_factory=set)


class CacheManager:
    """A bounded level with an eviction policy.

    `max_size`: entries, None for no limit. `bytes_max`: bytes, None for no limit; then every value needs a size: bytes,
    str and what has `nbytes` are measured exactly, for others hand in `size_bytes`.
    """

    def __init__(
        self,
        max_size: int | None = 1000,
        eviction_policy: EvictionPolicy = EvictionPolicy.LRU,
        *,
        bytes_max: int | None = None,
        clock: Clock | None = None,
        seed: int = 0,
    ) -> None:
        for name, limit in (("max_size", max_size), ("bytes_max", bytes_max)):
            if limit is not None and limit < 1:
                raise UsageError(f"{name}={limit} can't hold one entry: give at least 1, or None for no limit")
        self.max_size = max_size
        self.bytes_max = bytes_max
        self.eviction_policy = eviction_policy
        self._policy = make_policy(eviction_policy, seed=seed, entries_hint=max_size or 65536)
        self._clock = clock or NodeClock()
        self._lock = threading.RLock()
        self._table: dict[tuple[str, str], CacheEntry] = {}
        self._tags: dict[str, set[CacheEntry]] = {}
        self._spaces: dict[str, _Space] = {}
        self.statistics = CacheStatistics()

    def __len__(self) -> int:
        return len(self._table)

    def get(self, key: str, namespace: str = "default", *, default: Any = MISS) -> Any:
        """Give the live value, or `default`. A cached None is given as None, a miss as MISS."""
        with self._lock:
            start_ns = self._clock.perf_ns()
            now_ms = self._clock.now_ms()
            entry = self._table.get((namespace, key))
            if entry is not None and entry.is_expired(now_ms):
                self._drop(entry)
                self.statistics.expirations += 1
                entry = None
            space = self._spaces.get(namespace)
            for statistics in (self.statistics, space.statistics) if space else (self.statistics,):
                statistics.hits += entry is not None
                statistics.misses += entry is None
                statistics.timed_accesses += 1
                statistics.timed_ns += self._clock.perf_ns() - start_ns
            if entry is None:
                return default
            entry.access_count += 1
            entry.last_accessed_ms = now_ms
            self._policy.on_hits((entry,))
            return entry.value

    def put(
        self,
        key: str,
        value: Any,
        ttl: timedelta | None = None,
        namespace: str = "default",
        tags: Iterable[str] | None = None,
        *,
        size_bytes: int | None = None,
        cost_s: float = 1.0,
        metadata: dict[str, Any] | None = None,
    ) -> bool:
        """Store a value; False when it is larger than the whole budget (what was there before is gone then)."""
        if ttl is not None and ttl <= timedelta(0):
            raise UsageError(f"ttl={ttl} is not positive: leave it out for no expiry")
        check_cost(cost_s)
        size = self._size_of(value) if size_bytes is None else size_bytes
        if size < 0:
            raise UsageError(f"size_bytes={size} is no size: give the bytes that the value takes, 0 or more")
        own_tags = _checked_tags(tags)
        with self._lock:
            old = self._table.get((namespace, key))
            if old is not None:
                self._drop(old)
            if self.bytes_max is not None and size > self.bytes_max:
                return False
            while self._table and self._is_full(size):
                victim = self._policy.pop_victim()
                assert isinstance(victim, CacheEntry)
                self._forget(victim)
                for statistics in (self.statistics, self._spaces[victim.namespace].statistics):
                    statistics.evictions += 1
            entry = CacheEntry(
                (namespace, key),
                value,
                size,
                now_ms=self._clock.now_ms(),
                ttl=ttl,
                tags=own_tags,
                cost_s=cost_s,
                metadata=metadata,
            )
            self._insert(entry)
            return True

    def invalidate(self, key: str, namespace: str = "default") -> bool:
        """Remove one value; whether it was there."""
        with self._lock:
            entry = self._table.get((namespace, key))
            if entry is not None:
                self._drop(entry)
            return entry is not None

    def invalidate_namespace(self, namespace: str) -> int:
        """Remove all values of a namespace, and its statistics; gives their number."""
        with self._lock:
            space = self._spaces.pop(namespace, None)
            entries = list(space.entries) if space is not None else []
            if space is not None:
                self._spaces[namespace] = space
                for entry in entries:
                    self._drop(entry)
                del self._spaces[namespace]
            return len(entries)

    def invalidate_by_tags(self, tags: Iterable[str]) -> int:
        """Remove all values that carry any of the tags; gives their number. O(entries removed)."""
        with self._lock:
            found = {entry for tag in _checked_tags(tags) for entry in self._tags.get(tag, ())}
            for entry in found:
                self._drop(entry)
            return len(found)

    def clear(self) -> None:
        """Remove everything, statistics included."""
        with self._lock:
            for entry in list(self._table.values()):
                self._drop(entry)
            self._spaces.clear()
            self.statistics = CacheStatistics()

    @property
    def namespace_stats(self) -> dict[str, CacheStatistics]:
        """Statistics by namespace."""
        return {name: space.statistics for name, space in self._spaces.items()}

    def get_statistics(self) -> dict[str, Any]:
        """Statistics of the cache and of each namespace."""
        with self._lock:
            return {
                "cache_stats": self.statistics.get_summary(),
                "namespace_stats": {name: stats.get_summary() for name, stats in self.namespace_stats.items()},
                "cache_size": len(self._table),
                "max_size": self.max_size,
                "bytes_max": self.bytes_max,
                "eviction_policy": self.eviction_policy.value,
            }

    def validate(self) -> None:
        """Check the internals; raises AssertionError with what is wrong. For tests."""
        entries = set(self._table.values())
        assert self.statistics.entry_count == len(entries) == len(self._policy)
        assert self.statistics.total_size == sum(entry.size for entry in entries)
        assert not self._is_full(0) or self.max_size == len(entries) or self.bytes_max == self.statistics.total_size
        assert {entry for space in self._spaces.values() for entry in space.entries} == entries
        for name, space in self._spaces.items():
            assert space.statistics.entry_count == len(space.entries)
            assert space.statistics.total_size == sum(entry.size for entry in space.entries)
            assert all(entry.namespace == name for entry in space.entries)
        for tag, tagged in self._tags.items():
            assert tagged == {entry for entry in entries if tag in entry.tags}
        self._policy.validate()

    def _is_full(self, size: int) -> bool:
        if self.max_size is not None and len(self._table) >= self.max_size:
            return True
        return self.bytes_max is not None and self.statistics.total_size + size > self.bytes_max

    def _size_of(self, value: Any) -> int:
        if isinstance(value, str):
            return len(value.encode())
        if isinstance(value, bytes | bytearray):
            return len(value)
        size = getattr(value, "nbytes", None)
        if isinstance(size, int):
            return size
        if self.bytes_max is None:
            return 0
        raise LimitError(f"size of a {type(value).__name__} is not known: hand in size_bytes, or leave out bytes_max")

    def _insert(self, entry: CacheEntry) -> None:
        self._table[entry.full_key] = entry
        space = self._spaces.setdefault(entry.namespace, _Space())
        space.entries.add(entry)
        for tag in entry.tags:
            self._tags.setdefault(tag, set()).add(entry)
        for statistics in (self.statistics, space.statistics):
            statistics.entry_count += 1
            statistics.total_size += entry.size
        self._policy.on_insert(entry)

    def _drop(self, entry: CacheEntry) -> None:
        self._policy.on_remove(entry)
        self._forget(entry)

    def _forget(self, entry: CacheEntry) -> None:
        del self._table[entry.full_key]
        space = self._spaces[entry.namespace]
        space.entries.discard(entry)
        for tag in entry.tags:
            tagged = self._tags[tag]
            tagged.discard(entry)
            if not tagged:
                del self._tags[tag]
        for statistics in (self.statistics, space.statistics):
            statistics.entry_count -= 1
            statistics.total_size -= entry.size


def _checked_tags(tags: Iterable[str] | None) -> frozenset[str]:
    if tags is None:
        return frozenset()
    found: frozenset[object] = frozenset((tags,) if isinstance(tags, str) else tags)
    for tag in found:
        if not isinstance(tag, str):
            raise UsageError(f"tag {tag!r} is a {type(tag).__name__}: tags are str")
    return frozenset(tag for tag in found if isinstance(tag, str))
