"""The ring against its ideal: `python -m benchmarks.ring --shards 1000 --json F`.

Routes 10,000 keys with R=2, and measures balance, the share of keys that move when a shard is added, the points' memory
and the bytes of the view. Times are of this process's CPU: what else runs on the machine counts for little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

from stratacache.client.ring import Ring
from stratacache.client.view import ShardInfo, View

KEYS = 10_000
BALANCE_KEYS = 300_000
ROUNDS = 5


def view_of(count: int, replicas: int) -> View:
    shards = tuple(
        ShardInfo(
            id=f"shard-{i}",
            host=f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}",
            port=6380 + i % 8,
            unix=f"/tmp/stratacache/default/shard-{i}.sock",
            incarnation=f"{i:016x}",
            node=f"{i // 8:056x}",
        )
        for i in range(count)
    )
    return View(epoch=1, cluster="default", replicas=replicas, shards=shards)


def microseconds(route: Any, keys: list[bytes]) -> float:
    times = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        for key in keys:
            route(key)
        times.append((time.process_time() - begun) / len(keys) * 1e6)
    return statistics.median(times)


def measure(count: int) -> dict[str, Any]:
    view = view_of(count, replicas=2)
    begun = time.process_time()
    ring = Ring(view)
    build_s = time.process_time() - begun
    keys = [f"docs:{i}".encode() for i in range(KEYS)]
    begun = time.process_time()
    for key in keys:
        ring.owners(key)
    first_us = (time.process_time() - begun) / KEYS * 1e6
    many = [f"spread:{i}".encode() for i in range(max(BALANCE_KEYS, 100 * count))]
    before = [ring.primary(key).id for key in many]
    begun = time.process_time()
    grown = Ring(view_of(count + 1, replicas=2))
    rebuild_s = time.process_time() - begun
    after = [grown.primary(key).id for key in many]
    moved = sum(a != b for a, b in zip(before, after, strict=True))
    strayed = sum(a != b and b != f"shard-{count}" for a, b in zip(before, after, strict=True))
    counts = Counter(before)
    return {
        "shards": count,
        "replicas": 2,
        "owners_first_us": round(first_us, 2),
        "owners_us": round(microseconds(ring.owners, keys), 2),
        "primary_us": round(microseconds(ring.primary, keys), 2),
        "build_s": round(build_s, 2),
        "rebuild_s": round(rebuild_s, 2),
        "points_bytes": ring.memory_bytes,
        "view_bytes": len(view.to_bytes()),
        "largest_over_mean": round(max(counts.values()) * count / len(many), 3),
        "moved_over_ideal": round(moved * (count + 1) / len(many), 3),
        "moved_between_others": strayed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [measure(count) for count in sorted({3, 10, 100, options.shards})]
    for row in rows:
        print(row)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
