"""Wake: what lies on disk is in L1 before its predicted readers come.

The real engine, its disk, what a shard tells of it and the planner that decides; only time is simulated.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stratacache.cluster.intelligence.accounting import Kind
from stratacache.cluster.intelligence.facts import PatternReporter
from stratacache.cluster.intelligence.plan import Planner, Settings, Wake
from stratacache.node.clock import ManualClock
from stratacache.node.config import WriteMode
from stratacache.node.engine import MultiLevelCache
from tests.node.disk_world import Node, payload

PERIOD_S = 60
ENTRIES = 12
WANTED = [b"report-%d" % number for number in range(4)]
FORESEEN_FROM = 4
"""Reads that it takes: three to look regular, one more to have proved it."""


class Shard:
    """A node with an L1 of some entries and a disk, and a coordinator that watches it, second by second."""

    def __init__(self, engine: MultiLevelCache, clock: ManualClock, *, wake: bool) -> None:
        self.engine = engine
        self.clock = clock
        self.planner = Planner(Settings(wake=wake))
        self.reporter = PatternReporter(engine, "shard-0/1")
        self.others = 0

    def let_pass(self, seconds: int) -> None:
        """The coordinator pulls and ticks each second; after ten of them others fill L1."""
        for second in range(seconds):
            self.clock.advance(1000)
            for _ in range(ENTRIES if second == 10 else 0):
                self.engine.put(b"other-%d" % self.others, b"v")
                self.others += 1
            self.engine.tick()
            now_s = self.clock.now_ms() / 1000
            self.planner.take(self.reporter.report("reader"), now_s)
            for effect in self.planner.tick(now_s):
                assert isinstance(effect, Wake)
                self.planner.woken([key for key in effect.keys if self.engine.wake(key)], now_s)

    def in_l1(self) -> int:
        """How many of the wanted keys lie in L1."""
        found = map(self.engine.residents.find, WANTED)
        return sum(entry is not None and entry.level is self.engine.l1 for entry in found)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[tuple[MultiLevelCache, ManualClock]]:
    """An L1 of ENTRIES entries above a disk, and its clock."""
    clock = ManualClock()
    node = Node(tmp_path / "l3", clock)
    yield node.start(l1_entries_max=ENTRIES, l3_write_mode=WriteMode.WRITE_THROUGH), clock
    node.stop()


@pytest.mark.parametrize("wake", [True, False])
def test_entries_on_disk_are_in_l1_before_their_readers_come(
    engine: tuple[MultiLevelCache, ManualClock], wake: bool
) -> None:
    """Keys that are read every minute leave L1 in between; once foreseen they are there again in time."""
    shard = Shard(*engine, wake=wake)
    for key in WANTED:
        shard.engine.put(key, b"value of " + key)
    there = []
    for _ in range(8):
        shard.let_pass(PERIOD_S)
        there.append(shard.in_l1())
        assert [payload(shard.engine, key) for key in WANTED] == [b"value of " + key for key in WANTED]
        assert shard.in_l1() == len(WANTED)
    shard.let_pass(1)
    assert there[:FORESEEN_FROM] == [0] * FORESEEN_FROM
    assert there[FORESEEN_FROM:] == [len(WANTED) * wake] * (8 - FORESEEN_FROM)
    account = shard.planner.accounts[Kind.WAKE].as_dict()
    assert account["issued"] == account["used"] == len(WANTED) * (8 - FORESEEN_FROM) * wake
    assert account["wasted"] == 0


def test_a_woken_entry_that_nobody_reads_is_counted_as_wasted(engine: tuple[MultiLevelCache, ManualClock]) -> None:
    """The readers stop coming: what was woken for them leaves L1 again, and the account says so."""
    shard = Shard(*engine, wake=True)
    for key in WANTED:
        shard.engine.put(key, b"v")
    for _ in range(FORESEEN_FROM):
        shard.let_pass(PERIOD_S)
        for key in WANTED:
            payload(shard.engine, key)
    for _ in range(2):
        shard.let_pass(PERIOD_S)
    account = shard.planner.accounts[Kind.WAKE].as_dict()
    assert account["issued"] == account["wasted"] == len(WANTED)
    assert account["used"] == 0
    assert shard.in_l1() == 0
