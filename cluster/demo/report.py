"""What the demo found, as a dictionary for programs and as a page for people.

Every figure comes from a pass that ran: computed calls are counted where they ran, wrong results are compared with the
uncached reference, and hits, keys and bytes are the shards' own counters.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Report:
    """The demo's result; the fields' names are the keys of `--json`.

    Seconds are wall-clock seconds of whole passes. `shards` maps a shard's id to its keys, hits, misses and bytes;
    `levels` maps a level to its hits and misses. `seconds_saved` is the work that the uncached pass did and the warm
    one did not. `refreshed_ahead` counts the scheduled reads that found a result which a Ray task had computed after
    the one of the last read.
    """

    chunks: int
    distinct_chunks: int
    operations: list[str]
    uncached_s: float
    cold_s: float
    warm_s: float
    speedup: float
    hits: int
    misses: int
    shards: dict[str, dict[str, int]]
    levels: dict[str, dict[str, int]]
    seconds_saved: float
    invalidated: int
    stale_after_invalidation: int
    recomputed_after_invalidation: int
    recomputed_of_other_models: int
    survived_shard_kill: bool
    killed_shard: str
    recomputed_after_kill: int
    scheduled_reads: int
    refreshed_ahead: int
    wrong_results: int

    @property
    def good(self) -> bool:
        """Whether all that the demo promises was seen."""
        return (
            self.wrong_results == 0
            and self.stale_after_invalidation == 0
            and self.recomputed_after_invalidation == self.invalidated > 0
            and self.recomputed_of_other_models == 0
            and self.survived_shard_kill
            and self.refreshed_ahead > 0
        )

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON types."""
        return asdict(self)

    def page(self) -> str:
        """The report as text."""
        lines = [
            "",
            f"  without the cache {self.uncached_s:8.2f} s",
            f"  cold              {self.cold_s:8.2f} s",
            f"  warm              {self.warm_s:8.2f} s    {self.speedup:.1f} x faster than cold",
            f"  work saved        {self.seconds_saved:8.2f} s    in the warm run alone",
            "",
            f"  hits {self.hits:,}   misses {self.misses:,}   (cold and warm run)",
            "",
            "  level                hits     misses",
        ]
        lines += [f"  {name:<16}{row['hits']:>9,}  {row['misses']:>9,}" for name, row in self.levels.items()]
        lines += ["", "  shard               keys       hits     misses        bytes"]
        lines += [
            f"  {name:<14}{row['keys']:>10,} {row['hits']:>10,} {row['misses']:>10,} {row['bytes']:>12,}"
            for name, row in self.shards.items()
        ]
        return "\n".join(lines)
