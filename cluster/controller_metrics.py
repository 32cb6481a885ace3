"""The controller's page: its own state, the cluster's, and every shard's figures as the coordinator last gathered them.

It is the one page that tells of everything, for installations where nobody can scrape the shards. It repeats what
stands on their pages, under the same names: scrape the shards or the controller, not both.

Invariants: as in `stratacache.node.metrics`; `NAMES` holds every name on the page, and the alerts and the dashboard of
the Helm chart are tested against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from stratacache.cluster.metrics import CLUSTER_NAMES, add_cluster
from stratacache.node.metrics import NAMES as NODE_NAMES
from stratacache.node.metrics import Families, Name, Named, add_node

if TYPE_CHECKING:
    from stratacache.cluster.controller import Controller

CONTROLLER_NAMES: Final[Mapping[str, Name]] = {
    "stratacache_controller_shards_wanted": Name("gauge", "Shards that the cache is to have."),
    "stratacache_controller_shards_ready": Name("gauge", "Shards that served when they were last asked."),
    "stratacache_controller_shard_ready": Name("gauge", "Whether the shard served when it was last asked.", ("shard",)),
    "stratacache_controller_ray_connected": Name("gauge", "Whether the controller is connected to Ray."),
    "stratacache_controller_clusters_created_total": Name("counter", "Times that the controller created the cache."),
    "stratacache_controller_clusters_removed_total": Name("counter", "Times that it removed one to be replaced."),
}

NAMES: Final[Mapping[str, Name]] = {**CONTROLLER_NAMES, **CLUSTER_NAMES, **NODE_NAMES}


class ControllerCollector(Collector):
    """Collects from the controller's core and from the statistics that it gathered last."""

    def __init__(self, controller: Controller, stats: Callable[[], Mapping[str, Any]]) -> None:
        self._controller = controller
        self._stats = stats
        self._named: dict[str, Named] = {}

    def collect(self) -> Iterable[Metric]:
        """The families, as of now."""
        core = self._controller
        name = core.config.name
        own = Families(CONTROLLER_NAMES, ("cluster",))
        for figure, value in (
            ("shards_wanted", core.config.shards),
            ("shards_ready", core.shards_ready),
            ("ray_connected", core.connected),
            ("clusters_created_total", core.created),
            ("clusters_removed_total", core.removed),
        ):
            own.add(f"stratacache_controller_{figure}", (name,), value)
        for shard in core.config.shard_ids():
            own.add("stratacache_controller_shard_ready", (name, shard), shard in core.answering)
        cluster = Families(CLUSTER_NAMES, ("cluster",))
        nodes = Families(NODE_NAMES, ("cluster", "shard"))
        stats = self._stats()
        if stats:
            add_cluster(cluster, stats)
            for shard in stats["shards"]:
                spaces = self._named.setdefault(shard["id"], Named())
                add_node(nodes, (name, shard["id"]), shard["stats"], spaces)
        return chain(own, cluster, nodes)
