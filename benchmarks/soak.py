"""A node at full load with all three levels busy: `python -m benchmarks.soak --seconds 600 --json F`.

One thread puts, reads, tags, expires and invalidates as fast as it can. Memory is the anonymous part of the resident
set, beyond what the process had before the node began: pages of the mapped database belong to the kernel's cache.
It must stay under the budgets (L1 + L2 + the queue for the disk) + 20 %, and not grow once the levels are full.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from stratacache.node.config import NodeConfig
from stratacache.node.engine import MultiLevelCache
from stratacache.node.entry import Entry
from stratacache.node.tuning import tune_process
from stratacache.node.types import EvictionPolicy, RemovalCause

MIB = 1 << 20
L1, L2, L3, QUEUE = 128 * MIB, 32 * MIB, 256 * MIB, 16 * MIB
OVER_MAX = 1.2
GROWTH_MAX = 1.05  # mean of the second half over mean of the first half; the time begins when the levels are full
GROWTH_SHORT_MAX = 1.10  # in less than two minutes the heap has not come to rest
KEYS = 200_000
WARM_UP_MAX_S = 60.0


def anonymous_bytes() -> int:
    """Anonymous resident memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no RssAnon in /proc/self/status: this soak needs Linux")


def soak(seconds: float, policy: EvictionPolicy, directory: Path, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    noise = rng.randbytes(MIB)
    text = b"the quick brown fox jumps over the lazy dog " * 1000
    tune_process()
    before = anonymous_bytes()
    engine = MultiLevelCache(
        NodeConfig(
            l1_bytes_max=L1,
            l2_bytes_max=L2,
            l3_bytes_max=L3,
            l3_queue_bytes_max=QUEUE,
            policy=policy,
            data_dir=directory,
        )
    )
    begun = start = time.monotonic()
    sampled = ticked = start
    samples: list[int] = []
    operations = wrong = 0
    full = False
    peak = 0
    while (now := time.monotonic()) < start + seconds:
        for _ in range(50):
            operations += 1
            number = int(KEYS * rng.random() ** 3)
            key = b"space%d:%d" % (number % 3, number)
            chance = rng.random() if full else 0.9  # puts only, until the levels are full
            if chance < 0.6:
                found = engine.get(key)
                if isinstance(found, Entry) and not found.payload.endswith(b"/%d" % number):
                    wrong += 1
            elif chance < 0.9985:
                size = int(rng.lognormvariate(7.0, 1.2)) % 60_000
                at = rng.randrange(MIB - 60_000)
                body = noise[at : at + size] if number % 2 else text[: min(size, len(text))]
                ttl_ms = rng.randrange(500, 5000) if number % 10 == 0 else rng.randrange(60_000, 600_000)
                expires_ms = engine.now_ms() + ttl_ms
                tags = (b"model:%d" % (number % 20), b"doc:%d" % (number % 5000))
                engine.put(key, body + b"/%d" % number, expires_ms=expires_ms, tags=tags if number % 4 else ())
            elif chance < 0.99997:
                engine.invalidate_tags((b"doc:%d" % rng.randrange(5000),))
            elif chance < 0.999998:
                engine.invalidate_tags((b"model:%d" % rng.randrange(20),))
            else:
                engine.invalidate_namespace(b"space%d" % rng.randrange(3))
        if now - ticked >= 0.05:
            ticked = now
            engine.tick()
        if now - sampled >= min(1.0, seconds / 40):
            sampled = now
            samples.append(anonymous_bytes() - before)
            if not full:
                assert now - begun < WARM_UP_MAX_S, "the levels do not fill up"
                assert engine.l2 is not None
                full = engine.l2.counters.removed[RemovalCause.EVICTED] > 1000
                start = now
                peak, samples = max(peak, samples[-1]), []
    engine.validate()
    stats = engine.stats()
    engine.close()
    budget = L1 + L2 + QUEUE
    peak = max(peak, *samples)
    samples = samples[len(samples) // 4 :]  # the heap settles
    half = len(samples) // 2
    return {
        "seconds": seconds,
        "policy": policy.value,
        "warm_up_seconds": start - begun,
        "operations": operations,
        "wrong_values": wrong,
        "budget_bytes": budget,
        "memory_max_bytes": peak,
        "memory_vs_budget": peak / budget,
        "growth": (sum(samples[half:]) / len(samples[half:])) / (sum(samples[:half]) / half),
        "hits": {name: level["hits"] for name, level in stats["levels"].items()},
        "demotions": stats["levels"]["l1_memory"]["demotions"],
        "disk_on": stats["levels"]["l3_disk"]["on"],
        "disk_bytes": stats["levels"]["l3_disk"]["bytes_used"],
        "disk_skipped": stats["levels"]["l3_disk"]["skipped"],
        "removed": stats["removed"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--policy", default="lru", choices=[policy.value for policy in EvictionPolicy])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        figures = soak(options.seconds, EvictionPolicy(options.policy), Path(directory) / "l3", options.seed)
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures) + "\n")
    good = (
        figures["memory_vs_budget"] <= OVER_MAX
        and figures["growth"] <= (GROWTH_MAX if options.seconds >= 120 else GROWTH_SHORT_MAX)
        and not figures["wrong_values"]
        and figures["disk_on"]
        and figures["disk_bytes"] <= L3
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
