"""What an invalidation says it removed, on a node with a disk: each entry once, wherever it lies just then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from stratacache.node.clock import ManualClock
from stratacache.node.config import NodeConfig
from stratacache.node.engine import MultiLevelCache
from stratacache.node.levels import store as store_module
from stratacache.node.types import RemovalCause

from .disk_world import MIB, Loop, Node, settle

WAYS: dict[str, Callable[[MultiLevelCache], int | Future[int]]] = {
    "tag": lambda engine: engine.invalidate_tags((b"t",)),
    "tags": lambda engine: engine.invalidate_tags((b"u", b"t", b"v")),
    "namespace": lambda engine: engine.invalidate_namespace(b"docs"),
    "everything": lambda engine: engine.clear(),
}


def put(engine: MultiLevelCache, numbers: range) -> None:
    for number in numbers:
        engine.put(b"docs:%d" % number, b"v" * 100, tags=(b"t", b"u"))


def wait_for_records(engine: MultiLevelCache, count: int) -> None:
    """Wait until the worker has committed so many records; the owner is not told of them yet."""
    until = time.monotonic() + 10
    assert engine.l3 is not None
    assert engine.l3._open is not None
    while engine.l3._open.store.count < count:
        assert time.monotonic() < until, f"{engine.l3._open.store.count} of {count} records are written"
        time.sleep(0.001)


class HalfWritten:
    """Lets the worker commit one transaction of a batch, and holds it there until it is told to go on."""

    def __init__(self, engine: MultiLevelCache) -> None:
        assert engine.l3 is not None
        assert engine.l3._open is not None
        self._engine = engine
        self._store = engine.l3._open.store
        self._write = self._store.write
        self.half = threading.Event()
        self._going_on = threading.Event()
        self._store.write = self._first  # type: ignore[method-assign, assignment]
        engine.flush()
        assert self.half.wait(10), "the batch is not written"

    def _first(self, change: Callable[[Any], Any]) -> Any:
        self._store.write = self._write  # type: ignore[method-assign]
        written = self._write(change)
        self._engine._handoff.worker.submit(self._hold, urgent=True)
        return written

    def _hold(self) -> None:
        self.half.set()
        self._going_on.wait(20)

    def go_on(self) -> None:
        self._going_on.set()


@pytest.fixture
def behind(tmp_path: Path, clock: ManualClock) -> Iterator[tuple[MultiLevelCache, Loop]]:
    """An engine that is written behind, with a loop."""
    loop = Loop()
    config = NodeConfig(l1_bytes_max=16 * MIB, l3_bytes_max=16 * MIB, data_dir=tmp_path / "l3")
    engine = MultiLevelCache(config, clock=clock, post=loop.post)
    yield engine, loop
    engine.validate()
    engine.close()


@pytest.mark.parametrize("way", WAYS)
def test_what_was_written_but_not_told_yet_counts_once(node: Node, way: str) -> None:
    """A batch is in the file, and the owner has not heard of it."""
    engine = node.start()
    put(engine, range(500))
    engine.flush()
    wait_for_records(engine, 500)
    assert WAYS[way](engine) == 500


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_that_is_half_written_counts_once(behind: tuple[MultiLevelCache, Loop], way: str) -> None:
    """Of 300 entries 100 are in the file already and put anew, 20 have left memory, and one transaction is through."""
    engine, loop = behind
    assert engine.l3 is not None
    put(engine, range(120))
    engine.l3.write_out(10)
    for number in range(20):
        engine.residents.unlink(engine.table[b"docs:%d" % number], RemovalCause.EVICTED)
    put(engine, range(120, 300))
    put(engine, range(20, 120))
    worker = HalfWritten(engine)
    removed = WAYS[way](engine)
    worker.go_on()
    assert isinstance(removed, Future)
    assert loop.run_until(removed) == 300  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [(b"t", b"u"), (b"u", b"none", b"t"), (b"t", b"t")])
def test_an_entry_with_several_of_the_tags_counts_once(node: Node, given: tuple[bytes, ...]) -> None:
    """On disk it stands in the index of each of its tags."""
    engine = node.start()
    put(engine, range(10))
    settle(engine)
    assert engine.invalidate_tags(()) == 0
    assert engine.invalidate_tags(given) == 10


def test_entries_with_several_of_very_many_tags(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past a number of index rows they are not compared: then an entry counts once for each of its tags."""
    monkeypatch.setattr(store_module, "COMPARED_MAX", 30)
    engine = node.start()
    put(engine, range(15))
    settle(engine)
    assert engine.invalidate_tags((b"t", b"u")) == 15
    settle(engine)
    put(engine, range(16))
    settle(engine)
    assert engine.invalidate_tags((b"t", b"u")) == 32
