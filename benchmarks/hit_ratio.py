"""Miss ratios of eviction policies on request traces: the engine's own policy objects beside libcachesim's.

    python -m benchmarks.hit_ratio TRACE... --sizes 0.001,0.01,0.1 --policies intelligent,lru,... [--bytes] --json F

A size is a share of the unique keys, with `--bytes` of the bytes of all unique keys. S3-FIFO and W-TinyLFU are left out
where the cache has under 100 objects: libcachesim prints 100 % there. `engine-lru` and so on are the engine's others.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TypedDict

import numpy as np

from benchmarks.replay import BASELINES, ENGINE, Misses, replay
from benchmarks.traces import Trace, read_trace

NEED_100_OBJECTS = frozenset({"s3fifo", "wtinylfu"})
NOT_FIXED = frozenset({"intelligent", "belady"})


class Row(TypedDict):
    """One cell of the table; ratios from 0 to 1."""

    trace: str
    policy: str
    size: float
    requests: int
    misses: int
    miss_ratio: float
    cost_miss_ratio: float
    byte_miss_ratio: float
    seconds: float


def measure(trace: Trace, policy: str, size: float, *, in_bytes: bool, seed: int = 0) -> Row | None:
    """Replay a trace at a size; None where the cell is left out."""
    if policy in NEED_100_OBJECTS and len(trace.sizes) * size < 100:
        return None
    whole = int(trace.sizes.sum()) if in_bytes else len(trace.sizes)
    began = time.perf_counter()
    misses = replay(trace, policy, max(1, int(whole * size)), in_bytes=in_bytes, seed=seed)
    seconds = time.perf_counter() - began
    return Row(
        trace=trace.name,
        policy=policy,
        size=size,
        requests=len(misses),
        misses=int(misses.sum()),
        miss_ratio=float(misses.mean()),
        cost_miss_ratio=_weighted(misses, trace.costs[trace.keys]),
        byte_miss_ratio=_weighted(misses, trace.sizes[trace.keys]),
        seconds=round(seconds, 3),
    )


def _weighted(misses: Misses, weights: np.ndarray) -> float:
    return float((misses * weights).sum() / weights.sum())


def regrets(rows: list[Row], column: str = "miss_ratio") -> dict[tuple[str, float], float]:
    """For each cell, INTELLIGENT less the best fixed policy of that cell, in points (negative: better)."""
    cells: dict[tuple[str, float], dict[str, float]] = {}
    for row in rows:
        cells.setdefault((row["trace"], row["size"]), {})[row["policy"]] = 100 * float(row[column])  # type: ignore[literal-required]
    return {
        cell: found["intelligent"] - min(value for policy, value in found.items() if policy not in NOT_FIXED)
        for cell, found in cells.items()
        if "intelligent" in found and any(policy not in NOT_FIXED for policy in found)
    }


def table(rows: list[Row], policies: list[str], column: str) -> str:
    """Percentages as a Markdown table, a row for each trace and size, with the regret at the end."""
    found = {(row["trace"], row["size"], row["policy"]): row for row in rows}
    regret = regrets(rows, column)
    lines = [f"| trace | size % | {' | '.join(policies)} | regret |", "|---|--:|" + "--:|" * (len(policies) + 1)]
    for trace, size in dict.fromkeys((row["trace"], row["size"]) for row in rows):
        values = [found.get((trace, size, policy)) for policy in policies]
        cells = [f"{100 * float(row[column]):.2f}" if row else "-" for row in values]  # type: ignore[literal-required]
        last = f"{regret[trace, size]:+.2f}" if (trace, size) in regret else "-"
        lines.append(f"| {trace} | {100 * size:g} | {' | '.join(cells)} | {last} |")
    if regret:
        values_ = list(regret.values())
        lines.append(f"\nregret in points, mean / worst: {np.mean(values_):+.2f} / {max(values_):+.2f}")
    return "\n".join(lines)


def main() -> None:
    """Run the command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="+", type=Path, metavar="TRACE")
    parser.add_argument("--sizes", default="0.001,0.01,0.1")
    parser.add_argument("--policies", default=",".join(["intelligent", *BASELINES]))
    parser.add_argument("--bytes", action="store_true", dest="in_bytes", help="sizes are shares of the footprint")
    parser.add_argument("--requests-max", type=int)
    parser.add_argument("--cost", default="column", choices=["column", "unit", "size", "lognormal"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="PNG; beside the JSON file when not given")
    options = parser.parse_args()
    policies = options.policies.split(",")
    if unknown := sorted(set(policies) - BASELINES.keys() - ENGINE.keys()):
        parser.error(f"unknown policies {', '.join(unknown)}; known: {', '.join([*ENGINE, *BASELINES])}")
    rows: list[Row] = []
    for path in options.traces:
        trace = read_trace(path, options.requests_max, options.cost)
        for size in map(float, options.sizes.split(",")):
            for policy in policies:
                row = measure(trace, policy, size, in_bytes=options.in_bytes, seed=options.seed)
                if row is not None:
                    rows.append(row)
    for column in (
        ("miss_ratio", "cost_miss_ratio")
        if any(row["cost_miss_ratio"] != row["miss_ratio"] for row in rows)
        else ("miss_ratio",)
    ):
        print(f"{column}, percent\n\n{table(rows, policies, column)}\n")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if plot := options.plot or (options.json and options.json.with_suffix(".png")):
        from benchmarks.hit_plot import draw

        draw(rows, plot)


if __name__ == "__main__":
    main()
