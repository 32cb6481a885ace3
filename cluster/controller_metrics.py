"""The controller's metrics in Prometheus' text format.

Invariants: names begin with `stratacache_`, carry base units, and counters end in `_total`; every name is in `NAMES`,
which the alerts and the dashboard of the Helm chart are tested against.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from stratacache.cluster.controller import Controller

NAMES: Final[Mapping[str, tuple[str, str]]] = {
    "stratacache_controller_shards_wanted": ("gauge", "Shards that the cache is to have."),
    "stratacache_controller_shards_ready": ("gauge", "Shards that served when they were last asked."),
    "stratacache_controller_ray_connected": ("gauge", "Whether the controller is connected to Ray."),
    "stratacache_controller_clusters_created_total": ("counter", "Times that the controller created the cache."),
    "stratacache_controller_clusters_removed_total": ("counter", "Times that it removed one that had to be replaced."),
    "stratacache_epoch": ("gauge", "The epoch of the view in force."),
    "stratacache_shard_up": ("gauge", "Whether the shard served when it was last asked."),
    "stratacache_shard_entries": ("gauge", "Entries that the shard holds."),
    "stratacache_shard_level_bytes": ("gauge", "Bytes that a level of the shard holds."),
    "stratacache_shard_hits_total": ("counter", "Gets that found their entry."),
    "stratacache_shard_misses_total": ("counter", "Gets that did not."),
    "stratacache_shard_puts_total": ("counter", "Entries put."),
}

Sample = tuple[dict[str, str], float]


def render(controller: Controller, stats: Mapping[str, Any]) -> str:
    """The page, from the controller's own state and the coordinator's last statistics."""
    samples = _samples(controller, stats)
    lines = []
    for name, (kind, text) in NAMES.items():
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{_labels(labels)} {value:.17g}" for labels, value in samples.get(name, ())]
    return "\n".join(lines) + "\n"


def _samples(controller: Controller, stats: Mapping[str, Any]) -> dict[str, list[Sample]]:
    cluster = {"cluster": controller.config.name}
    running = controller.running
    out: dict[str, list[Sample]] = {
        "stratacache_controller_shards_wanted": [(cluster, controller.config.shards)],
        "stratacache_controller_shards_ready": [(cluster, controller.shards_ready)],
        "stratacache_controller_ray_connected": [(cluster, controller.connected)],
        "stratacache_controller_clusters_created_total": [(cluster, controller.created)],
        "stratacache_controller_clusters_removed_total": [(cluster, controller.removed)],
        "stratacache_epoch": [(cluster, running.epoch if running is not None else 0)],
        "stratacache_shard_up": [
            ({**cluster, "shard": shard}, shard in controller.answering) for shard in controller.config.shard_ids()
        ],
    }
    for name, figure in (
        ("entries", "entries"),
        ("hits_total", "hits"),
        ("misses_total", "misses"),
        ("puts_total", "puts"),
    ):
        out[f"stratacache_shard_{name}"] = list(_of_shards(cluster, stats, figure))
    out["stratacache_shard_level_bytes"] = [
        ({**cluster, "shard": shard["id"], "level": level}, figures.get("bytes_used", 0))
        for shard in stats.get("shards", ())
        for level, figures in shard.get("stats", {}).get("levels", {}).items()
    ]
    return out


def _of_shards(cluster: Mapping[str, str], stats: Mapping[str, Any], figure: str) -> Iterable[Sample]:
    for shard in stats.get("shards", ()):
        value = shard.get("stats", {}).get(figure)
        if value is not None:
            yield {**cluster, "shard": shard["id"]}, value


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in sorted(labels.items())) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
