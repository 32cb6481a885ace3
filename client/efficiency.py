"""What the cache is worth: seconds and dollars saved, where they come from, and what would save more.

Pure: from merged statistics (`stats()["total"]`, or the coordinator's) to a report. Seconds saved are the measured
costs of the entries that were hit; entries of unknown cost save nothing here. The cache's own time is taken off.

Invariants: nothing is estimated that was not measured; a figure that is not known is left out, never 0 in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

BELOW_L1_SHARE: Final = 0.1
EVICTED_SHARE: Final = 0.2
EXPIRED_SHARE: Final = 0.3
PUTS_MIN: Final = 100


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What computing costs: dollars a second, and dollars a call by operation (a hosted model's price)."""

    dollars_a_second: float = 0.0
    dollars_a_call: Mapping[str, float] = field(default_factory=dict)


def efficiency(
    total: Mapping[str, Any],
    *,
    own_s: float | None = None,
    prices: Prices | None = None,
    prefetch: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The report. `own_s`: seconds that callers have waited for the cache, when they were measured.

    Without it the shards' own access times are taken off, which leaves out the way there and back.
    """
    operations = total.get("operations", {})
    saved_s = sum(figures["saved_s"] for figures in operations.values())
    spent_s = _shards_s(total) if own_s is None else own_s
    hits = total.get("hits", 0) + total.get("near_hits", 0)
    asked = hits + total.get("misses", 0)
    report: dict[str, Any] = {
        "hits": hits,
        "near_hits": total.get("near_hits", 0),
        "misses": total.get("misses", 0),
        "hit_ratio": hits / asked if asked else 0.0,
        "seconds_saved": {
            "gross": saved_s,
            "cache_itself": spent_s,
            "net": saved_s - spent_s,
            "by_operation": _saved(operations),
            "by_model": _saved(total.get("models", {})),
            "by_namespace": _saved(total.get("namespaces", {})),
        },
        "seconds_computed": sum(figures["computed_s"] for figures in operations.values()),
        "recommendations": recommendations(total, prefetch),
    }
    if prices is not None:
        report["dollars_saved"] = _dollars(operations, prices, saved_s - spent_s)
    if prefetch is not None:
        report["prefetch"] = dict(prefetch)
    return report


def _saved(table: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    rows = sorted(table.items(), key=lambda row: -row[1].get("saved_s", 0.0))
    return {name: figures["saved_s"] for name, figures in rows if figures.get("saved_s", 0.0) > 0}


def _shards_s(total: Mapping[str, Any]) -> float:
    """Seconds that the shards spent on gets: the mean of the timed ones, for all of them."""
    mean_us: float = total.get("access_times", {}).get("mean_us", 0.0)
    gets: int = total.get("hits", 0) + total.get("misses", 0)
    return mean_us * gets / 1e6


def _dollars(operations: Mapping[str, Mapping[str, Any]], prices: Prices, net_s: float) -> float:
    calls = sum(
        prices.dollars_a_call.get(name, 0.0) * (figures["hits"] + figures["near_hits"])
        for name, figures in operations.items()
    )
    return float(net_s * prices.dollars_a_second + calls)


def recommendations(total: Mapping[str, Any], prefetch: Mapping[str, Any] | None = None) -> list[str]:
    """What to change, in words; empty when nothing stands out."""
    found = [*_of_levels(total), *_of_namespaces(total.get("namespaces", {}))]
    for kind, account in (prefetch or {}).items():
        if isinstance(account, Mapping) and account.get("switched_off") and not account.get("on"):
            found.append(
                f"{kind} has switched itself off: only {account['precision']:.0%} of its prefetches were used in time. "
                "It tries again by itself; longer TTLs would give it more room"
            )
    return found


def _of_levels(total: Mapping[str, Any]) -> list[str]:
    levels = total.get("levels", {})
    hits = {name: figures.get("hits", 0) for name, figures in levels.items()}
    found = []
    below = sum(count for name, count in hits.items() if name != "l1_memory")
    everything = sum(hits.values())
    if everything >= PUTS_MIN and below > BELOW_L1_SHARE * everything:
        found.append(
            f"L1 is too small: {below / everything:.0%} of the hits came from below it. "
            "Raise l1_bytes_max, or add shards"
        )
    puts, evicted = total.get("puts", 0), total.get("removed", {}).get("evicted", 0)
    if puts >= PUTS_MIN and evicted > EVICTED_SHARE * puts and "l3_disk" not in levels:
        found.append(
            f"memory is too small: {evicted / puts:.0%} of what was put was evicted. "
            "Raise l1_bytes_max or l2_bytes_max, or give the shards a data_dir"
        )
    return found


def _of_namespaces(namespaces: Mapping[str, Mapping[str, Any]]) -> list[str]:
    found = []
    for name, figures in namespaces.items():
        puts = figures.get("puts", 0)
        if puts < PUTS_MIN:
            continue
        hits = figures.get("hits", 0) + figures.get("near_hits", 0)
        if not hits:
            found.append(f"namespace {name} had {puts} puts and no hit: don't cache what is never asked for again")
        elif figures.get("expired", 0) > EXPIRED_SHARE * puts:
            found.append(
                f"the TTLs of namespace {name} are too short: {figures['expired'] / puts:.0%} of its entries expired. "
                "Give them longer, or refreshable=True"
            )
    return found
