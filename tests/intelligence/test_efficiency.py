"""The efficiency report: what was saved, from what was measured, and what it advises."""

from __future__ import annotations

from typing import Any

import pytest

from stratacache.client.efficiency import Prices, efficiency, recommendations
from stratacache.node.clock import ManualClock
from stratacache.node.config import NodeConfig
from stratacache.node.engine import MultiLevelCache
from stratacache.node.merging import Ledger, counters, merged_stats, with_base

DIGEST = b"0123456789abcdef" * 2


def stats_of(reads: int) -> dict[str, Any]:
    """Figures of a node after one computed put and so many hits."""
    node = MultiLevelCache(NodeConfig(l1_bytes_max=4 << 20), clock=ManualClock(1_000_000))
    node.get(b"docs:embed:" + DIGEST)
    node.put(b"docs:embed:" + DIGEST, b"v", cost_s=0.5, tags=(b"model:minilm",))
    for _ in range(reads):
        node.get(b"docs:embed:" + DIGEST)
    return node.stats()


def test_seconds_and_dollars_are_those_that_were_measured() -> None:
    """By operation, model and namespace; the cache's own time is taken off."""
    total = merged_stats([stats_of(3), stats_of(5)])
    report = efficiency(total, own_s=0.25, prices=Prices(dollars_a_second=2.0, dollars_a_call={"embed": 0.01}))
    assert (report["hits"], report["misses"]) == (8, 2)
    saved = report["seconds_saved"]
    assert (saved["gross"], saved["cache_itself"], saved["net"]) == (4.0, 0.25, 3.75)
    assert saved["by_operation"] == {"embed": 4.0}
    assert saved["by_model"] == {"minilm": 4.0}
    assert saved["by_namespace"] == {"docs": 4.0}
    assert report["seconds_computed"] == 1.0
    assert report["dollars_saved"] == pytest.approx(3.75 * 2 + 8 * 0.01)
    assert report["recommendations"] == []
    assert "dollars_saved" not in efficiency(total)


def test_histograms_merge_exactly() -> None:
    """The merged quantiles are those of all times together."""
    parts = [stats_of(200), stats_of(50)]
    total = merged_stats(parts)
    for bucket, count in total["access_times"]["buckets"].items():
        assert count == sum(part["access_times"]["buckets"].get(bucket, 0) for part in parts)
    assert total["access_times"]["count"] == sum(part["access_times"]["count"] for part in parts)


@pytest.mark.parametrize(
    ("total", "word"),
    [
        ({"levels": {"l1_memory": {"hits": 500}, "l3_disk": {"hits": 500}}}, "L1 is too small: 50%"),
        ({"puts": 1000, "removed": {"evicted": 300}, "levels": {"l1_memory": {"hits": 1}}}, "memory is too small: 30%"),
        ({"namespaces": {"a": {"puts": 1000, "hits": 0}}}, "namespace a had 1000 puts and no hit"),
        ({"namespaces": {"b": {"puts": 1000, "hits": 9, "expired": 400}}}, "TTLs of namespace b are too short: 40%"),
    ],
)
def test_recommendations_in_words(total: dict[str, Any], word: str) -> None:
    """Each names what stands out, with its figure and a way out."""
    (found,) = recommendations(total)
    assert word in found


def test_a_kind_of_prefetch_that_is_off_is_named() -> None:
    """It says what it has seen."""
    (found,) = recommendations({}, {"wake": {"switched_off": 1, "on": False, "precision": 0.125}})
    assert "wake has switched itself off: only 12% of its prefetches" in found


def test_counters_never_fall_when_shards_restart() -> None:
    """Whatever a successor was handed, an observer sees no counter fall, and nothing is counted twice."""
    first, second = stats_of(10), stats_of(4)
    ledger = Ledger()
    seen = ledger.take("shard-0", "1", first)
    assert seen["hits"] == 10
    handed = with_base(second, counters(stats_of(6)))  # its predecessor's figures as they were seen a while ago
    after = ledger.take("shard-0", "2", handed)
    assert after["hits"] == 10
    assert after["operations"]["embed"]["saved_s"] == 5.0
    later = with_base(stats_of(7), counters(stats_of(6)))
    assert ledger.take("shard-0", "2", later)["hits"] == 13
    assert ledger.take("shard-0", "3", with_base(stats_of(0), counters(later)))["hits"] == 13
    assert ledger.take("shard-1", "1", second)["hits"] == 4
