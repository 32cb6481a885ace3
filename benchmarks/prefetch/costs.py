"""What following and merging patterns costs: memory with ten million keys, and the coordinator's time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from stratacache.cluster.intelligence.plan import Planner
from stratacache.cluster.intelligence.slices import L1, PatternSlice
from stratacache.cluster.intelligence_shell import STEP_KEYS
from stratacache.node.patterns import VISITS_KEPT, AccessPatterns

SHARDS: Final = 100
KEYS_A_SHARD: Final = 1000


def resident_bytes() -> int:
    """Bytes of this process in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def memory(distinct: int) -> dict[str, Any]:
    """One shard's patterns after so many distinct keys, one in ten of them read again before the next hundred."""
    patterns: AccessPatterns[bytes] = AccessPatterns()
    before = resident_bytes()
    begun = time.process_time()
    for number in range(distinct):
        patterns.note(b"ai_operations:embed:%032x" % number, 1_700_000_000 + number // 1000)
        if number % 10 == 0:
            patterns.note(b"ai_operations:embed:%032x" % (number - 50), 1_700_000_000 + number // 1000)
    spent_s = time.process_time() - begun
    return {
        "distinct_keys": distinct,
        "keys_held": len(patterns),
        "bytes_charged": patterns.bytes_used,
        "bytes_max": patterns.bytes_max,
        "bytes_resident": resident_bytes() - before,
        "microseconds_a_note": 1e6 * spent_s / distinct / 1.1,
    }


def merging() -> dict[str, Any]:
    """A pull of a hundred shards with a thousand changed keys each: as new keys, then as known ones that are due."""
    slices = [_slice(shard) for shard in range(SHARDS)]
    planner = Planner()
    steps: list[list[float]] = []
    for _ in range(5):
        steps.append([])
        for blob in slices:
            whole = PatternSlice.from_bytes(blob)
            for start in range(0, len(whole), STEP_KEYS):
                begun = time.process_time()
                planner.take(whole.part(start, start + STEP_KEYS), 1_700_000_400.0)
                steps[-1].append(time.process_time() - begun)
    begun = time.process_time()
    planner.tick(1_700_000_400.0)
    tick_s = time.process_time() - begun
    known = sorted(steps[1:], key=sum)[len(steps[1:]) // 2]
    return {
        "shards": SHARDS,
        "keys": len(planner.table),
        "merge_new_ms": 1000 * sum(steps[0]),
        "merge_known_ms": 1000 * sum(known),
        "longest_step_ms": 1000 * max(max(step) for step in steps),
        "tick_ms": 1000 * tick_s,
    }


def _slice(shard: int) -> bytes:
    keys = [b"ai_operations:embed:%032x" % (shard * KEYS_A_SHARD + number) for number in range(KEYS_A_SHARD - 10)]
    keys += [b"shared:embed:%032x" % number for number in range(10)]  # seen by every shard
    visits = np.zeros((KEYS_A_SHARD, VISITS_KEPT), np.uint32)
    for place in range(4):
        visits[:, 4 + place] = 1_700_000_000 + 100 * place + shard % 7
    return PatternSlice(
        source=f"shard-{shard}/1",
        keys=keys,
        counts=np.full(KEYS_A_SHARD, 4, np.uint64),
        visits=visits,
        expires_ms=np.zeros(KEYS_A_SHARD, np.int64),
        costs_s=np.ones(KEYS_A_SHARD, np.float32),
        sizes=np.full(KEYS_A_SHARD, 1000, np.uint32),
        ttls_s=np.full(KEYS_A_SHARD, 60, np.uint32),
        levels=np.full(KEYS_A_SHARD, L1, np.uint8),
        loaders=np.zeros(KEYS_A_SHARD, np.int16),
        loader_names=["fn:model"],
    ).to_bytes()
