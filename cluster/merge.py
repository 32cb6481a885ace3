"""One picture of a cluster out of its shards' figures.

Invariants: counters add up and never fall, also when a shard's process is replaced (what the old one had counted, as
far as it was seen, is carried over); gauges (what is held now) add up and are not carried; ratios are computed again
from their parts, never averaged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

GAUGES: Final = frozenset(
    {
        "entries",
        "bytes",
        "bytes_used",
        "bytes_max",
        "memory_bytes",
        "live",
        "queue_bytes",
        "queued_bytes",
        "pid",
        "epoch",
        "uptime_ms",
        "serving",
        "disabled",
        "connections",
    }
)
"""Names of figures that say what is now; every other number counts what has been."""
_NOT_SUMMED: Final = frozenset({"pid", "epoch", "uptime_ms", "serving"})


def merged_stats(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of several shards' figures, level by level and namespace by namespace."""
    total: dict[str, Any] = {}
    for part in parts:
        _add(total, part, skip=_NOT_SUMMED)
    return _with_ratios(total)


class Carried:
    """Keeps what earlier incarnations of each shard had counted when they were last seen."""

    def __init__(self) -> None:
        self._base: dict[str, dict[str, Any]] = {}
        self._last: dict[str, tuple[int, dict[str, Any]]] = {}

    def add(self, shard: str, incarnation: int, stats: Mapping[str, Any] | None) -> dict[str, Any]:
        """A shard's figures over all its incarnations; with `stats` None, those that were last seen."""
        number, last = self._last.get(shard, (incarnation, {}))
        base = self._base.setdefault(shard, {})
        if number != incarnation:
            _add(base, _counters(last), skip=frozenset())
            last = {}
        if stats is not None:
            last = dict(stats)
        self._last[shard] = (incarnation, last)
        whole: dict[str, Any] = {}
        _add(whole, last, skip=frozenset())
        _add(whole, base, skip=frozenset())
        return _with_ratios(whole)


def _counters(stats: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in stats.items():
        if isinstance(value, Mapping):
            result[name] = _counters(value)
        elif name not in GAUGES and _is_number(value):
            result[name] = value
    return result


def _add(total: dict[Any, Any], part: Mapping[Any, Any], *, skip: frozenset[str]) -> None:
    for name, value in part.items():
        if name in skip or str(name).endswith("_ratio"):
            continue
        if isinstance(value, Mapping):
            _add(total.setdefault(name, {}), value, skip=skip)
        elif _is_number(value):
            total[name] = total.get(name, 0) + value
        elif isinstance(value, list) and all(map(_is_number, value)):
            known = total.get(name, [0] * len(value))
            total[name] = [one + other for one, other in zip(known, value, strict=True)]
        else:
            total.setdefault(name, value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _with_ratios(stats: dict[str, Any]) -> dict[str, Any]:
    for value in stats.values():
        if isinstance(value, dict):
            _with_ratios(value)
    if "hits" in stats and "misses" in stats:
        asked = stats["hits"] + stats["misses"]
        stats["hit_ratio"] = stats["hits"] / asked if asked else 0.0
    return stats
