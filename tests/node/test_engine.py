"""The engine as its callers see it, on L1 alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stratacache.node.clock import ManualClock
from stratacache.node.config import NodeConfig
from stratacache.node.engine import MultiLevelCache
from stratacache.node.entry import ENTRY_BYTES, NEVER_MS, Entry, charged_bytes
from stratacache.node.errors import LimitError, UsageError
from stratacache.node.types import EvictionPolicy, RemovalCause

from .disk_world import payload

Make = Callable[..., MultiLevelCache]


def test_put_then_get_gives_the_entry_with_all_it_carries(engine: MultiLevelCache) -> None:
    """TTL, tags, cost, codec, version and metadata travel with the entry."""
    expires_ms = engine.now_ms() + 1000
    assert engine.put(b"docs:a", b"x" * 10, expires_ms=expires_ms, tags=(b"t",), cost_s=2.5, codec=3, metadata=b"m")
    entry = engine.get(b"docs:a")
    assert isinstance(entry, Entry)
    assert (entry.payload, entry.tags, entry.cost_s, entry.codec) == (b"x" * 10, (b"t",), 2.5, 3)
    assert (entry.expires_ms, entry.metadata, entry.namespace.name) == (expires_ms, b"m", b"docs")
    assert entry.size == len(b"docs:a") + charged_bytes(10) + 1 + ENTRY_BYTES
    assert entry.build_frame() == b"$10\r\nxxxxxxxxxx\r\n"
    assert entry.payload == b"x" * 10


def test_versions_grow_with_every_put(engine: MultiLevelCache) -> None:
    """Every put has a greater version than the one before, and invalidations share the sequence."""
    engine.put(b"a", b"1")
    first = engine.table[b"a"].version
    engine.remove(b"b")
    engine.put(b"a", b"2")
    assert engine.table[b"a"].version == first + 2


def test_seed_defect_expired_read_leaves_the_hit_ratio_stale(engine: MultiLevelCache, clock: ManualClock) -> None:
    """An expired read counts as a miss at once: the hit ratio is right at every moment."""
    engine.put(b"a", b"1", expires_ms=engine.now_ms() + 10)
    assert payload(engine, b"a") == b"1"
    clock.advance(10)
    assert payload(engine, b"a") is None
    stats = engine.stats()
    assert (stats["hits"], stats["misses"], stats["hit_ratio"]) == (1, 1, 0.5)
    assert stats["removed"]["expired"] == 1


def test_active_expiry_frees_memory_without_reads(engine: MultiLevelCache, clock: ManualClock) -> None:
    """Dead entries do not hold memory until somebody reads them."""
    for number in range(500):
        engine.put(b"k%d" % number, b"v", expires_ms=engine.now_ms() + 10)
    clock.advance(11)
    engine.tick()
    assert len(engine.table) == 0
    assert engine.l1.counters.removed[RemovalCause.EXPIRED] == 500


def test_seed_defect_overwriting_at_capacity_evicts_another(make_engine: Make) -> None:
    """Seed defect: overwriting a key of a full cache evicted another key."""
    engine = make_engine(l1_entries_max=3)
    for key in (b"a", b"b", b"c", b"a", b"b", b"c"):
        engine.put(key, b"v")
    assert sorted(engine.table) == [b"a", b"b", b"c"]
    assert engine.l1.counters.removed[RemovalCause.EVICTED] == 0
    assert engine.l1.counters.removed_by(RemovalCause.REPLACED) == 3


def test_lru_evicts_what_was_read_longest_ago(make_engine: Make) -> None:
    """Hits count for the policy before the next eviction, although they are told in bulk."""
    engine = make_engine(l1_entries_max=3)
    for key in (b"a", b"b", b"c"):
        engine.put(key, b"v")
    engine.get(b"a")
    engine.put(b"d", b"v")
    assert sorted(engine.table) == [b"a", b"c", b"d"]


def test_bytes_never_exceed_the_budget(make_engine: Make) -> None:
    """Used bytes stay within the budget after every put, with tags and overwrites in the mix."""
    engine = make_engine(l1_bytes_max=20_000)
    for number in range(300):
        engine.put(b"k%d" % (number % 70), b"v" * (number * 37 % 3000), tags=(b"t%d" % (number % 9),))
        assert engine.l1.bytes_used + engine.groups.bytes_used <= 20_000
        engine.validate()


def test_value_larger_than_every_level_is_refused_and_the_old_one_is_gone(make_engine: Make) -> None:
    """A refused put must not leave the value before it to be served."""
    engine = make_engine(l1_bytes_max=2000)
    engine.put(b"a", b"old")
    assert engine.put(b"a", b"x" * 3000) is False
    assert payload(engine, b"a") is None


@pytest.mark.parametrize("bad", [{"key": b""}, {"key": b"k" * 65537}, {"payload": b"x" * 2001}])
def test_past_a_limit_is_a_clear_error(make_engine: Make, bad: dict[str, bytes]) -> None:
    """One past a limit names the limit; nothing was changed."""
    engine = make_engine(value_bytes_max=2000)
    with pytest.raises(LimitError, match=r"limit|empty"):
        engine.put(bad.get("key", b"a"), bad.get("payload", b"v"))
    assert len(engine) == 0


@pytest.mark.parametrize("key", [b"k", b"k" * 65536])
@pytest.mark.parametrize("size", [0, 1, 2000])
def test_at_the_limits_everything_works(make_engine: Make, key: bytes, size: int) -> None:
    """Zero-length values, 1-byte keys, and sizes at the limit."""
    engine = make_engine(value_bytes_max=2000)
    assert engine.put(key, b"v" * size)
    assert payload(engine, key) == b"v" * size


@pytest.mark.parametrize("tags", [("text",), (b"",), (b"t" * 1025,), tuple(b"t%d" % i for i in range(65)), (5,)])
def test_bad_tags_are_refused(engine: MultiLevelCache, tags: tuple[bytes, ...]) -> None:
    """Tags that are no bytes, empty, too long or too many are the caller's error."""
    with pytest.raises(UsageError, match="tag"):
        engine.put(b"a", b"v", tags=tags)
    assert len(engine) == 0


@pytest.mark.parametrize(
    "bad",
    [
        {"cost_s": float("nan")},
        {"cost_s": float("inf")},
        {"cost_s": 1e308},
        {"cost_s": -1.0},
        {"codec": -1},
        {"codec": 1 << 16},
        {"expires_ms": 1 << 62},
    ],
)
@pytest.mark.parametrize("policy", [EvictionPolicy.LRU, EvictionPolicy.INTELLIGENT])
def test_what_no_policy_or_record_can_hold_is_refused_whole(
    make_engine: Make, tmp_path: Path, policy: EvictionPolicy, bad: dict[str, Any]
) -> None:
    """It must neither break a put half way, nor be found out by the disk, which would be given up for it."""
    engine = make_engine(
        policy=policy, l1_bytes_max=5000, l2_bytes_max=5000, l3_bytes_max=1 << 24, data_dir=tmp_path / "l3"
    )
    for number in range(40):
        with pytest.raises(UsageError, match=next(iter(bad))):
            engine.put(b"bad%d" % number, b"v" * 300, **bad)
        engine.put(b"good%d" % number, b"v" * 300, cost_s=1e9, codec=0xFFFF, expires_ms=NEVER_MS - 1)
        engine.validate()
    assert engine.l3 is not None
    engine.flush()
    assert engine.l3.write_out(10.0)
    assert engine.l3.on


def test_negative_ttl_is_refused(engine: MultiLevelCache) -> None:
    """An expiry before the epoch can only be a mistake."""
    with pytest.raises(UsageError, match="expires_ms=-5"):
        engine.put(b"a", b"v", expires_ms=-5)


def test_invalidate_tags_reaches_exactly_the_entries_with_the_tag(engine: MultiLevelCache) -> None:
    """Effective when acknowledged; counted; the memory follows in slices."""
    for number in range(1000):
        tags = (b"even",) if number % 2 == 0 else (b"odd", b"n%d" % number)
        engine.put(b"k%d" % number, b"v", tags=tags)
    assert engine.invalidate_tags((b"even", b"n1")) == 501
    assert len(engine) == 499
    assert payload(engine, b"k0") is None
    assert payload(engine, b"k1") is None
    assert payload(engine, b"k3") == b"v"
    engine.put(b"k2", b"new", tags=(b"even",))
    engine.tick()
    assert payload(engine, b"k2") == b"new"
    assert len(engine.table) == len(engine) == 500
    assert engine.l1.counters.removed[RemovalCause.INVALIDATED] == 501


def test_invalidate_namespace_and_clear(engine: MultiLevelCache) -> None:
    """A namespace goes alone; clear takes all."""
    engine.put(b"a", b"v")
    engine.put(b"docs:a", b"v")
    engine.put(b"docs:b", b"v", tags=(b"t",))
    assert engine.invalidate_namespace(b"docs") == 2
    assert engine.invalidate_namespace(b"none") == 0
    assert payload(engine, b"docs:b") is None
    assert payload(engine, b"a") == b"v"
    assert engine.clear() == 1
    assert len(engine) == 0


def test_scan_lists_every_key_that_stays(engine: MultiLevelCache) -> None:
    """Keys that are there during the whole scan are listed, while others come and go."""
    for number in range(2000):
        engine.put(b"k%d" % number, b"v", tags=(b"t%d" % (number % 5),))
    seen: set[bytes] = set()
    cursor = 0
    step = 0
    while True:
        cursor, keys = engine.scan(cursor, 100)
        seen.update(keys)
        engine.remove(b"k%d" % (1000 + step))
        engine.put(b"new%d" % step, b"v")
        step += 1
        if cursor == 0:
            break
    assert {b"k%d" % number for number in range(1000)} <= seen


def test_listener_hears_changes_with_a_sequence_without_gaps(engine: MultiLevelCache) -> None:
    """Near caches are told of puts and invalidations, not of evictions."""
    heard: list[tuple[str, tuple[bytes, ...], RemovalCause, int]] = []

    class Ear:
        def changed(self, kind: str, names: object, cause: RemovalCause, seq: int) -> None:
            assert isinstance(names, tuple)
            heard.append((kind, names, cause, seq))

    engine.listener = Ear()
    start = engine.inv_seq
    engine.put(b"a", b"v")
    engine.remove(b"a")
    engine.invalidate_tags((b"t",))
    engine.invalidate_namespace(b"docs")
    engine.clear()
    assert [(kind, names) for kind, names, _, _ in heard] == [
        ("keys", (b"a",)),
        ("keys", (b"a",)),
        ("tags", (b"t",)),
        ("namespace", (b"docs",)),
        ("all", ()),
    ]
    assert [seq for *_, seq in heard] == list(range(start + 1, start + 6))


@pytest.mark.parametrize(
    "options",
    [
        {"l1_bytes_max": 100},
        {"l1_entries_max": 0},
        {"policy": "lru"},
        {"l3_write_mode": "x"},
        {"l3_bytes_max": 1 << 20},
        {"value_bytes_max": 1 << 40},
        {"l2_bytes_max": -1},
    ],
)
def test_bad_configuration_names_the_option(options: dict[str, object]) -> None:
    """A wrong option is refused with its name in the message."""
    with pytest.raises(UsageError, match=next(iter(options))):
        NodeConfig(**options).validate()  # type: ignore[arg-type]


def test_gone_hears_of_evictions_and_expiries(make_engine: Make, clock: ManualClock) -> None:
    """Whoever tracks keys is told when they leave on their own, not when they are invalidated or replaced."""
    engine = make_engine(l1_entries_max=1)
    heard: list[tuple[bytes, RemovalCause]] = []
    engine.residents.gone = lambda key, cause: heard.append((key, cause))
    engine.put(b"a", b"1")
    engine.put(b"b", b"2", expires_ms=engine.now_ms() + 10)
    clock.advance(10)
    engine.get(b"b")
    engine.put(b"c", b"3")
    engine.put(b"c", b"4")
    engine.remove(b"c")
    assert heard == [(b"a", RemovalCause.EVICTED), (b"b", RemovalCause.EXPIRED)]
