"""Counters of a node: per level here, per namespace in the groups, merged where a figure for all is asked for.

Invariants: counters only grow; a ratio is computed when it is asked for, so that it is right at every moment; what
statistics hold does not grow with what clients name: beyond a number of namespaces the others are one, `:others`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from .types import RemovalCause

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .engine import MultiLevelCache
    from .groups import Namespace
    from .histogram import Histogram

HOT_KEYS: Final = 16
HOT_KEY_BYTES: Final = 128
OTHERS: Final = ":others"
"""No namespace and no operation has a colon in its name."""


def _no_removals() -> dict[RemovalCause, int]:
    return dict.fromkeys(RemovalCause, 0)


@dataclass
class LevelCounters:
    """What happened in one level. `promotions` are entries that left upwards, `demotions` those that left downwards.

    `rewritten` are entries that a put of their key changed in place: to the outside they were replaced.
    """

    hits: int = 0
    misses: int = 0
    puts: int = 0
    promotions: int = 0
    demotions: int = 0
    rewritten: int = 0
    removed: dict[RemovalCause, int] = field(default_factory=_no_removals)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for the wire."""
        return {
            "hits": self.hits,
            "misses": self.misses,
            "hit_ratio": ratio(self.hits, self.misses),
            "puts": self.puts,
            "promotions": self.promotions,
            "demotions": self.demotions,
            "removed": {cause.value: self.removed_by(cause) for cause in RemovalCause},
        }

    def removed_by(self, cause: RemovalCause) -> int:
        """How many entries left for a cause."""
        return self.removed[cause] + (self.rewritten if cause is RemovalCause.REPLACED else 0)


def ratio(hits: int, misses: int) -> float:
    """Hits by requests; 0.0 before the first request."""
    return hits / (hits + misses) if hits else 0.0


def namespace_dict(record: Namespace) -> dict[str, Any]:
    """Counters of one namespace as plain numbers."""
    return {
        "hits": record.hits,
        "misses": record.misses,
        "hit_ratio": ratio(record.hits, record.misses),
        "puts": record.puts,
        "entries": record.entries,
        "bytes": record.bytes,
        "evicted": record.evicted,
        "expired": record.expired,
        "invalidated": record.invalidated,
    }


def times_dict(times: Histogram) -> dict[str, Any]:
    """Access times: quantiles in microseconds, and the buckets for an exact merge."""
    count = sum(times.counts)
    return {
        "count": count,
        "mean_us": times.total_ns / count / 1000 if count else 0.0,
        "p50_us": times.quantile_ns(0.5) / 1000,
        "p99_us": times.quantile_ns(0.99) / 1000,
        "buckets": times.as_dict(),
    }


def hot_keys(node: MultiLevelCache) -> list[list[Any]]:
    """The keys that were read most, as text, each with its estimated hits."""
    return [[key[:HOT_KEY_BYTES].decode("utf-8", "backslashreplace"), hits] for key, hits in node.hot.top(HOT_KEYS)]


def node_dict(node: MultiLevelCache) -> dict[str, Any]:
    """Counters and gauges of a node, its levels and its namespaces, as plain numbers."""
    totals = totals_dict(node)
    return totals | {"namespaces": _namespaces(node, totals), "hot": hot_keys(node)}


def totals_dict(node: MultiLevelCache) -> dict[str, Any]:
    """`node_dict` without what grows with the number of namespaces: in a fixed time."""
    levels: dict[str, Any] = {}
    memory = [level for level in (node.l1, node.l2) if level is not None]
    for level in memory:
        levels[level.kind.value] = level.counters.as_dict() | {
            "entries": len(level.table),
            "bytes_used": level.bytes_used,
            "bytes_max": level.bytes_max,
            "policy": level.policy.name,
        }
    if node.l3 is not None:
        levels["l3_disk"] = node.l3.stats()
    return {
        "hits": node.hits,
        "misses": node.misses,
        "hit_ratio": ratio(node.hits, node.misses),
        "puts": node.puts,
        "entries": len(node),
        "removed": {cause.value: sum(level.counters.removed_by(cause) for level in memory) for cause in RemovalCause},
        "memory_bytes": node.residents.bytes_used,
        "disk_bytes": levels["l3_disk"]["bytes_used"] if node.l3 is not None else 0,
        "access_times": times_dict(node.access_times),
        "leases": {
            "live": len(node.leases),
            "granted": node.leases.granted,
            "refused": node.leases.refused,
        },
        "inv_seq": node.inv_seq,
        "saved_s": node.insight.saved_s,
        "levels": levels,
        "near_hits": node.insight.near_hits,
        **node.insight.as_dict(),
        "recipes": {"entries": len(node.recipes.kept), "bytes_used": node.recipes.bytes_used},
    }


def _namespaces(node: MultiLevelCache, totals: dict[str, Any]) -> dict[str, Any]:
    saved = node.insight.saved_by_namespace()
    found = {}
    groups = node.groups
    for raw, record in groups.named.items():
        name = raw.decode("utf-8", "replace")
        near_hits, saved_s = saved.get(name, (0, 0.0))
        found[name] = {**namespace_dict(record), "near_hits": near_hits, "saved_s": saved_s}
    if len(groups.namespaces) > len(groups.named):
        found[OTHERS] = _others(found.values(), totals)
    return found


def _others(named: Iterable[dict[str, Any]], totals: dict[str, Any]) -> dict[str, Any]:
    """What all is beyond the named ones: no need to walk through the others."""
    left = {name: totals[name] for name in ("hits", "misses", "puts", "entries", "near_hits", "saved_s")}
    for figures in named:
        for name in left:
            left[name] -= figures[name]
    return {**left, "hit_ratio": ratio(left["hits"], left["misses"])}
