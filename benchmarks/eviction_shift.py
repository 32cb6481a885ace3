"""A trace made of three workloads in a row: INTELLIGENT in each part beside the best fixed policy for that part alone.

    python -m benchmarks.eviction_shift [--length 40000] [--entries 1000] [--seeds 5]
    python -m benchmarks.eviction_shift --mixtures 60
    python -m benchmarks.eviction_shift --loops

Parts: Zipf(1.0) over ten times the entries of the cache; a loop of 5/3 of them; sessions that ask again for all that
they have used, one session for each 30 entries at a time. Counted is the rest of each part once 10 % of the whole trace
have passed since it began. A fixed policy gets the part with an empty cache, and the best of them is known with
hindsight only. Goal: within 2 points of it in each part.

Shorter parts leave more to chance: with 12,000 requests and 300 entries a part has sixty sessions, and what any policy
misses of them, less what the best of ten does, scatters by 1.2 points (one standard deviation; LRU by up to 6.5).

`--mixtures`: so many traces of three parts each, drawn from six kinds of workload, with 300 to 2,000 entries and parts
of 20 to 60 times as many requests; a summary over their second and third parts.

`--loops`: a loop of which a share fits into the cache, 40 fills long after 20 fills of another workload; its hits from
the 15th fill on.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.ai_traces import Keys, sessions, zipf
from benchmarks.hit_ratio import NEED_100_OBJECTS
from benchmarks.replay import BASELINES, replay
from benchmarks.traces import make_trace

GOAL_POINTS = 2.0
FIXED = tuple(name for name in BASELINES if name != "belady")


class Part(NamedTuple):
    """One part of the trace; miss ratios from 0 to 1."""

    name: str
    ours: float
    best: float
    best_policy: str


def measure(seed: int, length: int = 40_000, entries: int = 1_000, policies: Sequence[str] = FIXED) -> list[Part]:
    """Replay the three parts in a row with INTELLIGENT, and each of them alone with every fixed policy."""
    draw = np.random.Generator(np.random.PCG64(seed))
    parts = {
        "zipf": zipf(draw, length, 10 * entries, 1.0),
        "loop": np.arange(length) % (5 * entries // 3),
        "sessions": sessions(draw, length, max(1, entries // 30), 3),
    }
    return compare(parts, entries, policies)


def compare(parts: Mapping[str, Keys], entries: int, policies: Sequence[str] = FIXED) -> list[Part]:
    """As `measure`, for parts of equal length. The keys of each are others than those of the parts before."""
    length = len(next(iter(parts.values())))
    keys = np.concatenate([keys + 10**9 * number for number, keys in enumerate(parts.values())])
    ours = replay(make_trace("shift", keys), "intelligent", entries, in_bytes=False)
    settle = 3 * length // 10
    found = []
    for number, (name, alone_keys) in enumerate(parts.items()):
        alone = make_trace(name, alone_keys)
        fixed = {
            policy: float(replay(alone, policy, entries, in_bytes=False)[settle:].mean())
            for policy in policies
            if policy not in NEED_100_OBJECTS or entries >= 100
        }
        best = min(fixed, key=fixed.__getitem__)
        got = float(ours[number * length + settle : (number + 1) * length].mean())
        found.append(Part(name, got, fixed[best], best))
    return found


def draw_parts(seed: int) -> tuple[dict[str, Keys], int]:
    """Three parts of different kinds, and how many entries the cache has."""
    draw = np.random.Generator(np.random.PCG64(seed))
    entries = int(draw.choice([300, 500, 1_000, 2_000]))
    length = entries * int(draw.choice([20, 30, 40, 60]))
    steps = np.arange(length)
    drawn: dict[str, Keys] = {
        "zipf": zipf(draw, length, 10 * entries, float(draw.choice([0.7, 0.9, 1.0, 1.2]))),
        "loop": steps % int(entries * draw.uniform(1.2, 4)),
        "sessions": sessions(draw, length, max(1, entries // 30), 3),
        "scans": np.where(draw.random(length) < 0.3, 10**8 + steps, zipf(draw, length, 5 * entries, 1.0)),
        "drift": zipf(draw, length, 6 * entries, 1.0) + steps // 10,
        "uniform": draw.integers(0, 4 * entries, length),
    }
    return {name: drawn[name] for name in draw.permutation(list(drawn)).tolist()[:3]}, entries


def mixtures(count: int) -> None:
    """Print how far INTELLIGENT is behind after changes between workloads of all kinds."""
    behind = []
    for seed in range(count):
        parts, entries = draw_parts(seed)
        for part in compare(parts, entries)[1:]:
            behind.append(100 * (part.ours - part.best))
            if behind[-1] > GOAL_POINTS:
                kinds = ", ".join(parts)
                print(f"mixture {seed} ({kinds}), {entries} entries: {part.name} {behind[-1]:+.2f} points")
    above = sum(points > GOAL_POINTS for points in behind)
    print(f"{len(behind)} parts: mean {np.mean(behind):+.2f}, worst {max(behind):+.2f} points, {above} above +2")


def loops() -> None:
    """Print what a loop hits after another workload; no policy can hit more than the share of it that fits."""
    draw = np.random.Generator(np.random.PCG64(4))
    for entries in (500, 1_000, 2_000):
        before = {
            "zipf": zipf(draw, 20 * entries, 10 * entries, 1.0),
            "uniform": draw.integers(0, 4 * entries, 20 * entries),
            "scan": np.arange(20 * entries),
        }
        for share in (0.54, 0.38, 0.3):
            loop = 10**9 + np.arange(40 * entries) % int(entries / share)
            for name, keys in before.items():
                trace = make_trace("loop", np.concatenate([keys, loop]))
                hits = 1 - replay(trace, "intelligent", entries, in_bytes=False)[35 * entries :].mean()
                print(f"{entries} entries, {share:.0%} of the loop fit, after {name:7}: {hits:.1%} hit")


def main() -> None:
    """Run the command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=40_000, help="requests in each part")
    parser.add_argument("--entries", type=int, default=1_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--mixtures", type=int, default=0, help="instead: so many traces of parts that are drawn")
    parser.add_argument("--loops", action="store_true", help="instead: loops after other workloads")
    options = parser.parse_args()
    if options.loops:
        loops()
        return
    if options.mixtures:
        mixtures(options.mixtures)
        return
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
