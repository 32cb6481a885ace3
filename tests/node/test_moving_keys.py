"""What a node offers for keys that move to another node: a standing ticket, keys in their order, dropping, leases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stratacache.node.config import NodeConfig
from stratacache.node.engine import MultiLevelCache
from stratacache.node.gate import MARKS_MAX, InvalidationGate
from stratacache.node.leases import LeaseReply, LeaseState
from stratacache.node.types import RemovalCause


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[MultiLevelCache]:
    """A node with all three levels."""
    made = MultiLevelCache(NodeConfig(l1_bytes_max=1 << 20, l3_bytes_max=64 << 20, data_dir=tmp_path))
    yield made
    made.close()


def test_a_standing_ticket_hears_of_everything_since_its_opening() -> None:
    """Tags, namespaces and keys from then on; nothing of what was before."""
    gate = InvalidationGate()
    gate.mark_tags((b"before",))
    heard: list[bytes] = []
    ticket = gate.stand(heard.append)
    assert ticket.admits(b"default", (b"before", b"a"))
    gate.mark_tags((b"a",))
    assert not ticket.admits(b"default", (b"a",))
    assert ticket.admits(b"docs", (b"b",))
    gate.mark_namespace(b"docs")
    assert not ticket.admits(b"docs", (b"b",))
    gate.void_key(b"k")
    assert heard == [b"k"]
    assert ticket.admits(b"default", ())
    gate.mark_clear()
    assert not ticket.admits(b"default", ())


def test_a_standing_ticket_outlives_single_ones_and_ends_when_dismissed() -> None:
    """Marks are kept for it though no other ticket is open."""
    gate = InvalidationGate()
    ticket = gate.stand(lambda key: None)
    gate.close(gate.open(b"k"))
    gate.mark_tags((b"a",))
    gate.close(gate.open(b"k"))
    assert not ticket.admits(b"default", (b"a",))
    gate.dismiss(ticket)
    gate.dismiss(ticket)
    gate.mark_tags((b"b",))
    assert ticket.admits(b"default", (b"b",)), "it hears of nothing any more: who dismisses it must not ask"


def test_a_standing_ticket_with_too_many_marks_refuses_everything() -> None:
    """What can't be remembered may have been invalidated."""
    gate = InvalidationGate()
    ticket = gate.stand(lambda key: None)
    gate.mark_tags(b"%d" % number for number in range(MARKS_MAX))
    assert ticket.admits(b"default", (b"tag",))
    gate.mark_tags((b"one more",))
    assert not ticket.admits(b"default", (b"tag",))


def test_keys_come_hottest_first(engine: MultiLevelCache) -> None:
    """The order of LRU, from its far end."""
    for number in range(5):
        engine.put(b"k%d" % number, b"v")
    engine.get(b"k1")
    assert engine.moving.hottest_first() == [b"k1", b"k4", b"k3", b"k2", b"k0"]


def test_all_keys_on_disk_are_listed_also_those_that_wait_to_be_written(engine: MultiLevelCache) -> None:
    """In slices; together every key once at least."""
    keys = {b"k%d" % number for number in range(300)}
    for key in keys:
        engine.put(key, b"v")
    engine.flush()
    engine.put(b"late", b"v")
    found: set[bytes] = set()
    mark = b""
    while True:
        slice_ = engine.moving.on_disk(mark, 64)
        assert slice_ is not None
        mark, some = slice_.result(10) if slice_.done() else _waited(engine, slice_)
        found.update(some)
        if not mark:
            break
    assert found == keys | {b"late"}


def _waited(engine: MultiLevelCache, slice_: object) -> tuple[bytes, list[bytes]]:
    while not slice_.done():  # type: ignore[attr-defined]
        engine._handoff.run_done_for(0.05)
    return slice_.result()  # type: ignore[attr-defined, no-any-return]


def test_a_dropped_key_is_gone_from_every_level(engine: MultiLevelCache) -> None:
    """Memory and disk, and counted as dropped."""
    engine.put(b"k", b"v")
    engine.flush()
    engine.moving.drop([b"k"])
    assert engine.get(b"k") is None
    assert engine.l1.counters.removed[RemovalCause.DROPPED] == 1


def test_leases_of_keys_that_move_end_and_waiters_are_sent_away(engine: MultiLevelCache) -> None:
    """A fill under such a lease is refused, whoever invalidated the key elsewhere meanwhile."""
    lease = engine.lease(b"gone", 0, 60_000)
    other = engine.lease(b"stays", 0, 60_000)
    assert isinstance(lease, LeaseReply)
    assert isinstance(other, LeaseReply)
    waiter = engine.lease(b"gone", 60_000, 60_000)
    engine.moving.drop_leases(lambda key: key == b"gone")
    assert not isinstance(waiter, LeaseReply)
    assert waiter.result(1).state is LeaseState.TIMEOUT
    assert engine.put(b"gone", b"v", lease=lease.token) is False
    assert engine.put(b"stays", b"v", lease=other.token) is True


def test_the_token_of_another_shard_is_no_token_here(engine: MultiLevelCache) -> None:
    """Two shards count alike; the origin tells their tokens apart."""
    twin = MultiLevelCache(NodeConfig(l1_bytes_max=1 << 20))
    engine.leases.origin, twin.leases.origin = b"shard-0/1-", b"shard-1/1-"
    ours, theirs = engine.lease(b"k", 0, 1000), twin.lease(b"k", 0, 1000)
    assert isinstance(ours, LeaseReply)
    assert isinstance(theirs, LeaseReply)
    assert ours.token != theirs.token
    assert twin.put(b"k", b"v", lease=ours.token) is False
    twin.close()
