"""Waiting for a condition with a deadline, and keeping a cache busy meanwhile, for tests that drive real processes."""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Callable
from typing import IO, Self

from stratacache.cluster import ClusterHandle
from tests.stopping import thread_states


def wait_until(
    condition: Callable[[], object], deadline_s: float = 20.0, what: str = "the condition", *, pause_s: float = 0.02
) -> None:
    """Poll until the condition holds; fails the test when the deadline passes.

    Let a condition that costs much pause for longer: what it takes of the machine is missing to what is waited for.
    """
    until = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < until, f"{what} did not come true within {deadline_s:g} s"
        time.sleep(pause_s)


class Busy:
    """Two threads that work until the block is left; what one of them raises is raised there."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._try, args=(number,)) for number in range(2)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _try(self, number: int) -> None:
        try:
            self.work(number)
        except BaseException as error:
            self._errors.append(error)

    def work(self, number: int) -> None:
        """What one thread does until `stop` is set."""
        raise NotImplementedError


def is_alive(pid: int) -> bool:
    """Whether a process exists and a thread of it can still run: the first may be a zombie before the others."""
    return bool(thread_states(pid) - set("ZX"))


def wait_flushed(handle: ClusterHandle, shard: str) -> None:
    """Wait until a shard's L3 holds what was put: the write-behind queue is bounded in age."""

    def is_flushed() -> bool:
        stats = next(one["stats"] for one in handle.stats()["shards"] if one["id"] == shard)
        level = stats["levels"]["l3_disk"]
        return level["entries"] > 0 and level["queue_entries"] == 0

    wait_until(is_flushed, what="the flush to disk")


def take_lock(file: IO[bytes] | IO[str]) -> None:
    """Take the lock of a shard's home as soon as its process is gone: its successor waits until it is given back."""

    def takes() -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    wait_until(takes, what="the lock of its home")
