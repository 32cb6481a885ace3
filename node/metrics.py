"""A node's statistics as Prometheus metrics, by the names that dashboards and alerts rely on.

`add_node` reads the map that `MultiLevelCache.stats` gives (and SC.STATS, and the coordinator), so a page never says
anything else than `cache.stats()`.

Invariants: every name is in `NAMES` with its type and its help; durations are in seconds, sizes in bytes, counters end
in `_total`; the number of series is bounded: `NAMED_MAX` namespaces, operations and models are named, what belongs to
the others is added up under `OTHERS`, and what was once named stays so, since a counter must not fall.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from stratacache.node.histogram import upper_ns
from stratacache.node.pages import Page, from_loop
from stratacache.node.resp.server import NodeServer
from stratacache.node.stats import OTHERS, namespace_dict

NAMED_MAX: Final = 50
ERRORS_MAX: Final = 20

BOUNDS_NS: Final = tuple(1 << power for power in range(10, 31, 2))
"""1 us to 1 s by four: powers of two, so that no bucket of ours lies across a bound."""


class Name(NamedTuple):
    """What stands behind a name: its type, its help, its labels beside `cluster` and `shard`."""

    kind: str
    text: str
    labels: tuple[str, ...] = ()


_LEVEL: Final = ("level",)
_SPACE: Final = ("namespace",)
_OPERATION: Final = ("operation",)
_MODEL: Final = ("model",)

NAMES: Final[Mapping[str, Name]] = {
    "stratacache_build_info": Name("info", "The version of Stratacache that runs.", ("version",)),
    "stratacache_serving": Name("gauge", "Whether the shard holds the right to serve its range (1) or not (0)."),
    "stratacache_epoch": Name("gauge", "Epoch of the view that the shard serves by."),
    "stratacache_hits_total": Name("counter", "Gets that found a live entry in some level."),
    "stratacache_misses_total": Name("counter", "Gets that found none."),
    "stratacache_puts_total": Name("counter", "Entries put."),
    "stratacache_saved_seconds_total": Name("counter", "Computing time that hits saved, as measured."),
    "stratacache_near_hits_total": Name("counter", "Hits that near caches served and told of."),
    "stratacache_entries": Name("gauge", "Live entries in memory."),
    "stratacache_memory_used_bytes": Name("gauge", "Bytes charged for everything in memory, tag tables included."),
    "stratacache_access_seconds": Name("histogram", "Time of a get that the read loop did not answer from memory."),
    "stratacache_level_entries": Name("gauge", "Entries in a level.", _LEVEL),
    "stratacache_level_used_bytes": Name("gauge", "Bytes in use in a level.", _LEVEL),
    "stratacache_level_limit_bytes": Name("gauge", "Budget of a level.", _LEVEL),
    "stratacache_level_hits_total": Name("counter", "Gets that a level answered.", _LEVEL),
    "stratacache_level_misses_total": Name("counter", "Gets that a level passed on.", _LEVEL),
    "stratacache_level_promotions_total": Name("counter", "Entries that left a level upwards.", _LEVEL),
    "stratacache_level_demotions_total": Name("counter", "Entries that left a level downwards.", _LEVEL),
    "stratacache_level_removed_total": Name("counter", "Entries that left the cache from a level.", ("level", "cause")),
    "stratacache_disk_on": Name("gauge", "Whether the disk level works (1) or has switched itself off (0)."),
    "stratacache_disk_queue_entries": Name("gauge", "Entries that wait to be written to disk."),
    "stratacache_disk_queue_bytes": Name("gauge", "Bytes that wait to be written to disk."),
    "stratacache_disk_skipped_total": Name("counter", "Entries left out of the disk because its queue was full."),
    "stratacache_disk_overruns_total": Name("counter", "How often the disk began afresh: too many deletes waited."),
    "stratacache_disk_corrupt_total": Name("counter", "Records on disk that did not match their checksum."),
    "stratacache_namespace_hits_total": Name("counter", "Hits in a namespace.", _SPACE),
    "stratacache_namespace_misses_total": Name("counter", "Misses in a namespace.", _SPACE),
    "stratacache_namespace_puts_total": Name("counter", "Entries put into a namespace.", _SPACE),
    "stratacache_namespace_entries": Name("gauge", "Entries of a namespace in memory.", _SPACE),
    "stratacache_namespace_used_bytes": Name("gauge", "Bytes of a namespace in memory.", _SPACE),
    "stratacache_namespace_removed_total": Name(
        "counter", "Entries that left a namespace from memory.", ("namespace", "cause")
    ),
    "stratacache_operation_hits_total": Name("counter", "Hits on results of an operation.", _OPERATION),
    "stratacache_operation_misses_total": Name("counter", "Misses of results of an operation.", _OPERATION),
    "stratacache_operation_saved_seconds_total": Name("counter", "Computing time saved, by operation.", _OPERATION),
    "stratacache_model_hits_total": Name("counter", "Hits on results of a model, by its tag.", _MODEL),
    "stratacache_model_saved_seconds_total": Name("counter", "Computing time saved, by model.", _MODEL),
    "stratacache_leases_live": Name("gauge", "Fill leases that are held now."),
    "stratacache_leases_granted_total": Name("counter", "Fill leases granted."),
    "stratacache_leases_refused_total": Name("counter", "Puts refused since an invalidation had voided their lease."),
    "stratacache_connections": Name("gauge", "Clients connected."),
    "stratacache_connections_accepted_total": Name("counter", "Connections received, those turned away included."),
    "stratacache_connections_rejected_total": Name("counter", "Connections turned away at the limit."),
    "stratacache_connections_cut_total": Name("counter", "Clients cut off since they did not read their replies."),
    "stratacache_commands_total": Name("counter", "Commands run."),
    "stratacache_command_errors_total": Name("counter", "Error replies, by their first word.", ("error",)),
    "stratacache_received_bytes_total": Name("counter", "Bytes received from clients."),
    "stratacache_sent_bytes_total": Name("counter", "Bytes sent to clients."),
}

_NODE: Final = {
    "stratacache_serving": ("serving",),
    "stratacache_epoch": ("epoch",),
    "stratacache_hits_total": ("hits",),
    "stratacache_misses_total": ("misses",),
    "stratacache_puts_total": ("puts",),
    "stratacache_saved_seconds_total": ("saved_s",),
    "stratacache_near_hits_total": ("near_hits",),
    "stratacache_entries": ("entries",),
    "stratacache_memory_used_bytes": ("memory_bytes",),
    "stratacache_disk_on": ("levels", "l3_disk", "on"),
    "stratacache_disk_queue_entries": ("levels", "l3_disk", "queue_entries"),
    "stratacache_disk_queue_bytes": ("levels", "l3_disk", "queue_bytes"),
    "stratacache_disk_skipped_total": ("levels", "l3_disk", "skipped"),
    "stratacache_disk_overruns_total": ("levels", "l3_disk", "overruns"),
    "stratacache_disk_corrupt_total": ("levels", "l3_disk", "corrupt"),
    "stratacache_leases_live": ("leases", "live"),
    "stratacache_leases_granted_total": ("leases", "granted"),
    "stratacache_leases_refused_total": ("leases", "refused"),
    "stratacache_connections": ("server", "clients"),
    "stratacache_connections_accepted_total": ("server", "connections_received"),
    "stratacache_connections_rejected_total": ("server", "connections_rejected"),
    "stratacache_connections_cut_total": ("server", "clients_cut"),
    "stratacache_commands_total": ("server", "commands"),
    "stratacache_received_bytes_total": ("server", "bytes_in"),
    "stratacache_sent_bytes_total": ("server", "bytes_out"),
}
"""Where the figures without labels of their own stand in the statistics."""

_OF_LEVEL: Final = {
    "entries": "entries",
    "used_bytes": "bytes_used",
    "limit_bytes": "bytes_max",
    "hits_total": "hits",
    "misses_total": "misses",
    "promotions_total": "promotions",
    "demotions_total": "demotions",
}
_OF_NAMESPACE: Final = {
    "hits_total": "hits",
    "misses_total": "misses",
    "puts_total": "puts",
    "entries": "entries",
    "used_bytes": "bytes",
}
_OF_OPERATION: Final = {"hits_total": "hits", "misses_total": "misses", "saved_seconds_total": "saved_s"}
_OF_MODEL: Final = {"hits_total": "hits", "saved_seconds_total": "saved_s"}
_CAUSES: Final = ("evicted", "expired", "invalidated")


class Families:
    """Samples gathered by name, in the order of `names`; `labels` are put before those of each sample."""

    def __init__(self, names: Mapping[str, Name], labels: Iterable[str]) -> None:
        self._names = names
        self._labels = tuple(labels)
        self._metrics: dict[str, Metric] = {}

    def add(self, name: str, values: Iterable[str], value: float | None) -> None:
        """Add a sample with the values of all its labels; None is no sample."""
        if value is not None:
            self.metric(name).add_metric([*values], float(value))

    def metric(self, name: str) -> Any:
        """The family of that name."""
        found = self._metrics.get(name)
        if found is None:
            known = self._names[name]
            labels = (*self._labels, *known.labels)
            if known.kind == "info":
                found = InfoMetricFamily(name.removesuffix("_info"), known.text, labels=self._labels)
            elif known.kind == "histogram":
                found = HistogramMetricFamily(name, known.text, labels=labels)
            else:
                kind = CounterMetricFamily if known.kind == "counter" else GaugeMetricFamily
                found = kind(name, known.text, labels=labels)
            self._metrics[name] = found
        return found

    def __iter__(self) -> Iterator[Metric]:
        return (self._metrics[name] for name in self._names if name in self._metrics)


class Named:
    """Which values of a label have series of their own: for each kind the first `names_max` that were seen."""

    def __init__(self, names_max: int = NAMED_MAX) -> None:
        self.names_max = names_max
        self._names: dict[str, dict[str, None]] = {}

    def bounded(self, kind: str, table: Mapping[str, Mapping[str, float]]) -> dict[str, Mapping[str, float]]:
        """The figures of the named ones, and the sum of the others."""
        names = self._names.setdefault(kind, {})
        found: dict[str, Mapping[str, float]] = {}
        others: dict[str, float] = {}
        for name, figures in table.items():
            if name not in names:
                if len(names) >= self.names_max or name == OTHERS:
                    for figure, value in figures.items():
                        others[figure] = others.get(figure, 0) + value
                    continue
                names[name] = None
            found[name] = figures
        if others:
            found[OTHERS] = others
        return found


def add_node(families: Families, labels: tuple[str, ...], stats: Mapping[str, Any], named: Named) -> None:
    """Add what one node's statistics say. What is missing in them has no sample."""
    for name, path in _NODE.items():
        families.add(name, labels, _at(stats, path))
    for level, figures in stats.get("levels", {}).items():
        for name, figure in _OF_LEVEL.items():
            families.add(f"stratacache_level_{name}", (*labels, level), figures.get(figure))
        for cause, count in figures.get("removed", {}).items():
            families.add("stratacache_level_removed_total", (*labels, level, cause), count)
    for space, figures in named.bounded("namespace", stats.get("namespaces", {})).items():
        for name, figure in _OF_NAMESPACE.items():
            families.add(f"stratacache_namespace_{name}", (*labels, space), figures.get(figure))
        for cause in _CAUSES:
            families.add("stratacache_namespace_removed_total", (*labels, space, cause), figures.get(cause))
    for kind, figures_of in (("operation", _OF_OPERATION), ("model", _OF_MODEL)):
        for label, figures in named.bounded(kind, stats.get(f"{kind}s", {})).items():
            for name, figure in figures_of.items():
                families.add(f"stratacache_{kind}_{name}", (*labels, label), figures.get(figure))
    errors = sorted(stats.get("server", {}).get("errors", {}).items(), key=lambda item: -item[1])
    for word, count in errors[:ERRORS_MAX]:
        families.add("stratacache_command_errors_total", (*labels, word), count)
    if "access_times" in stats:
        buckets, seconds = seconds_histogram(stats["access_times"])
        families.metric("stratacache_access_seconds").add_metric([*labels], buckets, seconds)


def seconds_histogram(times: Mapping[str, Any]) -> tuple[list[tuple[str, float]], float]:
    """Cumulated buckets by upper bound, and the sum, in seconds."""
    counts = {int(bucket): count for bucket, count in times["buckets"].items()}
    buckets = []
    for bound in BOUNDS_NS:
        below = sum(count for bucket, count in counts.items() if upper_ns(bucket) < bound)
        buckets.append((str(bound / 1e9), float(below)))
    return [*buckets, ("+Inf", float(sum(counts.values())))], times["mean_us"] * times["count"] / 1e6


def _at(stats: Mapping[str, Any], path: tuple[str, ...]) -> float | None:
    found: Any = stats
    for name in path:
        if not isinstance(found, Mapping) or name not in found:
            return None
        found = found[name]
    return float(found)


class NodeCollector(Collector):
    """Collects from a server that runs on an event loop; called from another thread.

    `whole` adds what earlier processes of this node had counted to what this one has.

    On the loop it takes the totals only, in some 50 us whatever the number of namespaces; their records are read from
    here, number by number, and the page is written here.
    """

    def __init__(self, server: NodeServer, whole: Callable[[dict[str, Any]], dict[str, Any]] = dict) -> None:
        self._server = server
        self._whole = whole
        self._named = Named()

    def collect(self) -> Iterable[Metric]:
        """The families, as of now."""
        server = self._server
        stats, records = from_loop(server.loop, self._snapshot)
        stats["namespaces"] = {name.decode("utf-8", "replace"): namespace_dict(record) for name, record in records}
        families = Families(NAMES, ("cluster", "shard"))
        labels = (server.identity.cluster, server.identity.shard)
        add_node(families, labels, self._whole(stats), self._named)
        families.metric("stratacache_build_info").add_metric([*labels], {"version": own_version()})
        return families

    def totals(self) -> list[Metric]:
        """The families without namespaces and errors; to be called on the server's loop."""
        stats, _ = self._snapshot()
        stats["server"]["errors"] = {}
        families = Families(NAMES, ("cluster", "shard"))
        labels = (self._server.identity.cluster, self._server.identity.shard)
        add_node(families, labels, self._whole(stats), self._named)
        return list(families)

    def _snapshot(self) -> tuple[dict[str, Any], list[tuple[bytes, Any]]]:
        server = self._server
        engine = server.engine
        totals = engine.totals() | {
            "server": server.stats(),
            "serving": server.may_serve(),
            "epoch": server.epoch,
        }
        return totals, list(engine.groups.namespaces.items())


def own_version() -> str:
    """The installed version; `0` for sources that are not installed."""
    try:
        return version("stratacache")
    except PackageNotFoundError:
        return "0"


def metrics_page(*collectors: Collector) -> Callable[[str], Page]:
    """The page of these collectors and of the process itself."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    ProcessCollector(registry=registry)

    def page(accept: str) -> Page:
        encode, kind = choose_encoder(accept)
        return Page(encode(registry), kind)

    return page
