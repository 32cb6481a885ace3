"""What following and merging patterns costs: memory with ten million keys, and the coordinator's time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.prefetch.slices import LOADER, changed
from stratacache.cluster.intelligence.plan import Planner
from stratacache.cluster.intelligence.slices import PatternSlice
from stratacache.node.patterns import AccessPatterns

SHARDS: Final = 100
KEYS_A_SHARD: Final = 1000
SHARED_KEYS: Final = 10
START_S: Final = 1_700_000_000
NOW_S: Final = START_S + 400.0


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


def merge_rounds(rounds: int = 5) -> Iterator[tuple[Planner, list[float], list[float]]]:
    """A pull of a hundred shards with a thousand changed keys each, some of them seen by every shard.

    Of each round the planner, and the CPU seconds of each slice: all keys new, then all known.
    """
    blobs = [_slice(shard).to_bytes() for shard in range(SHARDS)]
    for _ in range(rounds):
        planner = Planner()
        planner.batches[LOADER] = 8
        yield planner, _steps(planner, blobs), _steps(planner, blobs)


def _steps(planner: Planner, blobs: list[bytes]) -> list[float]:
    spent_s = []
    for blob in blobs:
        begun_s = time.process_time()
        planner.take(PatternSlice.from_bytes(blob), NOW_S)
        spent_s.append(time.process_time() - begun_s)
    return spent_s


def merging() -> dict[str, Any]:
    """Medians of what merging costs, the longest time for which anybody else has to wait, and a tick with all due."""
    rounds = list(merge_rounds())
    planner = rounds[-1][0]
    begun_s = time.process_time()
    planner.tick(NOW_S)
    tick_s = time.process_time() - begun_s
    return {
        "shards": SHARDS,
        "keys": len(planner.table),
        "merge_new_ms": 1000 * median(sum(new) for _, new, _ in rounds),
        "merge_known_ms": 1000 * median(sum(known) for _, _, known in rounds),
        "longest_step_ms": 1000 * max(max(*new, *known) for _, new, known in rounds),
        "tick_ms": 1000 * tick_s,
    }


def _slice(shard: int) -> PatternSlice:
    patterns: AccessPatterns[bytes] = AccessPatterns()
    for place in range(4):
        for number in range(KEYS_A_SHARD - SHARED_KEYS):
            key = b"ai_operations:embed:%032x" % (shard * KEYS_A_SHARD + number)
            patterns.note(key, START_S + 100 * place + shard % 7)
        for number in range(SHARED_KEYS):
            patterns.note(b"shared:embed:%032x" % number, START_S + 100 * place + shard % 7)
    return changed(f"shard-{shard}/1", patterns, KEYS_A_SHARD)
