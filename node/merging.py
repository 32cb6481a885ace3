"""One picture of a cluster out of its shards' figures.

Invariants: counters add up and never fall: what a process had counted, as far as it was seen, is handed to its
successor, which adds it to its own; gauges (what is held now) add up and are not handed on; ratios, means and quantiles
are computed again from their parts, never averaged. Namespaces, operations and models are named by clients: a name that
is also a figure's is still a name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from stratacache.node.histogram import Histogram

GAUGES: Final = frozenset(
    {
        "bytes",
        "bytes_max",
        "bytes_used",
        "clients",
        "disk_bytes",
        "entries",
        "epoch",
        "inv_seq",
        "live",
        "memory_bytes",
        "on",
        "pid",
        "queue_bytes",
        "queue_entries",
        "serving",
        "tombstones",
        "uptime_ms",
        "watching",
    }
)
"""Names of figures that say what is now; every other number counts what has been."""
_NOT_SUMMED: Final = frozenset({"epoch", "hot", "inv_seq", "metrics", "on", "pid", "serving", "uptime_ms"})


def merged_stats(parts: Iterable[Mapping[Any, Any]]) -> dict[Any, Any]:
    """The sum of several shards' figures, level by level and namespace by namespace."""
    total: dict[Any, Any] = {}
    for part in parts:
        _add(total, part, skip=_NOT_SUMMED)
    return _derived(total)


def counters(stats: Mapping[Any, Any]) -> dict[Any, Any]:
    """What a process has counted, without what it holds: to be handed to its successor."""
    result: dict[Any, Any] = {}
    for name, value in stats.items():
        if isinstance(value, Mapping):
            result[name] = counters(value)
        elif name not in GAUGES and _is_number(value):
            result[name] = value
    return result


def with_base(stats: Mapping[Any, Any], base: Mapping[Any, Any]) -> dict[Any, Any]:
    """A process's figures together with what its predecessors had counted."""
    whole: dict[Any, Any] = {}
    _add(whole, stats, skip=frozenset())
    _add(whole, base, skip=frozenset())
    return _derived(whole)


class Ledger:
    """Figures of shards as one observer sees them, never falling: for who can't ask what a lost process had counted.

    A successor counts what it was handed of its predecessor's figures; what the observer had seen beyond that is
    carried on here.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, dict[Any, Any]]] = {}
        self._carried: dict[str, dict[Any, Any]] = {}

    def take(self, shard: str, incarnation: str, stats: Mapping[Any, Any]) -> dict[Any, Any]:
        """The figures of one incarnation of a shard, no counter below what was given for the shard before."""
        before = self._seen.get(shard)
        if before is not None and before[0] != incarnation:
            self._carried[shard] = _beyond(before[1], counters(stats))
        whole = with_base(stats, self._carried.get(shard, {}))
        self._seen[shard] = (incarnation, counters(whole))
        return whole


def _beyond(before: Mapping[Any, Any], now: Mapping[Any, Any]) -> dict[Any, Any]:
    """By how much each counter of `before` is above that of `now`."""
    found: dict[Any, Any] = {}
    for name, value in before.items():
        other = now.get(name, {} if isinstance(value, Mapping) else 0)
        if isinstance(value, Mapping):
            found[name] = _beyond(value, other)
        elif value > other:
            found[name] = value - other
    return found


def _add(total: dict[Any, Any], part: Mapping[Any, Any], *, skip: frozenset[str]) -> None:
    if _are_numbers(part, "mean_us", "count"):
        asked = total.get("count", 0) + part["count"]
        spent = total.get("mean_us", 0.0) * total.get("count", 0) + part["mean_us"] * part["count"]
        total["mean_us"] = spent / asked if asked else 0.0
    for name, value in part.items():
        if isinstance(value, Mapping):  # first: a namespace may have the name of a figure
            _add(total.setdefault(name, {}), value, skip=skip)
        elif name in skip or (isinstance(name, str) and name.endswith(("_ratio", "_us"))):
            continue
        elif _is_number(value):
            total[name] = total.get(name, 0) + value
        else:
            total.setdefault(name, value)


def _are_numbers(stats: Mapping[Any, Any], *names: str) -> bool:
    return all(_is_number(stats.get(name)) for name in names)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _derived(stats: dict[Any, Any]) -> dict[Any, Any]:
    for value in stats.values():
        if isinstance(value, dict):
            _derived(value)
    if _are_numbers(stats, "hits", "misses"):
        asked = stats["hits"] + stats["misses"]
        stats["hit_ratio"] = stats["hits"] / asked if asked else 0.0
    if "buckets" in stats and _are_numbers(stats, "count"):
        times = Histogram()
        times.merge(stats["buckets"])
        stats["p50_us"], stats["p99_us"] = times.quantile_ns(0.5) / 1000, times.quantile_ns(0.99) / 1000
    return stats
