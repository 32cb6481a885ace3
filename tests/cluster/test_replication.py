"""One shard's replication with a real engine: what it notes as missed by others, and what it asks them for."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from stratacache.cluster.replicated import ReplicatedCache
from stratacache.cluster.replication import Replication
from stratacache.cluster.streams import OWN
from stratacache.node.clock import ManualClock
from stratacache.node.config import NodeConfig
from tests.cluster.test_chains import ALL, KEY, view_of


class Shard:
    """Shard `a` of three, each of which owns every key."""

    def __init__(self) -> None:
        self.missed: list[tuple[str, bytes]] = []
        self.asked: list[tuple[str, tuple[bytes, ...]]] = []
        self.replies: dict[bytes, Any] = {}
        self.engine = ReplicatedCache(NodeConfig(l1_bytes_max=1 << 20), clock=ManualClock())
        self.replication = Replication("a", self.engine, may_serve=lambda: True, missed=self._missed)
        self.replication.ask = self._ask

    def _missed(self, shard: str, keys: Any) -> None:
        self.missed += [(shard, key) for key in keys]

    def _ask(self, peer: str, words: tuple[bytes, ...]) -> Future[Any]:
        self.asked.append((peer, words))
        future: Future[Any] = Future()
        future.set_result(self.replies[words[0]])
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
    shard.replies[b"SC.SHARED"] = [0, [KEY]]
    shard.replies[b"SC.PULL"] = [[0, b"kept", -1, b"1.0", b""]]
    shard.replication.activate(ALL, returns=True)
    entry = shard.engine.get(KEY)
    assert not isinstance(entry, Future)
    assert entry is not None
    assert bytes(entry.payload) == b"kept"
    assert ("b", (b"SC.PULL", KEY)) in shard.asked
