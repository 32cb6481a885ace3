"""A trace made of three workloads in a row: INTELLIGENT in each part beside the best fixed policy for that part alone.

    python -m benchmarks.eviction_shift [--length 12000] [--entries 300] [--seeds 5]

Parts: Zipf(1.0) over ten times the entries of the cache; a loop of 5/3 of them; sessions that ask again for all that
they have used. Counted is the rest of each part once 10 % of the whole trace have passed since it began. A fixed policy
gets the part with an empty cache, and the best of them is known with hindsight only. Goal: within 2 points of it in
each part.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.ai_traces import sessions, zipf
from benchmarks.hit_ratio import NEED_100_OBJECTS
from benchmarks.replay import BASELINES, replay
from benchmarks.traces import make_trace

FIXED = tuple(name for name in BASELINES if name != "belady")


class Part(NamedTuple):
    """One part of the trace; miss ratios from 0 to 1."""

    name: str
    ours: float
    best: float
    best_policy: str


def measure(seed: int, length: int = 12_000, entries: int = 300, policies: Sequence[str] = FIXED) -> list[Part]:
    """Replay the three parts in a row with INTELLIGENT, and each of them alone with every fixed policy."""
    draw = np.random.Generator(np.random.PCG64(seed))
    parts = {
        "zipf": zipf(draw, length, 10 * entries, 1.0),
        "loop": 10**6 + np.arange(length) % (5 * entries // 3),
        "sessions": 10**7 + sessions(draw, length, 10, 3),
    }
    ours = replay(make_trace("shift", np.concatenate(list(parts.values()))), "intelligent", entries, in_bytes=False)
    settle = 3 * length // 10
    found = []
    for number, (name, keys) in enumerate(parts.items()):
        alone = make_trace(name, keys)
        fixed = {
            policy: float(replay(alone, policy, entries, in_bytes=False)[settle:].mean())
            for policy in policies
            if policy not in NEED_100_OBJECTS or entries >= 100
        }
        best = min(fixed, key=fixed.__getitem__)
        got = float(ours[number * length + settle : (number + 1) * length].mean())
        found.append(Part(name, got, fixed[best], best))
    return found


def main() -> None:
    """Run the command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=12_000, help="requests in each part")
    parser.add_argument("--entries", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    worst = -100.0
    for seed in range(options.seeds):
        for part in measure(seed, options.length, options.entries):
            behind = 100 * (part.ours - part.best)
            worst = max(worst, behind)
            print(
                f"seed {seed} {part.name:8} {100 * part.ours:6.2f} %, best {part.best_policy} {100 * part.best:.2f} %:"
                f" {behind:+.2f} points"
            )
    print(f"worst {worst:+.2f} points")


if __name__ == "__main__":
    main()
