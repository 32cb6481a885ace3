"""The client's benchmark says what it claims: who is compared with whom, in which direction, over which calls."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import client as benchmark
from stratacache.client import connect

from .servers import Node, address


def test_a_row_names_both_sides_and_how_much_faster_ours_is() -> None:
    """ratio is the peer's time over ours, of medians over five alternating rounds."""
    row = benchmark.compare("put_6k", "same_core", lambda: sum(range(50)), "redis-py", lambda: sum(range(2000)))
    assert list(row) == ["name", "mode", "ours_us", "peer", "peer_us", "ratio"]
    assert (row["name"], row["mode"], row["peer"]) == ("put_6k", "same_core", "redis-py")
    assert row["ratio"] > 3
    assert row["ratio"] == pytest.approx(row["peer_us"] / row["ours_us"], rel=0.05)  # the times are rounded
    assert benchmark.ROUNDS == 5


def test_our_side_does_what_is_measured(nodes: list[Node]) -> None:
    """Every call finds its value: a benchmark of misses would be a fast one."""
    place = address(nodes[:1])
    with connect(place, shared=False, strict=True) as cache:
        calls: dict[str, Any] = benchmark.our_calls(cache)
        assert {*calls, "hot_key"} == set(benchmark.LOOPS)
        assert calls["get_6k"]() == benchmark.VALUE
        assert calls["get_many_100x6k"]() == benchmark.MANY
        assert (calls["embedding_1536"]() == benchmark.VECTOR).all()
        with benchmark.near_client(place) as near:
            before = near.stats()["client"]["near_hits"]
            assert near.get("k") == benchmark.VALUE
            assert near.stats()["client"]["near_hits"] == before + 1, "the hot key is answered by the near cache"
        assert calls["put_6k"]() is True
        assert calls["put_many_100x6k"]() == len(benchmark.MANY)
        cache.clear()
