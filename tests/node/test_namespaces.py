"""Figures by namespace: right, and bounded however many namespaces clients make up."""

from __future__ import annotations

from stratacache.node.engine import MultiLevelCache
from stratacache.node.groups import NAMESPACES_NAMED_MAX


def test_seed_defect_namespace_hits_and_misses_never_counted(engine: MultiLevelCache) -> None:
    """Seed defect: namespace hits and misses were never counted."""
    engine.put(b"docs:a", b"v")
    engine.get(b"docs:a")
    engine.get(b"docs:b")
    engine.get(b"c")
    namespaces = engine.stats()["namespaces"]
    assert (namespaces["docs"]["hits"], namespaces["docs"]["misses"]) == (1, 1)
    assert (namespaces["default"]["hits"], namespaces["default"]["misses"]) == (0, 1)


def test_statistics_name_a_number_of_namespaces_and_count_the_others_as_one(engine: MultiLevelCache) -> None:
    """Who gives each user a namespace has figures of all users still, that can be asked for every two seconds."""
    for number in range(1_000):
        engine.put(b"user-%d:a" % number, b"v", cost_s=2.0)
        engine.get(b"user-%d:a" % number)
        engine.get(b"user-%d:b" % number)

    def others() -> dict[str, float]:
        stats = engine.stats()
        assert len(stats["namespaces"]) == NAMESPACES_NAMED_MAX + 1
        for figure in ("hits", "misses", "puts", "entries", "saved_s"):
            assert sum(figures[figure] for figures in stats["namespaces"].values()) == stats[figure]
        found: dict[str, float] = stats["namespaces"][":others"]
        return found

    before = others()
    left = 1_000 - (NAMESPACES_NAMED_MAX - 1)  # `default` is one of them
    assert (before["hits"], before["misses"], before["entries"]) == (left, left, left)
    engine.clear()
    while engine.tick():
        pass
    for number in range(20_000):
        engine.get(b"n%d:a" % number)
    engine.put(b"newcomer:a", b"v")
    assert others()["hits"] >= before["hits"], "a counter does not fall when idle namespaces are forgotten"


def test_made_up_namespaces_do_not_fill_the_memory(engine: MultiLevelCache) -> None:
    """Counters of namespaces without entries are forgotten past a bound."""
    engine.put(b"kept:a", b"v")
    for number in range(20_000):
        engine.get(b"n%d:a" % number)
    assert len(engine.groups.namespaces) < 10_000
    assert b"kept" in engine.groups.namespaces
