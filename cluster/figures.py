"""What `stratacache top` shows: one picture out of a view and the shards' statistics.

Invariant: ratios and rates are made from sums, and a rate only from two pictures of the same processes; what no shard
told is not guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from stratacache.client.ring import Ring
from stratacache.client.view import ACTIVE, View

HOT_KEYS_SHOWN: Final = 10
_SUMMED: Final = ("hits", "misses", "puts", "entries", "memory_bytes", "saved_s")
_OF_LEVEL: Final = ("hits", "misses", "entries", "bytes_used", "bytes_max")


def picture(
    view: View, stats: Mapping[str, Any], earlier: Mapping[str, Any] | None = None, interval_s: float = 0.0
) -> dict[str, Any]:
    """The figures as plain values, for JSON and for the screen.

    `stats` is what a client's `stats()` gives. With the picture of `interval_s` before there are rates too.
    """
    shares = Ring(view).shares()
    told = stats["shards"]
    shards = [
        {
            "id": shard.id,
            "address": shard.address,
            "state": shard.state if shard.id in told else "silent" if shard.state == ACTIVE else shard.state,
            "share": round(shares[shard.id], 4),
            **_figures(told.get(shard.id, {})),
        }
        for shard in view.shards
    ]
    before = {shard["id"]: shard for shard in earlier["shards"]} if earlier is not None else {}
    for shard in shards:
        shard.update(_rates(shard, before.get(shard["id"]), interval_s))
    hot = [
        {"key": key, "hits": hits, "shard": shard}
        for shard, figures in told.items()
        for key, hits in figures.get("hot", ())
    ]
    total: dict[str, Any] = {name: sum(shard[name] for shard in shards) for name in _SUMMED}
    total["hit_ratio"] = _ratio(total)
    for name in ("gets_per_s", "puts_per_s"):
        rates = [shard[name] for shard in shards if shard[name] is not None]
        total[name] = round(sum(rates), 1) if rates else None
    return {
        "cluster": view.cluster,
        "epoch": view.epoch,
        "ready": all(shard["state"] == ACTIVE for shard in shards),
        "total": total,
        "levels": _levels(told),
        "shards": shards,
        "hot": sorted(hot, key=lambda one: (-one["hits"], one["key"]))[:HOT_KEYS_SHOWN],
    }


def _figures(stats: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {name: stats.get(name, 0) for name in _SUMMED}
    return {**found, "hit_ratio": _ratio(found)}


def _levels(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    levels: dict[str, dict[str, Any]] = {}
    for stats in told.values():
        for level, figures in stats.get("levels", {}).items():
            sums = levels.setdefault(level, {"level": level, **dict.fromkeys(_OF_LEVEL, 0)})
            for name in _OF_LEVEL:
                sums[name] += figures.get(name, 0)
    return [{**sums, "hit_ratio": _ratio(sums)} for sums in levels.values()]


def _rates(now: Mapping[str, Any], before: Mapping[str, Any] | None, interval_s: float) -> dict[str, float | None]:
    """Gets and puts each second; None where a shard is new, or its figures began anew."""
    if before is None or interval_s <= 0 or any(now[name] < before[name] for name in ("hits", "misses", "puts")):
        return {"gets_per_s": None, "puts_per_s": None}
    gets = now["hits"] + now["misses"] - before["hits"] - before["misses"]
    return {
        "gets_per_s": round(gets / interval_s, 1),
        "puts_per_s": round((now["puts"] - before["puts"]) / interval_s, 1),
    }


def _ratio(figures: Mapping[str, Any]) -> float:
    asked = figures["hits"] + figures["misses"]
    return round(figures["hits"] / asked, 4) if asked else 0.0
