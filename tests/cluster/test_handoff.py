"""A handoff between two real engines, one of them with a disk: what moves, what does not, and what is left behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stratacache.client.view import ShardInfo, View
from stratacache.cluster import intake as intake_module
from stratacache.cluster import leftovers
from stratacache.cluster import serving_events as s
from stratacache.cluster.handoff import Handoffs
from stratacache.cluster.intake import Refused
from stratacache.cluster.ownership import Ownership
from stratacache.node.config import NodeConfig
from stratacache.node.engine import MultiLevelCache
from stratacache.node.resp.config import ServerConfig
from stratacache.node.resp.replies import CommandError
from stratacache.node.resp.server import NodeServer

KEYS = [b"key-%d" % number for number in range(400)]


def view_of(epoch: int, *shards: str) -> View:
    """A view of these shards, each in its first incarnation."""
    return View(epoch=epoch, shards=tuple(ShardInfo(id=shard, incarnation="1") for shard in shards))


BEFORE, AFTER = view_of(1, "shard-0"), view_of(2, "shard-0", "shard-1")


@dataclass
class Clockwork:
    """Questions and timers of both shards, carried out one after the other."""

    shards: dict[str, Shard] = field(default_factory=dict)
    queue: list[Callable[[], None]] = field(default_factory=list)
    asked: list[bytes] = field(default_factory=list)
    deaf: bool = False

    def after(self, ms: int, fn: Callable[[], None]) -> None:
        self.queue.append(fn)

    def ask(self, shard: ShardInfo, argv: Sequence[bytes], deadline_ms: int, done: Callable[[Any], None]) -> None:
        self.asked.append(argv[0])
        self.queue.append(lambda: done(None) if self.deaf else self._ask(self.shards[shard.id].handoffs, argv, done))

    def _ask(self, target: Handoffs, argv: Sequence[bytes], done: Callable[[Any], None]) -> None:
        name, epoch, taker, incarnation, *keys = argv
        try:
            if name == b"SC.TAKE":
                target.take(int(epoch), taker.decode(), incarnation, keys).add_done_callback(lambda f: done(f.result()))
                return
            batch = target.drain(int(epoch), taker.decode(), incarnation)
        except CommandError as error:
            done(Refused(str(error)))
            return
        if batch is None:
            done([])
            return
        batch.add_done_callback(lambda f: done([0] if f.result() is None else [1, *f.result()]))

    def turn(self) -> None:
        """Do everything that waits now."""
        some, self.queue = self.queue, []
        for fn in some:
            fn()
        for shard in self.shards.values():
            shard.engine.tick()

    def run_until(self, holds: Callable[[], bool]) -> None:
        """Turn until something holds; fails after ten seconds."""
        until_s = time.monotonic() + 10
        while not holds():
            assert time.monotonic() < until_s, "it does not come to that"
            self.turn()


class Shard:
    """One shard's part of it."""

    def __init__(self, name: str, clockwork: Clockwork, config: NodeConfig) -> None:
        self.engine = MultiLevelCache(config)
        server = NodeServer(self.engine, ServerConfig())
        self.ownership = Ownership(name)
        self.gone: list[int] = []
        self.handoffs = Handoffs(self.engine, server, self.ownership, clockwork, incarnation=1, gone=self.gone.append)
        clockwork.shards[name] = self

    def begin(self, former: View | None = BEFORE, window_ms: int = 60_000) -> None:
        self.handoffs.begin(s.BeginHandoff(view=AFTER, former=former, window_ms=window_ms))

    def get(self, clockwork: Clockwork, key: bytes) -> bytes | None:
        """As a GET that came over the wire."""
        assert self.handoffs.intake is not None
        waiting = self.handoffs.intake.settle([key])
        if waiting is not None:
            clockwork.run_until(waiting.done)
        entry = self.engine.get(key)
        assert not isinstance(entry, Future)
        return entry.payload if entry is not None else None


@dataclass
class Pair:
    """Two shards while keys move from the old one to the new one."""

    clockwork: Clockwork
    old: Shard
    new: Shard

    def begin(self) -> list[bytes]:
        """The ring changes; gives the keys that move."""
        self.old.handoffs.stop_moving(AFTER)
        self.new.begin()
        self.old.begin()
        return [key for key in KEYS if not self.old.ownership.owns(key)]


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    """shard-0 holds all keys, most of them on disk only; nothing is fetched before the test turns the clockwork."""
    monkeypatch.setattr(intake_module, "BATCH_PAUSE_MS", 0)
    clockwork = Clockwork()
    small = NodeConfig(l1_bytes_max=1 << 20, l1_entries_max=50, l3_bytes_max=64 << 20, data_dir=tmp_path)
    old = Shard("shard-0", clockwork, small)
    new = Shard("shard-1", clockwork, NodeConfig(l1_bytes_max=4 << 20))
    old.ownership.activate(BEFORE)
    for key in KEYS:
        old.engine.put(key, b"value of " + key, tags=(b"tag",), cost_s=2.5, codec=3, metadata=b"meta")
    yield Pair(clockwork, old, new)
    old.engine.close()
    new.engine.close()


def test_everything_arrives_also_what_is_only_on_disk(pair: Pair) -> None:
    """With tags, cost, codec and metadata; the former owner keeps exactly what is its own."""
    moved = pair.begin()
    assert 100 < len(moved) < 300
    pair.clockwork.run_until(lambda: pair.old.handoffs.left == 0 and pair.old.gone == [2])
    for key in KEYS:
        here, there = pair.old.engine.peek(key), pair.new.engine.peek(key)
        assert not isinstance(here, Future)
        assert not isinstance(there, Future)
        assert (here is None, there is None) == ((True, False) if key in moved else (False, True))
        if there is not None:
            assert (there.payload, there.tags, there.cost_s) == (b"value of " + key, (b"tag",), 2.5)
            assert (there.codec, there.metadata) == (3, b"meta")
    assert pair.new.handoffs.stats()["taken"] == len(moved)


def test_the_first_get_takes_the_entry(pair: Pair) -> None:
    """Before any batch; the second get does not ask again."""
    key = pair.begin()[0]
    assert pair.new.get(pair.clockwork, key) == b"value of " + key
    assert pair.old.engine.peek(key) is None
    asked = pair.clockwork.asked.count(b"SC.TAKE")
    assert pair.new.get(pair.clockwork, key) is not None
    assert pair.clockwork.asked.count(b"SC.TAKE") == asked == 1


def test_a_put_is_never_overtaken(pair: Pair) -> None:
    """Neither by a batch nor by an answer that was on its way when the put came."""
    first, second = pair.begin()[:2]
    intake = pair.new.handoffs.intake
    assert intake is not None
    intake.touch(first)
    pair.new.engine.put(first, b"newer")
    waiting = intake.settle([second])
    assert waiting is not None
    intake.touch(second)
    pair.new.engine.put(second, b"newer")
    pair.clockwork.run_until(lambda: pair.old.handoffs.left == 0)
    assert pair.new.get(pair.clockwork, first) == b"newer"
    assert pair.new.get(pair.clockwork, second) == b"newer"


def test_what_was_invalidated_meanwhile_does_not_arrive(pair: Pair) -> None:
    """The former owner was not told; the ticket of the new one knows."""
    moved = pair.begin()
    pair.new.engine.invalidate_tags([b"tag"])
    assert pair.new.get(pair.clockwork, moved[0]) is None
    pair.clockwork.run_until(lambda: pair.old.handoffs.left == 0)
    assert len(pair.new.engine) == 0


def test_a_former_owner_that_does_not_answer_means_misses(pair: Pair) -> None:
    """A few questions are waited for, then it is not asked any more; what it has is dropped when the time is over."""
    moved = pair.begin()
    pair.clockwork.deaf = True
    assert [pair.new.get(pair.clockwork, key) for key in moved[:5]] == [None] * 5
    assert pair.new.handoffs.intake is not None
    assert not pair.new.handoffs.intake.open
    pair.old.begin(window_ms=0)
    pair.clockwork.run_until(lambda: pair.old.handoffs.left == 0)
    assert all(pair.old.engine.peek(key) is None for key in moved)


def test_leftovers_are_gone_before_the_next_ring_is_vouched_for(pair: Pair) -> None:
    """From memory and disk; what the shard owns stays."""
    moved = pair.begin()
    done: list[bool] = []
    pair.old.handoffs.drop_leftovers(lambda: done.append(True))
    pair.clockwork.run_until(lambda: bool(done))
    assert [key for key in KEYS if pair.old.engine.peek(key) is None] == moved


def test_entries_go_to_the_owner_of_that_change_only(pair: Pair) -> None:
    """Another epoch, another incarnation, another shard, a key that did not move: nothing is given."""
    moved = pair.begin()
    stays = next(key for key in KEYS if key not in moved)
    for epoch, taker, incarnation, key in (
        (1, "shard-1", b"1", moved[0]),
        (2, "shard-1", b"2", moved[0]),
        (2, "shard-7", b"1", moved[0]),
        (2, "shard-1", b"1", stays),
    ):
        with pytest.raises(CommandError):
            pair.old.handoffs.take(epoch, taker, incarnation, [key])
    assert pair.old.engine.peek(moved[0]) is not None


def test_a_former_owner_that_still_looks_is_asked_again(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding what has moved takes a while on a large shard: that is no failure to answer."""
    monkeypatch.setattr(leftovers, "LOOKS_A_STEP", 1)
    moved = pair.begin()
    pair.clockwork.run_until(lambda: pair.clockwork.asked.count(b"SC.DRAIN") > 20)
    pair.clockwork.run_until(lambda: pair.old.handoffs.left == 0)
    assert pair.new.handoffs.stats()["taken"] == len(moved)


def test_who_is_not_as_far_yet_says_so(pair: Pair) -> None:
    """The new owner has the view already, the former one has only prepared it: it is asked again."""
    pair.old.handoffs.stop_moving(AFTER)
    with pytest.raises(CommandError, match="TRYAGAIN"):
        pair.old.handoffs.take(2, "shard-1", b"1", [KEYS[0]])


@pytest.mark.parametrize("blob", [b"", b"\xc1", b"\x07", b"\x96" + 6 * b"\x07", b"\x96", b"\x81\x90\x07"])
def test_an_entry_that_can_not_be_read_is_a_miss(pair: Pair, monkeypatch: pytest.MonkeyPatch, blob: bytes) -> None:
    """Whoever waits for it gets his answer, and the handoff goes on to its end."""
    monkeypatch.setattr(leftovers, "pack_entry", lambda entry, now_ms: blob)
    moved = pair.begin()
    assert pair.new.get(pair.clockwork, moved[0]) is None
    pair.clockwork.run_until(lambda: pair.old.handoffs.left == 0)
    stats = pair.new.handoffs.stats()
    assert (stats["taken"], stats["refused"]) == (0, len(moved))
