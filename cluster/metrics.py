"""A cluster's state as Prometheus metrics: the coordinator's page, and the part of the controller's that it shares.

The coordinator's page tells of the cluster; what a shard holds and does stands on that shard's own page, and only
there, so that nobody who scrapes both counts twice.

Invariants: as in `stratacache.node.metrics`; a shard that is away keeps its series.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from stratacache.client.view import ACTIVE
from stratacache.cluster.config import ClusterConfig
from stratacache.cluster.intelligence.accounting import Kind
from stratacache.node.metrics import Families, Name, metrics_page
from stratacache.node.pages import PageServer, from_loop

_SHARD: Final = ("shard",)
_KIND: Final = ("kind",)

CLUSTER_NAMES: Final[Mapping[str, Name]] = {
    "stratacache_cluster_ready": Name("gauge", "Whether every shard serves (1) or not (0)."),
    "stratacache_cluster_epoch": Name("gauge", "Epoch of the view in force."),
    "stratacache_cluster_term": Name("gauge", "Term of the coordinator: one more with each of its restarts."),
    "stratacache_cluster_replicas": Name("gauge", "Copies that the cache keeps of each key."),
    "stratacache_cluster_shards_wanted": Name("gauge", "Shards that the cache is to have."),
    "stratacache_cluster_shards_active": Name("gauge", "Shards that are active in the view in force."),
    "stratacache_cluster_shard_active": Name("gauge", "Whether the shard is active in the view in force.", _SHARD),
    "stratacache_cluster_shard_incarnation": Name(
        "gauge", "Number of the process of the shard; a later one has a higher number.", _SHARD
    ),
    "stratacache_cluster_patterns": Name("gauge", "Keys whose access patterns the coordinator knows."),
    "stratacache_cluster_prefetch_on": Name(
        "gauge", "Whether a kind of prefetch is on (1), or off or at rest (0).", _KIND
    ),
    "stratacache_cluster_prefetch_issued_total": Name(
        "counter", "Values that were begun ahead of their readers.", _KIND
    ),
    "stratacache_cluster_prefetch_used_total": Name(
        "counter", "Those that were read before they left or expired.", _KIND
    ),
    "stratacache_cluster_prefetch_late_total": Name(
        "counter", "Those whose reader came before they were ready.", _KIND
    ),
    "stratacache_cluster_prefetch_wasted_total": Name("counter", "Those that nobody read in time.", _KIND),
    "stratacache_cluster_prefetch_failed_total": Name("counter", "Those that could not be computed.", _KIND),
    "stratacache_cluster_prefetch_saved_seconds_total": Name("counter", "Waiting that used ones saved.", _KIND),
    "stratacache_cluster_prefetch_spent_seconds_total": Name("counter", "Time that all of them took.", _KIND),
    "stratacache_cluster_prefetch_wasted_seconds_total": Name("counter", "Time that wasted ones took.", _KIND),
    "stratacache_cluster_prefetch_wasted_bytes_total": Name("counter", "Size of wasted ones.", _KIND),
    "stratacache_cluster_prefetch_rests_total": Name(
        "counter", "How often a kind did not pay and went to rest.", _KIND
    ),
}

_PREFETCH: Final[Mapping[str, str]] = {
    "on": "on",
    "issued_total": "issued",
    "used_total": "used",
    "late_total": "late",
    "wasted_total": "wasted",
    "failed_total": "failed",
    "saved_seconds_total": "seconds_saved",
    "spent_seconds_total": "seconds_spent",
    "wasted_seconds_total": "seconds_wasted",
    "wasted_bytes_total": "bytes_wasted",
    "rests_total": "switched_off",
}
"""The end of a name -> the figure of an account (`stats()["prefetch"]`)."""


def add_cluster(families: Families, status: Mapping[str, Any]) -> None:
    """Add what the coordinator's status says, with its `prefetch` where that has begun."""
    name = status["name"]
    shards = status["shards"]
    active = [shard["state"] == ACTIVE for shard in shards]
    for figure, value in (
        ("ready", status["ready"]),
        ("epoch", status["epoch"]),
        ("term", status["term"]),
        ("replicas", status["replicas"]),
        ("shards_wanted", status["config"]["shards"]),
        ("shards_active", sum(active)),
    ):
        families.add(f"stratacache_cluster_{figure}", (name,), value)
    for shard, is_active in zip(shards, active, strict=True):
        families.add("stratacache_cluster_shard_active", (name, shard["id"]), is_active)
        families.add("stratacache_cluster_shard_incarnation", (name, shard["id"]), shard["incarnation"])
    prefetch = status["prefetch"]
    if prefetch:
        families.add("stratacache_cluster_patterns", (name,), prefetch["patterns"])
        for kind in Kind:
            for figure, counted in _PREFETCH.items():
                families.add(
                    f"stratacache_cluster_prefetch_{figure}", (name, kind.value), prefetch[kind.value][counted]
                )


class ClusterCollector(Collector):
    """Collects from a coordinator whose `status` may be asked on its event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, status: Callable[[], Mapping[str, Any]]) -> None:
        self._loop = loop
        self._status = status

    def collect(self) -> Iterable[Metric]:
        """The families, as of now."""
        return from_loop(self._loop, self.totals)

    def totals(self) -> list[Metric]:
        """The same, to be called on the loop."""
        families = Families(CLUSTER_NAMES, ("cluster",))
        add_cluster(families, self._status())
        return list(families)


def serve_metrics(config: ClusterConfig, collector: Collector, place: int | None) -> PageServer | None:
    """Serve a process's page where the configuration says; None when it says nowhere, or nothing can be had there.

    `place` is the number of the shard, None for the coordinator, which has the first port. A port that is taken is no
    reason for the cache to fail: any free one is used then, and `stratacache status` shows which.
    """
    if config.metrics_port is None:
        return None
    pages = {"/metrics": metrics_page(collector)}
    for port in (*metrics_ports(config, place), 0):
        try:
            return PageServer(config.metrics_host, port, pages)
        except OSError:
            continue
    return None


def metrics_ports(config: ClusterConfig, place: int | None) -> Iterable[int]:
    """The ports to be tried, in order: P for the coordinator, P+1+i for shard-i; with a span, any of P+1 to P+span."""
    first = config.metrics_port
    if not first:
        return ()
    if place is None:
        return (first,)
    return range(first + 1, first + 1 + config.port_span) if config.port_span else (first + 1 + place,)
