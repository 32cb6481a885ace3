"""Sums of the figures of nodes, and of one shard's processes one after the other."""

from __future__ import annotations

from typing import Any

import pytest

from stratacache.node.merging import Ledger, counters, merged_stats, with_base


def engine_stats(gets: int) -> dict[str, Any]:
    """What a node really reports, after one put and some gets."""
    from stratacache.node.config import NodeConfig
    from stratacache.node.engine import MultiLevelCache

    engine = MultiLevelCache(NodeConfig())
    engine.put(b"docs:a", b"value")
    for _ in range(gets):
        engine.get(b"docs:a")
        engine.get(b"absent")
    return engine.stats()


def test_sums_of_real_node_figures() -> None:
    """Counters and gauges add up; ratios and quantiles are computed again."""
    one, two = engine_stats(10), engine_stats(30)
    total = merged_stats([one, two])
    assert (total["hits"], total["misses"], total["hit_ratio"]) == (40, 40, 0.5)
    assert total["entries"] == 2
    assert total["namespaces"]["docs"]["hits"] == 40
    assert total["access_times"]["count"] == one["access_times"]["count"] + two["access_times"]["count"]
    slowest = max(one["access_times"]["p99_us"], two["access_times"]["p99_us"])
    assert 0 <= total["access_times"]["p50_us"] <= total["access_times"]["p99_us"] <= slowest


def test_a_successor_counts_on_but_holds_only_its_own() -> None:
    """Counters of the process before are added; what that one held is gone."""
    base = counters(engine_stats(5))
    whole = with_base(engine_stats(7), base)
    assert (whole["hits"], whole["misses"], whole["entries"]) == (12, 12, 1)
    assert counters(whole)["hits"] == 12
    assert "entries" not in counters(whole)


@pytest.mark.parametrize(
    "names", [("mean_us",), ("mean_us", "count"), ("hits", "misses"), ("buckets",), ("buckets", "count")]
)
def test_a_name_that_a_client_gave_is_no_figure(names: tuple[str, ...]) -> None:
    """Namespaces and operations may be called as figures are: nobody's statistics fail by it, and each counts."""
    from stratacache.node.config import NodeConfig
    from stratacache.node.engine import MultiLevelCache

    engine = MultiLevelCache(NodeConfig())
    for name in names:
        for key in (b"%b:a" % name.encode(), b"of-%b:%b:%b" % (name.encode(), name.encode(), b"0" * 32)):
            engine.put(key, b"value", cost_s=2.0)
            engine.get(key)
    stats = engine.stats()
    once, twice = with_base(stats, {}), merged_stats([stats, stats])
    for name in names:
        for table in ("namespaces", "operations"):
            assert (once[table][name]["hits"], twice[table][name]["hits"]) == (1, 2)
    ledger = Ledger()
    ledger.take("shard-0", "1", stats)
    again = ledger.take("shard-0", "2", stats)
    assert [again["namespaces"][name]["hits"] for name in names] == [1] * len(names)
