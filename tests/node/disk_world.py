"""Engines with a disk level, restarted and driven by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from stratacache.node.clock import ManualClock
from stratacache.node.config import NodeConfig
from stratacache.node.engine import MultiLevelCache

MIB = 1 << 20
TEXT = b"the same words again and again " * 40


class Node:
    """Starts engines on one directory, one after the other."""

    def __init__(self, directory: Path, clock: ManualClock) -> None:
        self.directory = directory
        self.clock = clock
        self.engine: MultiLevelCache | None = None

    def start(self, **options: object) -> MultiLevelCache:
        self.stop()
        settings: dict[str, object] = {"l1_bytes_max": MIB, "l3_bytes_max": 16 * MIB, "data_dir": self.directory}
        self.engine = MultiLevelCache(NodeConfig(**(settings | options)), clock=self.clock)  # type: ignore[arg-type]
        return self.engine

    def stop(self) -> None:
        if self.engine is not None:
            self.engine.validate()
            self.engine.close()
            self.engine = None


def payload(engine: MultiLevelCache, key: bytes) -> bytes | None:
    entry = engine.get(key)
    assert not isinstance(entry, Future)
    return entry.payload if entry is not None else None


def settle(engine: MultiLevelCache, deadline_s: float = 10.0) -> None:
    """Flush and tick until the disk has nothing more to do."""
    until = time.monotonic() + deadline_s
    assert engine.l3 is not None
    engine.flush()
    quiet = 0
    while quiet < 3:
        assert time.monotonic() < until, "the disk level does not come to rest"
        engine.flush()
        engine.tick()
        quiet = quiet + 1 if engine.l3.idle else 0
        if not quiet:
            engine._handoff.run_done_for(0.05)


class Loop:
    """The owner's loop, run by hand: calls that were posted wait until they are run."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []
        self.arrived = threading.Condition()

    def post(self, call: Callable[[], object]) -> None:
        with self.arrived:
            self.calls.append(call)
            self.arrived.notify()

    def run_until(self, future: Future[object]) -> object:
        until = time.monotonic() + 10
        while not future.done():
            with self.arrived:
                self.arrived.wait_for(lambda: self.calls, timeout=until - time.monotonic())
                assert self.calls, "nothing more is posted, and the future is not done"
                call = self.calls.pop(0)
            call()
        return future.result()
