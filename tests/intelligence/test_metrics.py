"""What prefetching tells Prometheus: the coordinator's accounts, kind by kind."""

from __future__ import annotations

from typing import Any

from stratacache.cluster.intelligence.accounting import Issued, Kind
from stratacache.cluster.intelligence.plan import Planner
from stratacache.cluster.metrics import CLUSTER_NAMES, add_cluster
from stratacache.node.metrics import Families
from tests.observe.naming import problems

STATUS: dict[str, Any] = {"name": "c", "ready": True, "epoch": 4, "term": 1, "replicas": 1, "config": {"shards": 0}}
PREFIX = "stratacache_cluster_prefetch_"


def told(prefetch: dict[str, Any]) -> dict[tuple[str, str], float]:
    """(end of the name, kind) -> value of every sample about prefetching, after a check of the names."""
    families = Families(CLUSTER_NAMES, ("cluster",))
    add_cluster(families, {**STATUS, "shards": [], "prefetch": prefetch})
    found = list(families)
    assert [problem for family in found for problem in problems(family)] == []
    samples = [sample for family in found for sample in family.samples if sample.name.startswith(PREFIX)]
    return {(sample.name.removeprefix(PREFIX), sample.labels["kind"]): sample.value for sample in samples}


def test_the_page_says_what_the_accounts_say() -> None:
    """One value that was read, one that nobody read, one that came late: each is counted where it belongs."""
    planner = Planner()
    account = planner.accounts[Kind.REFRESH]
    for key in (b"read", b"unread", b"late"):
        account.was_issued(key, Issued(at_s=100.0, until_s=160.0, cost_s=2.0, size=10, saves_s=3.0))
        if key != b"late":
            account.was_done(key, 102.0, spent_s=2.5, good=True)
    for key in (b"read", b"late"):
        account.was_read(key, 110.0, 110.0)
    account.settle(200.0, patience_s=15.0)
    samples = told(dict(planner.report()))
    counted = {"on": 1, "issued_total": 3, "used_total": 1, "late_total": 1, "wasted_total": 1, "failed_total": 0}
    seconds = {"saved_seconds_total": 3, "spent_seconds_total": 5, "wasted_seconds_total": 2.5}
    expected = {**counted, **seconds, "wasted_bytes_total": 10, "rests_total": 0}
    assert {name: value for (name, kind), value in samples.items() if kind == Kind.REFRESH} == expected
    idle = {name: float(name == "on") for name in expected}
    assert {name: value for (name, kind), value in samples.items() if kind == Kind.WAKE} == idle


def test_nothing_is_told_before_the_first_step() -> None:
    """A coordinator that has not begun to watch has no series of prefetching, rather than zeros."""
    assert told({}) == {}
