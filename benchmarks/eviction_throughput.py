"""Gets a second of the engine with INTELLIGENT beside the same with LRU, hit-heavy and miss-heavy, in one run.

    python -m benchmarks.eviction_throughput [--entries 20000] [--requests 1000000] [--rounds 5]

One request is a get, and after a miss a put of 100 bytes. Hit-heavy: Zipf(1.2) over four times as many keys as the
cache holds. Miss-heavy: uniform over ten times as many. Before the clock starts every key has been put once, so that
the cache is full and each miss evicts, and half of the requests have been made: so many that hit-heavy, too, the cache
holds what the requests have put there. The two engines take turns, 2,000 requests each; the median ratio of the rounds
counts, by processor time.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from benchmarks.ai_traces import zipf
from stratacache.node.clock import ManualClock
from stratacache.node.config import NodeConfig
from stratacache.node.engine import MultiLevelCache
from stratacache.node.types import EvictionPolicy

POLICIES = (EvictionPolicy.LRU, EvictionPolicy.INTELLIGENT)

CHUNK = 2_000
"""Requests of one engine before it is the other's turn: what else the machine does then strikes both."""


def serve(engine: MultiLevelCache, keys: list[bytes], payload: bytes) -> int:
    """Get each key, put what is missed; the number of hits."""
    hits = 0
    for key in keys:
        if engine.get(key) is None:
            engine.put(key, payload)
        else:
            hits += 1
    engine.drain_hits()
    return hits


def race(keys: list[bytes], fill: list[bytes], entries: int) -> dict[EvictionPolicy, tuple[float, float]]:
    """(requests a second, hit ratio) of both policies for the second half of the keys."""
    payload = bytes(100)
    engines = {
        policy: MultiLevelCache(NodeConfig(policy=policy, l1_entries_max=entries), clock=ManualClock())
        for policy in POLICIES
    }
    for engine in engines.values():
        for key in fill:
            engine.put(key, payload)
    half = len(keys) // 2
    hits = dict.fromkeys(POLICIES, 0)
    seconds = dict.fromkeys(POLICIES, 0.0)
    for start in range(0, len(keys), CHUNK):
        chunk = keys[start : start + CHUNK]
        for policy in POLICIES if start // CHUNK % 2 else POLICIES[::-1]:
            began = time.process_time()
            found = serve(engines[policy], chunk, payload)
            if start >= half:
                seconds[policy] += time.process_time() - began
                hits[policy] += found
    return {policy: (half / seconds[policy], hits[policy] / half) for policy in POLICIES}


def main() -> None:
    """Run the command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=20_000)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    draw = np.random.Generator(np.random.PCG64(1))
    loads = {
        "hit-heavy": (4, zipf(draw, options.requests, 4 * options.entries, 1.2)),
        "miss-heavy": (10, draw.integers(0, 10 * options.entries, options.requests)),
    }
    for name, (times, numbers) in loads.items():
        every = [b"key:%d" % number for number in range(times * options.entries)]
        keys = [every[number] for number in numbers.tolist()]
        fill = [every[number] for number in draw.permutation(len(every)).tolist()]
        ratios = []
        for _ in range(options.rounds):
            done = race(keys, fill, options.entries)
            (lru, lru_hits), (ours, our_hits) = (done[policy] for policy in POLICIES)
            ratios.append(ours / lru)
        print(
            f"{name}: median {statistics.median(ratios):.2f}x of LRU ({min(ratios):.2f} to {max(ratios):.2f}); last"
            f" {ours:,.0f}/s, hits {our_hits:.3f}; LRU {lru:,.0f}/s, hits {lru_hits:.3f}"
        )


if __name__ == "__main__":
    main()
