"""An engine with a loop: what may have to wait comes as a future."""

from __future__ import annotations

import random
import time
from concurrent.futures import Future

import pytest

from stratacache.node.engine import MultiLevelCache
from stratacache.node.entry import Entry
from stratacache.node.leases import LeaseReply
from stratacache.node.types import RemovalCause

from .disk_world import MIB, TEXT, Loop, payload


def test_write_through_is_acknowledged_after_the_commit(looped: tuple[MultiLevelCache, Loop]) -> None:
    """The future of a put is done when the record is in the file; readers see the value at once."""
    engine, loop = looped
    first = engine.put(b"a", b"1")
    second = engine.put(b"b", b"2")
    assert isinstance(first, Future)
    assert isinstance(second, Future)
    assert payload(engine, b"a") == b"1"
    assert loop.run_until(second) is True
    assert first.result(0) is True
    assert engine.stats()["levels"]["l3_disk"]["entries"] == 2


def test_seed_defect_methods_block_on_the_disk(looped: tuple[MultiLevelCache, Loop]) -> None:
    """A large record comes as a future and is promoted when it arrives."""
    engine, loop = looped
    big = random.Random(6).randbytes(MIB)
    put = engine.put(b"big", big)
    assert isinstance(put, Future)
    loop.run_until(put)
    engine.residents.unlink(engine.table[b"big"], RemovalCause.EVICTED)
    found = engine.get(b"big")
    assert isinstance(found, Future)
    entry = loop.run_until(found)
    assert isinstance(entry, Entry)
    assert entry.payload == big
    assert engine.table[b"big"] is entry


def test_write_through_acknowledges_another_expiry_after_the_commit(looped: tuple[MultiLevelCache, Loop]) -> None:
    """Also that of an entry that has to be read from the disk first: nothing waits any more when it is answered."""
    engine, loop = looped
    put = engine.put(b"big", random.Random(8).randbytes(MIB))
    assert isinstance(put, Future)
    loop.run_until(put)
    engine.residents.unlink(engine.table[b"big"], RemovalCause.EVICTED)
    changed = engine.set_expiry(b"big", engine.now_ms() + 60_000)
    assert isinstance(changed, Future)
    assert engine.l3 is not None
    idle: list[bool] = []
    changed.add_done_callback(lambda _: idle.append(engine.l3.idle if engine.l3 is not None else False))
    assert loop.run_until(changed) is True
    assert idle == [True]


@pytest.mark.parametrize("how", ["key", "tag", "namespace", "clear", "put"])
def test_promotion_in_flight_does_not_survive_an_invalidation(looped: tuple[MultiLevelCache, Loop], how: str) -> None:
    """A value that was being read from disk when it was invalidated is neither served nor promoted."""
    engine, loop = looped
    put = engine.put(b"docs:big", random.Random(7).randbytes(MIB), tags=(b"t",))
    assert isinstance(put, Future)
    loop.run_until(put)
    engine.residents.unlink(engine.table[b"docs:big"], RemovalCause.EVICTED)
    found = engine.get(b"docs:big")
    assert isinstance(found, Future)
    done: object
    if how == "key":
        done = engine.remove(b"docs:big")
    elif how == "tag":
        done = engine.invalidate_tags((b"t",))
    elif how == "namespace":
        done = engine.invalidate_namespace(b"docs")
    elif how == "clear":
        done = engine.clear()
    else:
        done = engine.put(b"docs:big", b"newer")
    assert isinstance(done, Future)
    loop.run_until(done)
    entry = loop.run_until(found)
    if how == "put":
        assert isinstance(entry, Entry)
        assert entry.payload == b"newer"
    else:
        assert entry is None
        assert payload(engine, b"docs:big") is None


def test_large_payload_is_packed_in_the_worker(looped: tuple[MultiLevelCache, Loop]) -> None:
    """Demotion of a large value does not wait for zlib."""
    engine, loop = looped
    big = TEXT * 100
    put = engine.put(b"big", big)
    assert isinstance(put, Future)
    loop.run_until(put)
    for number in range(9):
        last = engine.put(b"k%d" % number, random.Random(number).randbytes(500_000))
    assert isinstance(last, Future)
    loop.run_until(last)
    assert engine.l2 is not None
    until = time.monotonic() + 10
    while not engine.l2.table[b"big"].packed:
        assert time.monotonic() < until
        engine._handoff.run_done_for(0.05)
    assert engine.l2.table[b"big"].size < 20_000
    engine.validate()
    assert payload(engine, b"big") == big


def test_large_tag_is_killed_in_slices_between_other_calls(looped: tuple[MultiLevelCache, Loop]) -> None:
    """While a tag of many entries is killed the loop goes on, and the answer comes when all is dead."""
    engine, loop = looped
    assert engine.l3 is not None
    for number in range(9000):
        engine.put(b"k%d" % number, b"", tags=(b"t",))
    removed = engine.invalidate_tags((b"t",))
    assert isinstance(removed, Future)
    assert not removed.done()
    engine.put(b"k1", b"newer", tags=(b"t",))
    loop.run_until(removed)
    assert payload(engine, b"k1") == b"newer"
    assert payload(engine, b"k2") is None
    assert payload(engine, b"k8999") is None


def test_lease_voided_by_a_tag_known_only_at_the_put(looped: tuple[MultiLevelCache, Loop]) -> None:
    """The fill race is closed with a disk below too."""
    engine, loop = looped
    reply = engine.lease(b"a", 0, 1000)
    assert isinstance(reply, LeaseReply)
    removed = engine.invalidate_tags((b"t",))
    assert isinstance(removed, Future)
    loop.run_until(removed)
    assert engine.put(b"a", b"old", tags=(b"t",), lease=reply.token) is False


def large_invalidation(engine: MultiLevelCache, loop: Loop, how: str) -> Future[int]:
    """One of more entries than a slice kills; `docs:last`, which holds 5, is among those that have their turn yet."""
    for number in range(16 * 256):
        engine.put(b"docs:%d" % number, b"", tags=(b"red",))
    assert loop.run_until(engine.put(b"docs:last", b"5", tags=(b"red",)))  # type: ignore[arg-type]
    calls = {
        "tag": lambda: engine.invalidate_tags((b"red",)),
        "namespace": lambda: engine.invalidate_namespace(b"docs"),
        "clear": engine.clear,
    }
    removed = calls[how]()
    assert isinstance(removed, Future)
    assert not removed.done()
    return removed


@pytest.mark.parametrize("how", ["tag", "clear"])
def test_another_expiry_does_not_carry_an_entry_past_its_invalidation(
    looped: tuple[MultiLevelCache, Loop], how: str
) -> None:
    """Between the slices of a kill, when the records are swept already: written now, it would stay in the file."""
    engine, loop = looped
    assert engine.l3 is not None
    removed = large_invalidation(engine, loop, how)
    slices = [call for call in loop.calls if "run_done" not in repr(call)]
    loop.calls = [call for call in loop.calls if call not in slices]
    until = time.monotonic() + 60
    while engine.stats()["levels"]["l3_disk"]["entries"] or engine.l3.stats()["tombstones"]:
        assert time.monotonic() < until, "the records are not swept"
        engine.tick()
        engine._handoff.run_done_for(0.05)
    changed = engine.set_expiry(b"docs:last", engine.now_ms() + 60_000)
    if isinstance(changed, Future):
        loop.run_until(changed)  # type: ignore[arg-type]
    for call in slices:
        call()
    loop.run_until(removed)  # type: ignore[arg-type]
    for _ in range(20):
        engine.tick()
    assert engine.get(b"docs:last") is None


@pytest.mark.parametrize("how", ["namespace"])
def test_what_is_being_killed_is_not_there_for_who_changes_it(looped: tuple[MultiLevelCache, Loop], how: str) -> None:
    """A counter that is invalidated begins anew: six, made of the five that is gone, would stand for ever."""
    engine, loop = looped
    removed = large_invalidation(engine, loop, how)
    found = engine.own(b"docs:last")
    value = int(found.payload) if isinstance(found, Entry) else 0
    engine.put(b"docs:last", b"%d" % (value + 1), tags=(b"red",))
    loop.run_until(removed)  # type: ignore[arg-type]
    assert payload(engine, b"docs:last") == b"1"
    assert isinstance(engine.own(b"docs:last"), Entry)
