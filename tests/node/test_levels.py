"""L1 and L2: promotion, demotion, and invalidation in every level."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from stratacache.node.engine import MultiLevelCache
from stratacache.node.entry import ENTRY_BYTES, Entry
from stratacache.node.types import EvictionPolicy

from .disk_world import MIB, TEXT, Node, payload, settle


def test_seed_defect_l2_hits_return_compressed_bytes(make_engine: Callable[..., MultiLevelCache]) -> None:
    """Seed defect: a hit in L2 returned compressed bytes."""
    engine = make_engine(l1_entries_max=1, l2_bytes_max=MIB)
    engine.put(b"a", TEXT)
    engine.put(b"b", TEXT)
    assert engine.l2 is not None
    assert engine.l2.table[b"a"].packed
    assert engine.l2.table[b"a"].size < ENTRY_BYTES + 200
    assert payload(engine, b"a") == TEXT
    assert engine.stats()["levels"]["l2_compressed"]["hits"] == 1


def test_seed_defect_promotion_loses_ttl_and_tags(make_engine: Callable[..., MultiLevelCache]) -> None:
    """Seed defect: promotion lost TTL and tags."""
    engine = make_engine(l1_entries_max=1, l2_bytes_max=MIB)
    expires_ms = engine.now_ms() + 5000
    engine.put(b"docs:a", TEXT, expires_ms=expires_ms, tags=(b"t",), cost_s=7.0, codec=2, metadata=b"m")
    version = engine.table[b"docs:a"].version
    engine.put(b"b", TEXT)
    entry = engine.get(b"docs:a")
    assert isinstance(entry, Entry)
    assert entry.level is engine.l1
    assert (entry.expires_ms, entry.tags, entry.cost_s) == (expires_ms, (b"t",), 7.0)
    assert (entry.codec, entry.metadata, entry.version) == (2, b"m", version)
    assert engine.invalidate_tags((b"t",)) == 1


def test_what_does_not_shrink_stays_raw(make_engine: Callable[..., MultiLevelCache]) -> None:
    """An entry that does not get below 0.9 of its size is kept as it is."""
    engine = make_engine(l1_entries_max=1, l2_bytes_max=MIB)
    noise = random.Random(1).randbytes(5000)
    engine.put(b"a", noise)
    engine.put(b"b", b"v")
    assert engine.l2 is not None
    assert not engine.l2.table[b"a"].packed
    assert payload(engine, b"a") == noise


def test_demotion_respects_both_budgets(make_engine: Callable[..., MultiLevelCache]) -> None:
    """L1 evicts into L2, L2 evicts out; bytes stay within both budgets at every step."""
    engine = make_engine(l1_bytes_max=20_000, l2_bytes_max=15_000)
    rng = random.Random(2)
    for number in range(400):
        engine.put(b"k%d" % rng.randrange(80), rng.randbytes(rng.randrange(2000)), tags=(b"t%d" % (number % 3),))
        if number % 3 == 0:
            engine.get(b"k%d" % rng.randrange(80))
        engine.validate()
    stats = engine.stats()["levels"]
    assert stats["l1_memory"]["demotions"] > 0
    assert stats["l2_compressed"]["removed"]["evicted"] > 0


def test_value_larger_than_l1_lives_in_l2(make_engine: Callable[..., MultiLevelCache]) -> None:
    """What L1 can't hold is not refused while another level can hold it."""
    engine = make_engine(l1_bytes_max=4000, l2_bytes_max=MIB)
    big = random.Random(3).randbytes(50_000)
    assert engine.put(b"a", big) is True
    assert payload(engine, b"a") == big
    assert payload(engine, b"a") == big


@pytest.mark.parametrize("policy", EvictionPolicy)
def test_tags_of_what_lives_in_l2_alone_find_room_in_l1(
    make_engine: Callable[..., MultiLevelCache], policy: EvictionPolicy
) -> None:
    """The tables of tags are charged to L1, also those of a value that L1 can't hold: its budget holds all the same."""
    engine = make_engine(l1_bytes_max=8000, l2_bytes_max=100_000, policy=policy)
    rng = random.Random(3)
    for number in range(40):
        engine.put(b"small%d" % number, b"x" * 300)
    for number in range(12):
        assert engine.put(b"large%d" % number, rng.randbytes(9000), tags=(b"tag%d" % number,))
        engine.validate()
    assert engine.get(b"large11") is not None


@pytest.mark.parametrize("how", ["tag", "namespace", "key", "clear"])
def test_seed_defect_tag_and_namespace_invalidation_miss_l2_and_l3(node: Node, how: str) -> None:
    """Seed defect: tag and namespace invalidation missed L2 and L3."""
    engine = node.start(l1_entries_max=1, l2_bytes_max=MIB, l2_entries_max=1)
    for name in (b"docs:disk", b"docs:packed", b"docs:memory"):
        engine.put(name, TEXT, tags=(b"t",))
    engine.put(b"docs:memory", TEXT, tags=(b"t",))
    settle(engine)
    assert engine.l2 is not None
    assert (list(engine.table), list(engine.l2.table)) == ([b"docs:memory"], [b"docs:packed"])
    keys = (b"docs:disk", b"docs:packed", b"docs:memory")
    if how == "tag":
        removed = engine.invalidate_tags((b"t", b"other"))
    elif how == "namespace":
        removed = engine.invalidate_namespace(b"docs")
    elif how == "key":
        removed = engine.invalidate_keys(keys)
    else:
        removed = engine.clear()
    assert removed == 3
    assert [payload(engine, key) for key in keys] == [None] * 3
    engine.put(b"docs:disk", b"new", tags=(b"t",))
    settle(engine)
    again = node.start()
    assert [payload(again, key) for key in keys] == [b"new", None, None]
