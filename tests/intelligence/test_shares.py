"""Several loaders share one planner: what one of them can't do, or takes too long for, costs the others nothing."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from benchmarks.prefetch.slices import slice_of
from stratacache.cluster.intelligence.accounting import Kind
from stratacache.cluster.intelligence.budget import Limits
from stratacache.cluster.intelligence.plan import Planner, Refresh, Settings
from stratacache.cluster.intelligence.slices import L1, NOWHERE
from stratacache.node.patterns import AccessPatterns

START_S = 1_700_000_000
PERIOD_S, TTL_S, STEP_S = 120, 100, 2.0
GOOD = "fn:good"


@dataclass
class Board:
    """A dashboard: keys that are read every PERIOD_S, `at_s` seconds into it.

    `ends`: whether its tasks ever end. `fails`: whether they compute, and then raise.
    """

    loader: str
    at_s: int
    cost_s: float
    keys: int = 8
    ends: bool = True
    fails: bool = False
    hits: list[int] = field(default_factory=list)

    def names(self) -> list[bytes]:
        return [f"{self.loader}/{number}".encode() for number in range(self.keys)]


class Office:
    """Several boards over one planner, in simulated time. A task that does not end is given up at its deadline."""

    def __init__(self, *boards: Board, tasks_max: int = 4) -> None:
        self.boards = {board.loader: board for board in boards}
        self.planner = Planner(Settings(wake=False, limits=Limits(tasks_max=tasks_max)))
        self.planner.batches |= dict.fromkeys(self.boards, 8)
        self.patterns: AccessPatterns[bytes] = AccessPatterns()
        self.expires_s: dict[bytes, float] = {}
        self.tasks: list[tuple[float, int, Refresh]] = []
        self.started = 0
        self.most = 0
        """Tasks that were out at once."""
        self.now_s = float(START_S)

    def run(self, periods: int) -> None:
        for _ in range(int(periods * PERIOD_S / STEP_S)):
            now_s = self.now_s
            while self.tasks and self.tasks[0][0] <= now_s:
                ended_s, _, task = heapq.heappop(self.tasks)
                self._end(ended_s, task)
            for board in self.boards.values():
                if (now_s - START_S) % PERIOD_S == board.at_s:
                    board.hits.append(sum(self._reads(key, now_s) for key in board.names()))
            self._pull(now_s)
            for effect in self.planner.tick(now_s):
                assert isinstance(effect, Refresh)
                board = self.boards[effect.loader]
                takes_s = board.cost_s * len(effect.keys) if board.ends else effect.deadline_s
                self.started += 1
                heapq.heappush(self.tasks, (now_s + takes_s, self.started, effect))
            self.most = max(self.most, len(self.tasks))
            self.now_s += STEP_S

    def _reads(self, key: bytes, now_s: float) -> bool:
        self.patterns.note(key, int(now_s))
        if self.expires_s.get(key, 0.0) > now_s:
            return True
        self.expires_s[key] = now_s + TTL_S
        return False

    def _end(self, now_s: float, task: Refresh) -> None:
        board = self.boards[task.loader]
        good = board.ends and not board.fails
        self.planner.task_ended(task.loader, 0.0 if good else None)
        for key in task.keys:
            if good:
                self.expires_s[key] = now_s + TTL_S
            self.planner.refreshed(key, now_s, good=good, spent_s=board.cost_s * board.ends)

    def _pull(self, now_s: float) -> None:
        taken = self.patterns.take_changed(1000)
        boards = [self.boards[key.decode().partition("/")[0]] for key in taken.keys]
        names = list(self.boards)
        alive = [self.expires_s.get(key, 0.0) for key in taken.keys]
        part = slice_of(
            "shard-0/1",
            taken,
            expires_ms=[1000 * at_s if at_s > now_s else 0 for at_s in alive],
            costs_s=[board.cost_s for board in boards],
            ttls_s=TTL_S,
            levels=[L1 if at_s > now_s else NOWHERE for at_s in alive],
            loaders=[names.index(board.loader) for board in boards],
            loader_names=names,
        )
        self.planner.take(part, now_s)


def test_loaders_whose_tasks_are_never_placed_leave_places_to_the_others() -> None:
    """Their resources are not there: Ray keeps the tasks waiting, and they hold what they hold until they are given up.

    As many as there are places make a loader that is new wait for its first one; after that they cost it nothing.
    """
    for count, learned in ((1, 5), (4, 10)):
        stuck = [Board(f"fn:stuck-{number}", 30, cost_s=2.0, ends=False) for number in range(count)]
        good = Board(GOOD, 40, cost_s=2.0)
        Office(*stuck, good).run(13)
        assert good.hits[learned:] == [good.keys] * (13 - learned)


def test_a_loader_whose_resources_go_away_leaves_a_place_to_the_others() -> None:
    """Its tasks used to end, so it may hold more of the places; never all of them while there is anybody else."""
    lost, good = Board("fn:lost", 30, cost_s=2.0), Board(GOOD, 40, cost_s=0.2)
    office = Office(lost, good)
    office.run(8)
    assert lost.hits[5:] == [lost.keys] * 3
    lost.ends = False
    good.hits.clear()
    office.run(8)
    assert good.hits == [good.keys] * 8
    lost.ends = True
    office.run(12)
    assert lost.hits[-2:] == [lost.keys] * 2, "when they are back it gets its places back"


def test_a_loader_that_never_gets_a_place_takes_turns_with_the_others_where_there_is_one_place_only() -> None:
    """Who had the place and did not come back waits as long again."""
    stuck, good = Board("fn:stuck", 30, cost_s=1.0, ends=False), Board(GOOD, 40, cost_s=0.1)
    Office(stuck, good, tasks_max=1).run(22)
    assert sum(good.hits[5:]) > 0.35 * 17 * good.keys


def test_a_loader_that_always_fails_is_tried_ever_less_and_costs_the_others_nothing() -> None:
    """It spends seconds and gives nothing: no reason to stop computing what other loaders can."""
    bad, good = Board("fn:bad", 30, cost_s=2.0, fails=True), Board(GOOD, 40, cost_s=0.1)
    office = Office(bad, good)
    office.run(16)
    assert good.hits[6:] == [good.keys] * 10
    account = office.planner.accounts[Kind.REFRESH]
    assert 3 <= account.failed <= 16
    assert not account.switched_off


def test_a_loader_that_is_alone_has_all_places() -> None:
    """Once its tasks have come back: what was given to the others is nobody's."""
    alone = Board(GOOD, 40, cost_s=2.0)
    office = Office(alone)
    office.run(5)
    alone.hits.clear()
    office.run(5)
    assert alone.hits == [alone.keys] * 5
    assert office.most == 4


def test_a_value_that_is_too_dear_does_not_keep_the_others_from_being_computed() -> None:
    """It costs more than may be computed ahead; those that are due behind it cost little. A cost is a client's word."""
    dear, good = Board("fn:dear", 38, cost_s=70.0, keys=1), Board(GOOD, 40, cost_s=1.5)
    Office(dear, good).run(12)
    assert good.hits[6:] == [good.keys] * 6


def test_names_of_loaders_that_nobody_registered_take_no_ones_place() -> None:
    """A recipe names its loader, and a recipe is a client's word: any number of names may come by."""
    office = Office(Board(GOOD, 40, cost_s=0.1))
    strangers: AccessPatterns[bytes] = AccessPatterns()
    for first in (0, 1000):
        names = [f"fn:stranger-{number}" for number in range(first, first + 1000)]
        for number in range(first, first + 1000):
            strangers.note(b"key-%d" % number, START_S)
        taken = strangers.take_changed(1000)
        part = slice_of("shard-0/1", taken, loaders=list(range(1000)), loader_names=names)
        office.planner.take(part, START_S)
    office.run(8)
    assert office.boards[GOOD].hits[5:] == [8] * 3
