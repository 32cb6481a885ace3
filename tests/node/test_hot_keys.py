"""The hottest keys: found among many, and told by `stats` with the seconds that hits saved."""

from __future__ import annotations

from stratacache.node.engine import MultiLevelCache
from stratacache.node.hot import HALVE_AFTER_HITS, HotKeys


def test_hot_keys_find_the_heavy_ones_among_many() -> None:
    """Three keys with a third of the hits are on top, whatever passes by; the table stays small, and old hits fade."""
    hot = HotKeys(16)
    for index in range(3000):
        hot.hit(b"cold-%d" % index, 1)
        if index % 2 == 0:
            hot.hit(b"hot-%d" % (index % 3), 1)
    assert {key for key, _ in hot.top(3)} == {b"hot-0", b"hot-1", b"hot-2"}
    assert all(hits <= 5 for key, hits in hot.top(16) if key.startswith(b"cold")), "one hit each: none is hot"
    assert len(hot.top(100)) == 16
    hot.hit(b"new", HALVE_AFTER_HITS)
    assert hot.top(1)[0] == (b"new", HALVE_AFTER_HITS // 2)
    assert dict(hot.top(16))[b"hot-0"] < 500


def test_hot_keys_and_seconds_saved_are_in_stats(engine: MultiLevelCache) -> None:
    """Keys that are read more stand before the others; an unknown cost saves nothing that could be told."""
    engine.put(b"measured", b"v", cost_s=2.0)
    engine.put(b"unknown", b"v")
    for _ in range(200):
        engine.get(b"measured")
        engine.drain_hits()
    for _ in range(5):
        engine.get(b"unknown")
    stats = engine.stats()
    assert stats["saved_s"] == 400.0
    assert stats["hot"] == [["measured", 200], ["unknown", 5]]
