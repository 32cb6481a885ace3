"""CacheManager: the seed's small cache, with its defects mended."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratacache.node.clock import ManualClock
from stratacache.node.engine import MultiLevelCache
from stratacache.node.errors import LimitError, UsageError
from stratacache.node.friendly import FriendlyCache
from stratacache.node.manager import CacheEntry, CacheManager
from stratacache.node.types import MISS, AIOperation, CacheLevel, CacheStrategy, EvictionPolicy


@pytest.fixture
def manager(clock: ManualClock) -> CacheManager:
    """A manager of ten entries."""
    return CacheManager(10, clock=clock)


def test_seed_defect_a_cached_none_reads_as_a_miss(manager: CacheManager) -> None:
    """A cached None is a hit; a miss is MISS or the caller's default."""
    manager.put("a", None)
    assert manager.get("a") is None
    assert manager.get("b") is MISS
    assert manager.get("b", default=5) == 5
    assert (manager.statistics.hits, manager.statistics.misses) == (1, 2)


def test_seed_defect_counts_entries_not_bytes(clock: ManualClock) -> None:
    """A budget in bytes is kept at every moment."""
    manager = CacheManager(None, bytes_max=100, clock=clock)
    for number in range(50):
        manager.put(f"k{number}", "x" * (number % 40))
        assert manager.statistics.total_size <= 100
        manager.validate()
    assert manager.put("big", "x" * 101) is False
    assert manager.get("big") is MISS


def test_seed_defect_pickles_every_value_to_size_it(clock: ManualClock) -> None:
    """Sizes are exact or handed in: a value that can't be pickled is no problem."""

    class Unpicklable:
        def __reduce__(self) -> str:
            raise AssertionError("pickled")

    manager = CacheManager(None, bytes_max=100, clock=clock)
    manager.put("a", Unpicklable(), size_bytes=60)
    manager.put("b", "äöü")
    assert manager.statistics.total_size == 66
    with pytest.raises(LimitError, match="size_bytes"):
        manager.put("c", Unpicklable())


def test_seed_defect_entry_is_rebuilt_on_every_get(manager: CacheManager, clock: ManualClock) -> None:
    """A read updates the entry in place; age and rate come from it."""
    manager.put("a", "v", ttl=timedelta(hours=2))
    entry = manager._table["default", "a"]
    clock.advance(1_800_000)
    manager.get("a")
    manager.get("a")
    assert manager._table["default", "a"] is entry
    now_ms = clock.now_ms()
    assert (entry.access_count, entry.last_accessed_ms) == (2, now_ms)
    assert entry.calculate_age(now_ms) == timedelta(minutes=30)
    assert entry.get_access_rate(now_ms) == 4.0
    assert not entry.is_expired(now_ms)
    assert entry.is_expired(now_ms + 5_400_000)


def test_access_rate_without_age_is_the_count() -> None:
    """No division by zero for an entry that was just put."""
    entry = CacheEntry(("default", "a"), 1, 1, now_ms=5)
    entry.access_count = 3
    assert entry.get_access_rate(5) == 3.0


def test_seed_defect_expired_read_leaves_the_hit_ratio_stale(manager: CacheManager, clock: ManualClock) -> None:
    """The hit ratio is right after every read."""
    manager.put("a", 1, ttl=timedelta(seconds=1))
    manager.get("a")
    clock.advance(1000)
    assert manager.get("a") is MISS
    assert manager.statistics.hit_ratio == 0.5
    assert manager.statistics.expirations == 1
    assert len(manager) == 0


def test_seed_defect_namespace_hits_and_misses_never_counted(manager: CacheManager) -> None:
    """Namespaces have their own figures, memory and access time included."""
    manager.put("a", "xyz", namespace="docs")
    manager.get("a", "docs")
    manager.get("b", "docs")
    summary = manager.get_statistics()["namespace_stats"]["docs"]
    assert (summary["hits"], summary["misses"], summary["hit_ratio"]) == (1, 1, 0.5)
    assert (summary["memory_usage"], summary["entry_count"]) == (3, 1)


@pytest.mark.parametrize("policy", list(EvictionPolicy), ids=lambda policy: policy.name)
def test_seed_defect_overwriting_at_capacity_evicts_another(policy: EvictionPolicy, clock: ManualClock) -> None:
    """An overwrite of a full cache evicts nobody, under any policy."""
    manager = CacheManager(3, policy, clock=clock)
    for key in ("a", "b", "c", "b", "a", "c"):
        manager.put(key, key)
    assert {key: manager.get(key) for key in "abc"} == {"a": "a", "b": "b", "c": "c"}
    assert manager.statistics.evictions == 0
    manager.put("d", "d")
    assert manager.statistics.evictions == 1
    manager.validate()


def test_tags_and_namespaces_are_invalidated(manager: CacheManager) -> None:
    """Each reaches exactly its own."""
    manager.put("a", 1, tags={"t", "u"})
    manager.put("b", 2, tags=["u"], namespace="docs")
    manager.put("c", 3, namespace="docs")
    assert manager.invalidate_by_tags({"t", "none"}) == 1
    assert manager.invalidate_namespace("docs") == 2
    assert manager.invalidate_namespace("docs") == 0
    assert manager.invalidate("a") is False
    manager.put("a", 1, tags={"t"})
    assert manager.invalidate("a") is True
    manager.put("a", 1)
    manager.clear()
    assert len(manager) == 0
    assert manager.get_statistics()["cache_stats"]["hits"] == 0
    manager.validate()


@pytest.mark.parametrize("bad", [{"cost_s": float("nan")}, {"cost_s": 1e308}, {"cost_s": -1.0}, {"size_bytes": -1}])
def test_a_bad_cost_or_size_breaks_no_put_half_way(clock: ManualClock, bad: dict[str, Any]) -> None:
    """Nothing is counted of what is refused."""
    manager = CacheManager(5, EvictionPolicy.INTELLIGENT, bytes_max=100, clock=clock)
    for number in range(50):
        with pytest.raises(UsageError, match=next(iter(bad))):
            manager.put(f"bad{number}", "v", **bad)
        assert manager.put(f"good{number}", "v" * 30)
        manager.validate()


def test_tags_from_a_generator_count(make_engine: Callable[..., MultiLevelCache]) -> None:
    """It gives each tag once: an invalidation that lost them would be acknowledged and reach nothing."""
    engine = make_engine()
    friendly = FriendlyCache(engine)
    friendly.put("a", "1", tags=(tag for tag in ("red", "blue")))
    assert engine.invalidate_by_tags(tag for tag in ("green", "red")) == 1
    assert friendly.get("a") is None


def test_bad_input_is_refused(manager: CacheManager) -> None:
    """Negative TTL, tags that are no text, budgets that hold nothing."""
    with pytest.raises(UsageError, match="not positive"):
        manager.put("a", 1, ttl=timedelta(seconds=-1))
    with pytest.raises(UsageError, match="tag"):
        manager.put("a", 1, tags=[5])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="max_size=0"):
        CacheManager(0)


@given(st.lists(st.tuples(st.sampled_from("pgitn"), st.sampled_from("abcdef"), st.integers(0, 30)), max_size=60))
def test_manager_agrees_with_a_dictionary(steps: list[tuple[str, str, int]]) -> None:
    """Whatever is done, the value is the last one put, or a miss."""
    manager = CacheManager(4, bytes_max=50, clock=ManualClock())
    model: dict[str, str] = {}
    for step, key, size in steps:
        if step == "p":
            model[key] = "x" * size
            manager.put(key, model[key], tags={f"t{size % 3}"}, namespace="n" if key < "c" else "m")
        elif step == "g":
            value = manager.get(key, "n" if key < "c" else "m")
            assert value is MISS or value == model[key]
        elif step == "i":
            manager.invalidate(key, "n" if key < "c" else "m")
            model.pop(key, None)
        elif step == "t":
            manager.invalidate_by_tags({f"t{size % 3}"})
            model = {name: value for name, value in model.items() if len(value) % 3 != size % 3}
        else:
            manager.invalidate_namespace("n")
            model = {name: value for name, value in model.items() if name >= "c"}
        manager.validate()


def test_the_seed_names_work_on_the_engine(make_engine: Callable[..., MultiLevelCache]) -> None:
    """Text keys, timedelta and text tags, with the names that users of the seed know."""
    engine = make_engine(l2_bytes_max=1 << 20)
    cache = FriendlyCache(engine)
    assert cache.put("a", "text", ttl=timedelta(hours=1), namespace="docs", tags={"t"})
    assert cache.get("a", "docs") == b"text"
    assert cache.put("b", b"bytes")
    assert cache.get("b") == b"bytes"
    assert engine.invalidate_by_tags({"t"}) == 1
    assert cache.get("a", "docs") is None
    assert engine.invalidate("b") is True
    assert cache.invalidate_namespace("docs") == 0
    assert cache.clear() == 0
    assert engine.get_statistics()["hits"] == 2
    everything = engine.get_comprehensive_statistics()
    assert everything["compression_enabled"] is True
    assert everything["disk_cache_enabled"] is False
    with pytest.raises(UsageError, match="one str"):
        cache.invalidate_by_tags("tag")
    with pytest.raises(UsageError, match="not positive"):
        cache.put("a", b"v", ttl=timedelta(seconds=-5))


def test_seed_defect_file_names_made_from_keys(make_engine: Callable[..., MultiLevelCache], tmp_path: object) -> None:
    """A key that looks like a path names no file: it is data."""
    from pathlib import Path

    directory = Path(str(tmp_path)) / "data"
    engine = make_engine(l3_bytes_max=1 << 20, data_dir=directory)
    cache = FriendlyCache(engine)
    cache.put("../../escaped", b"v", namespace="..")
    engine.close()
    assert sorted(path.name for path in directory.parent.rglob("*") if "escaped" in path.name) == []
    again = make_engine(l3_bytes_max=1 << 20, data_dir=directory)
    assert FriendlyCache(again).get("../../escaped", "..") == b"v"


def test_the_words_of_the_seed_exist() -> None:
    """Levels, policies, strategies and operations with their default TTLs."""
    assert [level.name for level in CacheLevel] == ["L1_MEMORY", "L2_COMPRESSED", "L3_DISK", "L4_DISTRIBUTED"]
    assert {policy.name for policy in EvictionPolicy} == {"LRU", "LFU", "TTL", "SIZE_BASED", "INTELLIGENT", "FIFO"}
    assert len(CacheStrategy) == 5
    hours = {operation.name: operation.default_ttl / timedelta(hours=1) for operation in AIOperation}
    assert hours["ANALYZE"] == 6
    assert hours["GENERATE"] == 2
    assert hours["CLASSIFY"] == 12
    assert hours["EXTRACT"] == 8
    assert hours["SUMMARIZE"] == 4
    assert hours["TRANSLATE"] == hours["EMBED"] == 24
    assert hours["RERANK"] == 4


@pytest.mark.parametrize(("kind", "known"), [(EvictionPolicy, "size_based"), (CacheLevel, "l4_distributed")])
def test_unknown_policy_or_level_name_is_refused(kind: type[EvictionPolicy | CacheLevel], known: str) -> None:
    """The error names what was given and what there is."""
    with pytest.raises(UsageError, match=rf"unknown {kind.__name__} 'clock': .*{known}"):
        kind("clock")
