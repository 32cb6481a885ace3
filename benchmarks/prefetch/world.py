"""A cache of several shards in simulated time, round the real patterns, merging and planning.

What is simulated: expiry, single flight (callers wait for whoever computes), the tasks that recompute, and the pulls
and ticks of the coordinator. What decides is node/patterns.py and cluster/intelligence as they run in a cluster.

Invariants: without prefetch the same reads give the same misses, whatever the planner is; time never goes back.
"""

from __future__ import annotations

import heapq
import zlib
from dataclasses import dataclass, field
from random import Random
from typing import Final

from benchmarks.prefetch.slices import LOADER, slice_of
from benchmarks.prefetch.workloads import Item, Workload
from stratacache.cluster.intelligence.accounting import Kind
from stratacache.cluster.intelligence.plan import Planner, Refresh
from stratacache.cluster.intelligence.slices import L1, NOWHERE, PatternSlice
from stratacache.node.patterns import AccessPatterns, Slice

TICK_S: Final = 1.0
PULL_TICKS: Final = 5
START_S: Final = 1.6
"""What a Ray task takes beside its computing where it gets a new process, as seen in a cluster of one machine."""
IDLE_S: Final = 1.0
"""For how long Ray keeps an idle process that it could end: a task that comes within it starts at once."""
KEYS_A_PULL: Final = 1000


@dataclass
class Figures:
    """What a run cost. Seconds of waiting are summed over callers; compute seconds over computations."""

    reads: int = 0
    misses: int = 0
    expiry_misses: int = 0
    waited_s: float = 0.0
    computed_s: float = 0.0
    prefetched_s: float = 0.0


@dataclass
class World:
    """One run. `planner` None: no prefetch."""

    planner: Planner | None
    shards: int = 3
    seed: int = 0
    figures: Figures = field(default_factory=Figures)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.items: dict[bytes, Item] = {}
        self.expires_s: dict[bytes, float] = {}
        self.filled_s: dict[bytes, float] = {}  # by whom it is being computed, when that will be done
        self.computed: set[bytes] = set()
        self.patterns: list[AccessPatterns[bytes]] = [AccessPatterns() for _ in range(self.shards)]
        self.tasks: list[tuple[float, int, bytes, float | None]] = []
        self.idle_since_s: list[float] = []
        self._number = 0
        self._ticks = 0
        self._demand_s = 0.0
        if self.planner is not None:
            self.planner.batches[LOADER] = 8

    def run(self, workload: Workload) -> Figures:
        """Let all reads come."""
        reads = workload.reads
        now_s = reads[0][0] - TICK_S
        at = 0
        while at < len(reads):
            now_s = self._next_step(now_s, reads[at][0])
            while at < len(reads) and reads[at][0] <= now_s:
                self._end_tasks(reads[at][0])
                self.read(*reads[at])
                at += 1
            self._end_tasks(now_s)
            if self.planner is not None:
                self.step(now_s)
        return self.figures

    def _next_step(self, now_s: float, read_s: float) -> float:
        """The next tick; ticks at which there is nothing to see or to do are skipped."""
        step_s = now_s + TICK_S
        if self.planner is None:
            return max(step_s, read_s)
        columns = self.planner.table.columns
        if self.tasks or read_s <= step_s or not len(columns["seen"]):
            return step_s
        open_s = columns["next_s"][(columns["seen"] >= 3) & (columns["variation"] <= 0.5) & ~columns["scored"]]
        wanted_s = open_s.min() - self.planner.settings.horizon_s if len(open_s) else read_s
        return max(step_s, min(read_s, float(wanted_s)))

    def read(self, now_s: float, item: Item, callers: int) -> None:
        """Callers ask for a key at the same moment."""
        figures, key = self.figures, item.key
        figures.reads += callers
        self.items[key] = item
        self.patterns[zlib.crc32(key) % self.shards].note(key, int(now_s), callers)
        if self.expires_s.get(key, 0.0) > now_s and self.filled_s.get(key, 0.0) <= now_s:
            return
        if self.expires_s.get(key, 0.0) > now_s:  # being computed for the first time, or again
            figures.waited_s += callers * (self.filled_s[key] - now_s)
            return
        ahead_s = self.filled_s.get(key, 0.0)
        if ahead_s > now_s:  # a prefetch is under way: wait for that
            figures.waited_s += callers * (ahead_s - now_s)
            return
        figures.misses += 1
        figures.expiry_misses += key in self.computed
        figures.waited_s += callers * item.cost_s
        figures.computed_s += item.cost_s
        self._demand_s += item.cost_s
        self._fill(item, now_s + item.cost_s)

    def _fill(self, item: Item, done_s: float) -> None:
        self.computed.add(item.key)
        self.filled_s[item.key] = done_s
        self.expires_s[item.key] = done_s + item.ttl_s * self.random.uniform(0.95, 1.05)
        self.patterns[zlib.crc32(item.key) % self.shards].mark(item.key)

    # -- the coordinator -----------------------------------------------------------------------------------------

    def step(self, now_s: float) -> None:
        """Tick; every fifth time pull from every shard before."""
        planner = self.planner
        assert planner is not None
        self._ticks += 1
        for number, patterns in enumerate(self.patterns if self._ticks % PULL_TICKS == 0 else ()):
            while (taken := patterns.take_changed(KEYS_A_PULL)).keys:
                planner.take(self.slice(number, taken, now_s), now_s)
        planner.demand(self._demand_s)
        self._demand_s = 0.0
        for effect in planner.tick(now_s):
            if isinstance(effect, Refresh):
                self._start(effect, now_s)

    def slice(self, number: int, taken: Slice[bytes], now_s: float) -> PatternSlice:
        """Columns with what the shard knows of the entries."""
        keys = taken.keys
        items = [self.items[key] for key in keys]
        alive = [self.expires_s.get(key, 0.0) for key in keys]
        return slice_of(
            f"shard-{number}/1",
            taken,
            expires_ms=[1000 * at_s if at_s > now_s else 0 for at_s in alive],
            costs_s=[item.cost_s for item in items],
            sizes=[item.size for item in items],
            ttls_s=[item.ttl_s for item in items],
            levels=[L1 if at_s > now_s else NOWHERE for at_s in alive],
            now_ms=round(now_s * 1000),
        )

    def _start(self, effect: Refresh, now_s: float) -> None:
        """A task computes its keys one after the other."""
        self.idle_since_s = [since_s for since_s in self.idle_since_s if since_s + IDLE_S >= now_s]
        start_s = 0.0 if self.idle_since_s else START_S
        del self.idle_since_s[:1]
        done_s = now_s + start_s
        for place, key in enumerate(effect.keys):
            item = self.items[key]
            done_s += item.cost_s
            if self.expires_s.get(key, 0.0) <= now_s:
                self.filled_s[key] = done_s
            self._number += 1
            last = place == len(effect.keys) - 1
            heapq.heappush(self.tasks, (done_s, self._number, key, start_s if last else None))

    def _end_tasks(self, now_s: float) -> None:
        while self.tasks and self.tasks[0][0] <= now_s:
            done_s, _, key, start_s = heapq.heappop(self.tasks)
            item = self.items[key]
            self.figures.prefetched_s += item.cost_s
            self._fill(item, done_s)
            assert self.planner is not None
            self.planner.refreshed(key, done_s, good=True, spent_s=item.cost_s)
            if start_s is not None:
                self.idle_since_s.append(done_s)
                self.planner.task_ended(LOADER, start_s)


def compare(workload: Workload, seed: int = 0) -> dict[str, float]:
    """The same reads without and with refresh-ahead."""
    without = World(None, seed=seed).run(workload)
    planner = Planner()
    planner.accounts[Kind.WAKE].enabled = False
    run = World(planner, seed=seed)
    figures = run.run(workload)
    account = planner.accounts[Kind.REFRESH]
    computed_s = figures.computed_s + figures.prefetched_s
    cut = 1 - figures.expiry_misses / without.expiry_misses if without.expiry_misses else 0.0
    return {
        "reads": without.reads,
        "expiry_misses_without": without.expiry_misses,
        "expiry_misses_with": figures.expiry_misses,
        "expiry_misses_cut": cut,
        "extra_compute_share": computed_s / without.computed_s - 1,
        "total_seconds_without": without.waited_s,
        "total_seconds_with": figures.waited_s + figures.prefetched_s,
        "compute_seconds_without": without.computed_s,
        "compute_seconds_with": computed_s,
        "waited_seconds_with": figures.waited_s,
        "issued": account.issued,
        "used": account.used,
        "late": account.late,
        "wasted": account.wasted,
        "precision": account.used / max(1, account.used + account.late + account.wasted),
        "switched_off": account.switched_off,
    }
