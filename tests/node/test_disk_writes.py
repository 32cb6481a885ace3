"""What waits for the disk: coalesced, bounded, and never older than what it takes the place of."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from stratacache.node.clock import ManualClock
from stratacache.node.config import NodeConfig
from stratacache.node.engine import MultiLevelCache
from stratacache.node.entry import NEVER_MS
from stratacache.node.types import RemovalCause

from .disk_world import MIB, TEXT, Loop, Node, payload, settle


def test_queued_write_is_read_before_it_is_on_disk(node: Node) -> None:
    """What was evicted from memory while it waited for the disk is found in the queue."""
    engine = node.start(l1_entries_max=1)
    engine.put(b"a", b"1")
    engine.put(b"b", b"2")
    assert list(engine.table) == [b"b"]
    assert payload(engine, b"a") == b"1"


@pytest.mark.parametrize("how", ["tag", "namespace", "clear", "key", "expiry"])
def test_queued_write_does_not_survive_what_kills_it(node: Node, how: str) -> None:
    """An entry invalidated or expired while it waits for the disk is not written, nor is what it replaced kept."""
    engine = node.start(l1_entries_max=1)
    engine.put(b"docs:a", b"old", tags=(b"t",))
    settle(engine)
    engine.put(b"docs:a", b"1", tags=(b"t",), expires_ms=engine.now_ms() + 10 if how == "expiry" else NEVER_MS)
    engine.put(b"other", b"2")
    if how == "tag":
        assert engine.invalidate_tags((b"t",)) == 1
    elif how == "namespace":
        assert engine.invalidate_namespace(b"docs") == 1
    elif how == "clear":
        engine.clear()
    elif how == "key":
        assert engine.remove(b"docs:a") is True
    else:
        node.clock.advance(11)
    assert payload(engine, b"docs:a") is None
    again = node.start()
    assert payload(again, b"docs:a") is None
    assert payload(again, b"other") == (None if how == "clear" else b"2")


def test_large_values_fit_or_are_skipped(node: Node) -> None:
    """Values of up to a quarter of the level are stored; larger ones are not, and leave nothing older behind."""
    engine = node.start(l3_bytes_max=8 * MIB, l1_bytes_max=64 * MIB)
    rng = random.Random(5)
    for number in range(30):
        engine.put(b"k%d" % (number % 10), rng.randbytes(MIB))
        settle(engine)
    assert engine.stats()["levels"]["l3_disk"]["on"]
    engine.put(b"k9", rng.randbytes(3 * MIB))
    assert engine.stats()["levels"]["l3_disk"]["skipped"] == 1
    again = node.start(l3_bytes_max=8 * MIB, l1_bytes_max=64 * MIB)
    assert payload(again, b"k9") is None


def test_full_queue_refuses_at_once_and_leaves_nothing_older(node: Node) -> None:
    """A put that finds the queue full is not stored on disk, and neither is what it replaced."""
    engine = node.start(l3_queue_bytes_max=20_000)
    engine.put(b"a", b"old")
    settle(engine)
    for number in range(10):
        engine.put(b"k%d" % number, b"x" * 3000)
    engine.put(b"a", b"x" * 10_000)
    assert engine.stats()["levels"]["l3_disk"]["skipped"] > 0
    again = node.start()
    assert payload(again, b"a") is None


class Gate:
    """Holds the worker of an engine up until it is opened."""

    def __init__(self, engine: MultiLevelCache) -> None:
        self._opened = threading.Event()
        engine._handoff.worker.submit(self._wait, urgent=True)

    def _wait(self) -> None:
        self._opened.wait(20)

    def open(self) -> None:
        self._opened.set()


def puts_on_disk(engine: MultiLevelCache) -> int:
    engine._handoff.run_done()
    assert engine.l3 is not None
    return engine.l3.counters.puts


def wait_for_puts(engine: MultiLevelCache, count: int) -> None:
    until = time.monotonic() + 10
    while puts_on_disk(engine) < count:
        assert time.monotonic() < until, f"{puts_on_disk(engine)} of {count} puts came to the disk"
        engine._handoff.run_done_for(0.05)


def test_hot_key_is_written_once_in_its_time(node: Node) -> None:
    """A key that is put again and again costs the disk one record a second, and its last value is the one."""
    engine = node.start(flush_after_ms=1000)
    for _ in range(20):
        for number in range(500):
            engine.put(b"hot%d" % (number % 10), b"%d" % number)
        node.clock.advance(49)
        engine.tick()
    assert puts_on_disk(engine) == 0
    assert engine.stats()["levels"]["l3_disk"]["queue_entries"] == 10
    node.clock.advance(100)
    engine.tick()
    wait_for_puts(engine, 10)
    settle(engine)
    assert puts_on_disk(engine) == 10
    assert payload(node.start(), b"hot3") == b"493"


def test_queue_that_is_half_full_does_not_wait(node: Node) -> None:
    """Bytes bound what may be lost, too: past half of the queue's budget the disk is written at once."""
    engine = node.start(flush_after_ms=60_000, l3_queue_bytes_max=100_000)
    for number in range(10):
        engine.put(b"k%d" % number, b"x" * 3000)
    assert engine.stats()["levels"]["l3_disk"]["queue_entries"] == 10
    for number in range(10, 18):
        engine.put(b"k%d" % number, b"x" * 3000)
    wait_for_puts(engine, 14)
    assert engine.stats()["levels"]["l3_disk"]["skipped"] == 0


def test_put_while_its_key_is_being_written(node: Node) -> None:
    """A batch holds what was there when it was taken; the newer value waits for the next one, and is what is read."""
    engine = node.start(l1_entries_max=1)
    engine.put(b"a", b"1")
    gate = Gate(engine)
    engine.flush()
    engine.put(b"a", b"2")
    assert payload(engine, b"a") == b"2"
    engine.put(b"other", b"x")
    assert payload(engine, b"a") == b"2"
    engine.validate()
    gate.open()
    wait_for_puts(engine, 1)
    assert payload(engine, b"a") == b"2"
    engine.residents.unlink(engine.table[b"a"], RemovalCause.EVICTED)
    assert payload(engine, b"a") == b"2"
    again = node.start()
    assert payload(again, b"a") == b"2"


def test_delete_while_its_key_is_being_written(node: Node) -> None:
    """What was deleted while a batch held it is a miss, then and after a restart."""
    engine = node.start()
    engine.put(b"a", b"1")
    gate = Gate(engine)
    engine.flush()
    assert engine.remove(b"a") is True
    assert payload(engine, b"a") is None
    gate.open()
    settle(engine)
    assert payload(engine, b"a") is None
    assert payload(node.start(), b"a") is None


def test_evicted_before_its_flush_still_reaches_the_disk(node: Node) -> None:
    """The queue keeps what memory gave up, packed or not."""
    engine = node.start(l1_entries_max=1, l2_bytes_max=4000, l2_entries_max=1)
    for number in range(20):
        engine.put(b"k%d" % number, TEXT + b"%d" % number)
    again = node.start()
    assert [payload(again, b"k%d" % number) for number in range(20)] == [TEXT + b"%d" % number for number in range(20)]


def test_put_changes_the_entry_in_place(node: Node) -> None:
    """A put of a held key with the same tags costs no new entry; everything about it is the new put's."""
    engine = node.start()
    engine.put(b"a", b"1" * 100, expires_ms=engine.now_ms() + 10, metadata=b"old", cost_s=3.0)
    entry = engine.table[b"a"]
    entry.build_frame()
    engine.put(b"a", b"2" * 3000)
    assert engine.table[b"a"] is entry
    assert (entry.payload, entry.expires_ms, entry.metadata, entry.cost_s) == (b"2" * 3000, NEVER_MS, b"", 1.0)
    engine.put(b"a", b"3", tags=(b"t",))
    assert engine.table[b"a"] is not entry
    assert engine.stats()["removed"]["replaced"] == 2


def test_flood_of_deletes_begins_the_file_afresh(node: Node) -> None:
    """When more deletes wait than may be remembered, all records are dropped: a miss, never an older value."""
    engine = node.start(l3_queue_bytes_max=20_000)
    for number in range(1000):
        engine.put(b"k%d" % number, b"old")
        if number % 20 == 0:
            settle(engine)
    settle(engine)
    for number in range(900):
        engine.remove(b"k%d" % number)
    stats = engine.stats()["levels"]["l3_disk"]
    assert stats["overruns"] > 0
    assert stats["queue_bytes"] < 100_000
    assert payload(engine, b"k950") == b"old"
    settle(engine)
    engine.put(b"k1", b"new")
    again = node.start()
    assert payload(again, b"k1") == b"new"
    assert payload(again, b"k2") is None
    assert again.stats()["levels"]["l3_disk"]["entries"] < 50


def test_write_through_leaves_nothing_out(looped: tuple[MultiLevelCache, Loop]) -> None:
    """However much waits, each put that is acknowledged is in the file."""
    engine, loop = looped
    assert engine.l3 is not None
    engine.l3._writer.pending.bytes_max = 5000
    gate = Gate(engine)
    done = [engine.put(b"k%d" % number, b"x" * 1000) for number in range(300)]
    gate.open()
    for future in done:
        assert isinstance(future, Future)
        assert loop.run_until(future) is True
    stats = engine.stats()["levels"]["l3_disk"]
    assert (stats["entries"], stats["skipped"]) == (300, 0)


def test_a_read_under_way_does_not_bring_back_what_a_put_that_is_left_out_replaced(
    tmp_path: Path, clock: ManualClock
) -> None:
    """Its record was evicted from the file just behind the read, so nothing of its key had to be deleted there."""
    loop = Loop()
    config = NodeConfig(l1_bytes_max=8 * MIB, l3_bytes_max=16 * MIB, data_dir=tmp_path / "l3")
    engine = MultiLevelCache(config, clock=clock, post=loop.post)
    assert engine.l3 is not None
    engine.put(b"a", b"old" * 100_000)
    engine.l3.write_out(10)
    engine.put(b"large", bytes(7_300_000))
    assert engine.residents.find(b"a") is None
    loop.calls.clear()
    read = engine.get(b"a")
    assert isinstance(read, Future)
    with loop.arrived:
        assert loop.arrived.wait_for(lambda: loop.calls, timeout=10), "the record is not read"
    assert engine.l3._open is not None
    assert engine.l3._open.store.evict_in_slices(1) == [b"a"]
    engine.put(b"a", b"new" * 1_700_000)  # more than L3 takes of one value
    assert payload(engine, b"a") == b"new" * 1_700_000
    engine.put(b"large", bytes(7_300_000))
    assert engine.residents.find(b"a") is None
    assert loop.run_until(read) is None  # type: ignore[arg-type]
    found = engine.get(b"a")
    assert (loop.run_until(found) if isinstance(found, Future) else found) is None
    engine.validate()
    engine.close()
