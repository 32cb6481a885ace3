"""One shard's replication with a real engine: what it notes as missed by others, and what it asks them for."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from stratacache.cluster import messages as m
from stratacache.cluster import serving_events as s
from stratacache.cluster.replicated import ReplicatedCache
from stratacache.cluster.replication import Replication
from stratacache.cluster.serving import Serving
from stratacache.cluster.streams import OWN
from stratacache.node.clock import ManualClock
from stratacache.node.config import NodeConfig, WriteMode
from stratacache.node.errors import UsageError
from tests.cluster.owners import ALL, KEY, view_of


class Shard:
    """Shard `a` of three, each of which owns every key."""

    def __init__(self) -> None:
        self.missed: list[tuple[str, bytes]] = []
        self.asked: list[tuple[str, tuple[bytes, ...]]] = []
        self.replies: dict[bytes, Any] = {}
        self.clock = ManualClock()
        self.engine = ReplicatedCache(NodeConfig(l1_bytes_max=1 << 20, value_bytes_max=1 << 16), clock=self.clock)
        self.replication = Replication("a", self.engine, may_serve=lambda: True, missed=self._missed)
        self.replication.ask = self._ask
        self.replication.failed = lambda why, error: self.failed.append(error)
        self.failed: list[BaseException] = []
        self.timers: list[Any] = []
        self.replication.after = lambda ms, fn: self.timers.append(fn)

    def _missed(self, shard: str, keys: Any) -> None:
        self.missed += [(shard, key) for key in keys]

    def _ask(self, peer: str, words: tuple[bytes, ...]) -> Future[Any]:
        self.asked.append((peer, words))
        future: Future[Any] = Future()
        reply = self.replies[words[0]]
        future.set_result(reply(*words[1:]) if callable(reply) else reply)
        return future


@pytest.fixture
def shard() -> Iterator[Shard]:
    """A shard whose engine agrees with itself to the end."""
    made = Shard()
    yield made
    made.engine.validate()
    made.engine.close()


def test_owners_that_go_one_after_the_other_have_both_missed_a_change(shard: Shard) -> None:
    """The change waited for the second owner, which would have handed it to the third: now neither has it."""
    shard.replication.activate(ALL, returns=False)
    put = shard.engine.put(KEY, b"new")
    shard.replication.prepare(view_of(2, {"a": "1", "b": "", "c": "1"}))
    assert set(shard.missed) == {("b", KEY)}
    shard.replication.prepare(view_of(3, {"a": "1", "b": "", "c": ""}))
    assert ("c", KEY) in shard.missed
    assert isinstance(put, Future)
    assert put.result(0) is True


def test_a_change_goes_on_to_the_owner_behind_the_one_that_went(shard: Shard) -> None:
    """Where the third owner lives on it gets the change, and has missed nothing."""
    without = view_of(2, {"a": "1", "b": "", "c": "1"})
    shard.replication.activate(ALL, returns=False)
    put = shard.engine.put(KEY, b"new")
    shard.replication.prepare(without)
    shard.replication.activate(without, returns=False)
    outbox = shard.replication.outbox
    stream = outbox.streams["c", OWN]
    outbox.opened(stream, 0)
    assert [words[2:5] for words in stream.unsent()] == [(b"PUT", KEY, b"new")]
    assert isinstance(put, Future)
    assert not put.done()
    outbox.answered(stream, 1)
    assert put.result(0) is True
    assert {name for name, _ in shard.missed} == {"b"}


def test_a_shard_that_returns_asks_for_what_it_has_dropped(shard: Shard) -> None:
    """An entry that was dropped lies in the table until it is swept; it is no copy of what the others hold."""
    alone = view_of(1, {"a": "1", "b": "", "c": ""})
    shard.replication.activate(alone, returns=False)
    shard.engine.put(KEY, b"old")
    shard.engine.alone().clear()
    shard.replies[b"SC.SHARED"] = [b"0", [KEY]]
    shard.replies[b"SC.PULL"] = [[0, b"kept", -1, b"1.0", b""]]
    shard.replication.activate(ALL, returns=True)
    entry = shard.engine.get(KEY)
    assert not isinstance(entry, Future)
    assert entry is not None
    assert bytes(entry.payload) == b"kept"
    assert ("b", (b"SC.PULL", KEY)) in shard.asked


@pytest.mark.parametrize("garbage", [7, None, [], [[0, b"kept"]], [[0, b"kept", -1, b"dear", b""]], [b"x", b"y"]])
def test_an_answer_that_is_none_of_the_protocol_counts_as_none(shard: Shard, garbage: object) -> None:
    """The next owner is asked; nobody waits for ever, and a shard that returns asks again later."""
    shard.replies[b"SC.SHARED"] = garbage
    shard.replies[b"SC.PULL"] = garbage
    shard.replication.activate(ALL, returns=True)
    assert len(shard.timers) == 2, "both peers are asked again"
    found = shard.engine.get(KEY)
    assert isinstance(found, Future)
    assert found.result(0) is None
    assert [peer for peer, words in shard.asked if words == (b"SC.PULL", KEY)] == ["b", "c"]
    shard.replies[b"SC.SHARED"] = [b"0", [KEY]]
    for again in shard.timers[:]:
        again()
    assert len(shard.timers) == 4
    shard.replies[b"SC.PULL"] = [[0, b"kept", -1, b"1.0", b""]]
    for again in shard.timers[2:]:
        again()
    entry = shard.engine.get(KEY)
    assert not isinstance(entry, Future)
    assert entry is not None
    assert not shard.failed


def test_who_no_longer_waits_for_an_entry_leaves_nothing_behind(shard: Shard) -> None:
    """The answer that comes all the same ends nobody, and the next one asks anew."""
    shard.replies[b"SC.SHARED"] = None
    shard.replication.activate(ALL, returns=True)
    answers: list[Future[Any]] = []

    def ask(peer: str, words: tuple[bytes, ...]) -> Future[Any]:
        answers.append(Future())
        return answers[-1]

    shard.replication.ask = ask
    found = shard.engine.get(KEY)
    assert isinstance(found, Future)
    assert found.cancel()
    answers[0].set_result([[0, b"kept", -1, b"1.0", b""]])
    assert not shard.failed
    entry = shard.engine.get(KEY)
    assert not isinstance(entry, Future)
    assert entry is not None


def test_an_entry_that_this_shard_would_not_take_is_a_miss(shard: Shard) -> None:
    """What another owner gives passes the same limits as what a client puts."""
    shard.replies[b"SC.SHARED"] = None
    shard.replies[b"SC.PULL"] = [[0, bytes(70_000), -1, b"1.0", b""]]
    shard.replication.activate(ALL, returns=True)
    found = shard.engine.get(KEY)
    assert isinstance(found, Future)
    assert found.result(0) is None
    assert not shard.failed


def test_an_answer_may_hold_the_first_entries_only(shard: Shard) -> None:
    """Large values: the rest is asked for again, and nothing is left out."""
    keys = [b"large-%d" % number for number in range(100)]

    def pulled(*wanted: bytes) -> object:
        return [[0, b"kept", -1, b"1.0", b""] for _ in wanted[:3]]

    shard.replies[b"SC.SHARED"] = [b"0", keys]
    shard.replies[b"SC.PULL"] = pulled
    shard.replication.activate(view_of(1, {"a": "1", "b": "1", "c": ""}), returns=True)
    assert not shard.timers
    assert not shard.replication.is_missing(shard.engine.now_ms())
    assert all(shard.engine.get(key) is not None for key in keys)
    assert len([words for _, words in shard.asked if words[0] == b"SC.PULL"]) == 34


@pytest.mark.parametrize("ttl_ms", [5_000, 20_000])
def test_what_is_long_on_its_way_expires_when_it_would_have(shard: Shard, ttl_ms: int) -> None:
    """The rest of a TTL that another owner tells begins before the value is on its way, not when it has come."""
    answers: list[Future[Any]] = []

    def ask(peer: str, words: tuple[bytes, ...]) -> Future[Any]:
        answers.append(Future())
        return answers[-1]

    shard.replication.ask = ask
    shard.replication.activate(view_of(1, {"a": "1", "b": "1", "c": ""}), returns=True)
    listing = answers.pop()
    found = shard.engine.get(KEY)
    assert isinstance(found, Future)
    listing.set_result([b"0", [b"other"]])
    shard.clock.advance(10_000)
    for answer in answers:
        answer.set_result([[0, b"kept", ttl_ms, b"1.0", b""]])
    for key in (KEY, b"other"):
        assert (shard.engine.peek(key) is not None) == (ttl_ms > 10_000)
    shard.clock.advance(10_000)
    for key in (KEY, b"other"):
        assert shard.engine.peek(key) is None


def test_a_change_that_could_not_be_applied_ends_the_process(shard: Shard) -> None:
    """Its sender would hear nothing but errors, and nobody can say which half of it was done."""
    shard.replication.activate(ALL, returns=False)
    sender = ("b", "1", OWN)
    shard.replication.open(sender)
    with pytest.raises(UsageError, match="no change that this version knows"):
        shard.replication.take(sender, 1, (b"RENAME", KEY, b"other"))
    assert [type(error) for error in shard.failed] == [UsageError]
    assert shard.replication.open(sender) == (0, [])


def joining(epoch: int, *, after: int, term: int = 1) -> m.Prepare:
    """The prepare that lets process 2 of shard `a` in."""
    view = view_of(epoch, {"a": "2", "b": "1", "c": "1"})
    return m.Prepare(shard="a", incarnation=2, term=term, view=view, keep=True, returns=True, after=after)


def ends(serving: Serving, event: m.Prepare) -> bool:
    """Whether the process ends itself on this prepare."""
    return s.End() in serving.handle(event, 0)


def test_a_process_whose_first_view_was_overtaken_is_let_in_by_the_next() -> None:
    """Two shards that come back at once overtake each other's views: they must not end each other's processes."""
    serving = Serving(shard="a", incarnation=2, lease_ms=1000)
    assert not ends(serving, joining(5, after=4))
    assert not ends(serving, joining(6, after=4))
    assert not ends(serving, joining(9, after=4))
    assert ends(serving, joining(11, after=9)), "view 9 was in force: others have gone on with and without it"


def test_a_process_that_another_coordinator_lets_in_again_ends() -> None:
    """It can't know what the one before has made of its view."""
    serving = Serving(shard="a", incarnation=2, lease_ms=1000)
    assert not ends(serving, joining(5, after=4))
    assert ends(serving, joining(7, after=4, term=2))


def test_several_owners_and_write_through_are_refused(tmp_path: Path) -> None:
    """Each disk would wait for the other owners, and they for it: a circle."""
    config = NodeConfig(
        l1_bytes_max=1 << 20, l3_bytes_max=1 << 22, data_dir=tmp_path, l3_write_mode=WriteMode.WRITE_THROUGH
    )
    engine = ReplicatedCache(config, clock=ManualClock())
    try:
        with pytest.raises(UsageError, match="written behind"):
            Replication("a", engine, may_serve=lambda: True, missed=lambda shard, keys: None)
    finally:
        engine.close()
