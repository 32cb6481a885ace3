"""The planner: whom it believes among keys of several habits, and that what it begins is ready in time."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from benchmarks.prefetch.slices import LOADER, slice_of
from stratacache.cluster.intelligence.accounting import Kind
from stratacache.cluster.intelligence.plan import TRUST_MIN, Planner, Refresh
from stratacache.cluster.intelligence.slices import L1, NOWHERE
from stratacache.cluster.intelligence.starts import START_S_MAX, Starts
from stratacache.cluster.intelligence.trust import classes_of
from stratacache.node.patterns import AccessPatterns

START_S = 1_700_000_000
PERIOD_S, TTL_S = 4.0, 3.5
STEP_S = 0.25
COST_S = 0.001
DASHBOARD = [b"report-%d" % number for number in range(6)]
FORESEEN_FROM = 4
"""Reads that it takes: three to look regular, one more to have proved it."""


class Readers:
    """A dashboard that reads its keys every PERIOD_S, and whoever else reads the same shard; all in simulated time.

    `phase_s` is when in its second the dashboard reads, `start_s` what a task takes beside its computing, and `read_s`
    what a value took that a reader computed.
    """

    def __init__(self, phase_s: float = 0.0, start_s: float = 0.0, read_s: float = COST_S) -> None:
        self.phase_s = phase_s
        self.read_s = read_s
        self.start_s = start_s
        self.planner = Planner()
        self.planner.batches[LOADER] = 8
        self.patterns: AccessPatterns[bytes] = AccessPatterns()
        self.expires_s: dict[bytes, float] = {}
        self.tasks: list[tuple[float, tuple[bytes, ...]]] = []
        self.hits: list[int] = []
        """How many of the dashboard's keys were there, turn by turn."""

    def run(self, turns: int, others: dict[int, list[bytes]] | None = None) -> list[int]:
        """Let so many turns of the dashboard pass; `others` are read in a second, and nobody can compute them."""
        for step in range(int(turns * PERIOD_S / STEP_S)):
            now_s = START_S + self.phase_s + step * STEP_S
            self._end_tasks(now_s)
            if step * STEP_S % PERIOD_S == 0:
                self.hits.append(sum(self._reads(key, now_s) for key in DASHBOARD))
            for key in (others or {}).get(int(now_s) - START_S, []):
                self.patterns.note(key, int(now_s))
            self._pull(now_s)
            for effect in self.planner.tick(now_s):
                assert isinstance(effect, Refresh)
                heapq.heappush(self.tasks, (now_s + self.start_s + COST_S * len(effect.keys), effect.keys))
        return self.hits

    def _reads(self, key: bytes, now_s: float) -> bool:
        self.patterns.note(key, int(now_s))
        if self.expires_s.get(key, 0.0) > now_s:
            return True
        self.expires_s[key] = now_s + TTL_S
        return False

    def _end_tasks(self, now_s: float) -> None:
        while self.tasks and self.tasks[0][0] <= now_s:
            done_s, keys = heapq.heappop(self.tasks)
            self.planner.task_ended(LOADER, self.start_s)
            for key in keys:
                self.expires_s[key] = done_s + TTL_S
                self.planner.refreshed(key, done_s, good=True, spent_s=COST_S)

    def _pull(self, now_s: float) -> None:
        taken = self.patterns.take_changed(1000)
        alive = [self.expires_s.get(key, 0.0) for key in taken.keys]
        ours = [key in self.expires_s for key in taken.keys]
        part = slice_of(
            "shard-0/1",
            taken,
            expires_ms=[1000 * at_s if at_s > now_s else 0 for at_s in alive],
            costs_s=self.read_s,
            ttls_s=[int(TTL_S) if mine else 0 for mine in ours],
            levels=[L1 if at_s > now_s else NOWHERE for at_s in alive],
            loaders=[0 if mine else -1 for mine in ours],
        )
        self.planner.take(part, now_s)


@pytest.mark.parametrize("phase_s", [0.0, 0.25, 0.5, 0.75])
def test_a_dashboard_is_foreseen_after_its_fourth_read(phase_s: float) -> None:
    """Wherever in its second it reads, and though its values expire only half a second before the next read."""
    hits = Readers(phase_s).run(10)
    assert hits == [0] * FORESEEN_FROM + [len(DASHBOARD)] * (10 - FORESEEN_FROM)


@pytest.mark.parametrize("phase_s", [0.0, 0.5])
@pytest.mark.parametrize("start_s", [0.5, 1.5, 2.5])
def test_a_task_that_is_slow_to_start_is_begun_earlier(start_s: float, phase_s: float) -> None:
    """A new process takes seconds to start: the value is there in time all the same, and is accounted for as used."""
    readers = Readers(phase_s, start_s)
    hits = readers.run(14)
    assert hits[-6:] == [len(DASHBOARD)] * 6
    account = readers.planner.accounts[Kind.REFRESH]
    assert account.late + account.wasted <= 2 * len(DASHBOARD)  # until it is known how slow they are
    assert account.used >= 6 * len(DASHBOARD)


def test_values_that_are_quicker_to_compute_than_foreseen_do_not_use_the_budget_up() -> None:
    """A reader loads its model first, a task has it: what counts is what a refresh took, and it was used."""
    hits = Readers(read_s=0.5).run(60)
    assert hits == [0] * FORESEEN_FROM + [len(DASHBOARD)] * (60 - FORESEEN_FROM)


def test_keys_that_nobody_can_compute_do_not_make_a_dashboard_doubtful() -> None:
    """A pipeline passes over its keys three times within seconds and never again: the dashboard is foreseen as ever.

    At whole seconds such passes look perfectly regular, and all predictions from them are wrong.
    """
    pipeline = [b"chunk-%d" % number for number in range(200)]
    hits = Readers().run(10, others={0: pipeline, 1: pipeline, 2: pipeline})
    assert hits == [0] * FORESEEN_FROM + [len(DASHBOARD)] * (10 - FORESEEN_FROM)


def test_a_loader_is_not_believed_for_the_sake_of_another() -> None:
    """What a regular function has proved tells nothing of a function that has not been judged."""
    readers = Readers()
    readers.run(8)
    columns = readers.planner.table.columns
    rows = np.array([readers.planner.table.row_of(key) for key in DASHBOARD])
    seen, variation, mean_s = (columns[name][rows] for name in ("seen", "variation", "mean_s"))
    share = readers.planner.trust[Kind.REFRESH].share
    assert (share(classes_of(columns["loaders"][rows], seen, variation, mean_s)) > TRUST_MIN).all()
    assert (share(classes_of(columns["loaders"][rows] + 1, seen, variation, mean_s)) < TRUST_MIN).all()


def test_a_start_beyond_what_was_seen_is_learned_quickly() -> None:
    """One loader's starts say nothing of another's, and both estimates stay within their bounds."""
    starts = Starts()
    quick_s, slow_s = starts.of("a")
    starts.learn("a", slow_s + 4.0)
    assert starts.of("a")[1] == slow_s + 2.0
    starts.learn("a", slow_s)
    assert slow_s + 1.0 < starts.of("a")[1] < slow_s + 2.0
    assert starts.of("b") == (quick_s, slow_s)
    for _ in range(50):
        starts.learn("a", 1e9)
        starts.learn("b", -5.0)
        starts.learn("c", 1.5)
    assert START_S_MAX - 1 < starts.of("a")[0] <= starts.of("a")[1] <= START_S_MAX
    assert starts.of("b") == pytest.approx((0.0, 0.0), abs=0.01)
    assert starts.of("c") == pytest.approx((1.5, 1.5), abs=0.01)
    assert starts.of_all(["a", "b"]).T.tolist() == [list(starts.of(name)) for name in ("a", "b", "unknown")]
