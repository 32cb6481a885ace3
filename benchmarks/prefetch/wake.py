"""Wake on a real trace: what L1 gains when entries are brought up from L3 before their predicted reads.

L1 holds one hundredth of the keys, L3 all of them. Patterns, merging and planning are those of a cluster, under the
trace's own time. Beside no prefetch stands an oracle that knows the future: at every tick it wakes what is read until
the next one, as far as a half of L1 goes.

Invariants: a read of a key that lies in L3 brings it up with or without prefetch; the first read of a key is a miss.
"""

from __future__ import annotations

import lzma
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.prefetch.slices import slice_of
from benchmarks.traces import ORACLE
from stratacache.cluster.intelligence.accounting import Kind
from stratacache.cluster.intelligence.plan import Planner, Wake
from stratacache.node.patterns import AccessPatterns
from stratacache.node.policies import make_policy
from stratacache.node.policies.base import Evictable, evictable
from stratacache.node.types import EvictionPolicy

START_S: Final = 1_700_000_000.0
SHARDS: Final = 4
PULL_TICKS: Final = 5
FOREVER_MS: Final = np.iinfo(np.int64).max


class Level:
    """L1 of a number of entries under one of the engine's policies."""

    def __init__(self, policy: EvictionPolicy, entries_max: int) -> None:
        self.policy = make_policy(policy, seed=0)
        self.entries_max = entries_max
        self.held: dict[int, Evictable] = {}
        self.woken: set[int] = set()
        self.woken_used: list[int] = []
        self.woken_gone: list[int] = []

    def read(self, key: int) -> bool:
        """Whether a read hits; afterwards the key is here."""
        entry = self.held.get(key)
        if entry is None:
            self.bring(key)
            return False
        self.policy.on_hits((entry,))
        if key in self.woken:
            self.woken.discard(key)
            self.woken_used.append(key)
        return True

    def bring(self, key: int) -> None:
        """Take a key in, in place of another."""
        while len(self.held) >= self.entries_max:
            victim = int(self.policy.pop_victim().key, 16)
            del self.held[victim]
            if victim in self.woken:
                self.woken.discard(victim)
                self.woken_gone.append(victim)
        entry = self.held[key] = evictable(b"%016x" % key, 1, 1.0)
        self.policy.on_insert(entry)


def replay(
    times_s: NDArray[np.float64], keys: NDArray[np.int64], policy: EvictionPolicy, entries_max: int, mode: str
) -> dict[str, Any]:
    """One run; `mode` is `none`, `wake` or `oracle`."""
    level = Level(policy, entries_max)
    planner = Planner() if mode == "wake" else None
    shards: list[AccessPatterns[bytes]] = [AccessPatterns() for _ in range(SHARDS)]
    known: set[int] = set()
    hits = woken = woken_used = at = 0
    now_s = float(times_s[0])
    ends = np.searchsorted(times_s, np.arange(now_s + 1, float(times_s[-1]) + 2), side="right").tolist()
    keys_list, seconds = keys.tolist(), times_s.astype(np.int64).tolist()
    for ticks, end in enumerate(ends, start=1):
        if mode == "oracle":
            wanted = [key for key in dict.fromkeys(keys_list[at:end]) if key in known and key not in level.held]
            for key in wanted[: entries_max // 2]:
                level.bring(key)
                level.woken.add(key)
                woken += 1
        for place in range(at, end):
            key = keys_list[place]
            hits += level.read(key)
            known.add(key)
            if planner is not None:
                name = b"%d" % key
                shards[zlib.crc32(name) % SHARDS].note(name, seconds[place])
        at = end
        now_s += 1
        if planner is not None:
            if ticks % PULL_TICKS == 0:
                _pull(planner, shards, level, now_s)
            for effect in planner.tick(now_s):
                assert isinstance(effect, Wake)
                brought = [key for key in map(int, effect.keys) if key not in level.held]
                for key in brought:
                    level.bring(key)
                    level.woken.add(key)
                planner.woken([b"%d" % key for key in brought], now_s)
        else:
            woken_used += len(level.woken_used)
            level.woken_used.clear()
    figures: dict[str, Any] = {"l1_hit_ratio": hits / len(keys)}
    if planner is not None:
        account = planner.accounts[Kind.WAKE].as_dict()
        figures |= {name: account[name] for name in ("issued", "used", "wasted", "precision", "switched_off")}
    elif mode == "oracle":
        figures |= {"issued": woken, "used": woken_used, "precision": woken_used / max(1, woken)}
    return figures


def _pull(planner: Planner, shards: list[AccessPatterns[bytes]], level: Level, now_s: float) -> None:
    used, gone = level.woken_used, level.woken_gone
    level.woken_used, level.woken_gone = [], []
    for number, patterns in enumerate(shards):
        while (taken := patterns.take_changed(1000)).keys:
            part = slice_of(
                f"shard-{number}/1",
                taken,
                expires_ms=FOREVER_MS,
                sizes=2048,
                ttls_s=0,
                loaders=-1,
                woken_used=[b"%d" % key for key in used],
                woken_gone=[b"%d" % key for key in gone],
            )
            used, gone = [], []
            planner.take(part, now_s)


def read_times(path: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Seconds and numbered keys of a trace in oracleGeneral form whose times are milliseconds."""
    raw = lzma.decompress(path.read_bytes())
    records = np.frombuffer(raw[: len(raw) // ORACLE.itemsize * ORACLE.itemsize], ORACLE)
    _, keys = np.unique(records["key"], return_inverse=True)
    times = START_S + records["time"].astype(np.float64) / 1000
    order = np.argsort(times, kind="stable")
    return times[order], keys[order].astype(np.int64)


def wake_report(path: Path) -> dict[str, Any]:
    """Both policies, without wake, with it, and with the oracle's."""
    times, keys = read_times(path)
    distinct = int(keys.max()) + 1
    entries_max = max(1, distinct // 100)
    report: dict[str, Any] = {
        "requests": len(keys),
        "keys": distinct,
        "l1_entries": entries_max,
        "repeats": 1 - distinct / len(keys),
    }
    for policy in (EvictionPolicy.LRU, EvictionPolicy.INTELLIGENT):
        report[policy.value] = {
            mode: replay(times, keys, policy, entries_max, mode) for mode in ("none", "wake", "oracle")
        }
    return report
