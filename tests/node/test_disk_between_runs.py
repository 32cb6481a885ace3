"""What one run leaves on disk for the next: never what a run between them, or one that was closed, has changed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from stratacache.node.clock import ManualClock
from stratacache.node.config import WriteMode
from stratacache.node.engine import MultiLevelCache
from stratacache.node.errors import UnavailableError
from stratacache.node.levels import disk, recovery

from .disk_world import Node, payload


def no_files(*_: object, **__: object) -> None:
    raise OSError(24, "Too many open files")


@pytest.mark.parametrize("step", ["SideFile", "RecordStore", "_left_clean"])
def test_what_a_run_could_not_open_is_not_believed_by_the_next(
    node: Node, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A run without its disk acknowledges puts and invalidations that the file knows nothing of."""
    node.start().put(b"a", b"old")
    node.stop()
    with monkeypatch.context() as patch:
        patch.setattr(recovery, step, no_files)
        engine = node.start()
        assert not engine.stats()["levels"]["l3_disk"]["on"]
        engine.put(b"a", b"new")
        engine.remove(b"a")
        node.stop()
    assert payload(node.start(), b"a") is None


@pytest.mark.parametrize("when", ["tick", "close"])
def test_what_can_not_be_set_aside_at_once_is_as_soon_as_that_is_possible(
    node: Node, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """A directory that is read-only for a while, or a process without a file handle left."""
    node.start().put(b"a", b"old")
    node.stop()
    with monkeypatch.context() as patch:
        patch.setattr(recovery, "_lock", no_files)
        engine = node.start()
        engine.tick()
        assert (node.directory / "data.mdb").exists()
    engine.remove(b"a")
    if when == "tick":
        clock.advance(disk.LOOK_EVERY_MS)
        engine.tick()
        assert not (node.directory / "data.mdb").exists()
    node.stop()
    assert payload(node.start(), b"a") is None


def test_a_run_without_a_disk_level_leaves_none_of_an_earlier_one(node: Node) -> None:
    """The same directory with `l3_bytes_max=0`, and then as before: what was invalidated between stays gone."""
    node.start().put(b"a", b"old")
    with pytest.raises(UnavailableError, match="in use by another process"):
        Node(node.directory, node.clock).start(l3_bytes_max=0)
    node.start(l3_bytes_max=0).remove(b"a")
    assert payload(node.start(), b"a") is None


def test_a_run_without_a_disk_level_says_what_it_can_not_set_aside(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be believed later, so it does not begin."""
    node.start().put(b"a", b"old")
    node.stop()
    monkeypatch.setattr(Path, "replace", no_files)
    with pytest.raises(UnavailableError, match="make it writable"):
        node.start(l3_bytes_max=0)


CHANGES: dict[str, Callable[[MultiLevelCache], object]] = {
    "put": lambda engine: engine.put(b"a", b"new"),
    "key": lambda engine: engine.remove(b"a"),
    "tag": lambda engine: engine.invalidate_tags((b"red",)),
    "namespace": lambda engine: engine.invalidate_namespace(b"default"),
    "clear": lambda engine: engine.clear(),
    "expiry": lambda engine: engine.set_expiry(b"a", engine.now_ms() + 1),
}


@pytest.mark.parametrize("mode", WriteMode)
@pytest.mark.parametrize("change", CHANGES)
def test_after_the_close_no_change_is_acknowledged(node: Node, change: str, mode: WriteMode) -> None:
    """It could not reach the file, where the next run finds what was there before."""
    engine = node.start(l3_write_mode=mode)
    engine.put(b"a", b"old", tags=(b"red",))
    node.stop()
    with pytest.raises(UnavailableError, match="closed"):
        CHANGES[change](engine)
    assert payload(node.start(), b"a") == b"old"


def test_what_comes_while_another_thread_closes_is_not_wiped_from_the_marks(node: Node) -> None:
    """A loop may go on for a moment: what it changes after all was written makes no clean end."""
    engine = node.start()
    engine.put(b"a", b"old")
    worker = engine._handoff.worker
    stop = worker.stop

    def late(deadline_s: float) -> bool:
        engine.put(b"a", b"new")
        return stop(deadline_s)

    worker.stop = late  # type: ignore[method-assign]
    engine.close()
    node.engine = None
    assert payload(node.start(), b"a") in (None, b"new")


def test_a_forked_child_that_lives_on_does_not_keep_the_directory(node: Node) -> None:
    """It has a copy of the lock's handle, and may outlive the cache of its parent by hours."""
    node.start().put(b"a", b"1")
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        node.stop()
        assert payload(node.start(), b"a") == b"1"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_forked_child_that_closes_its_copy_leaves_the_lock_to_its_parent(node: Node) -> None:
    """What the child has is no cache of its own."""
    engine = node.start()
    child = os.fork()
    if child == 0:
        recovery.close_directory(node.directory, engine.l3._open, clean=False)  # type: ignore[union-attr, arg-type]
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(UnavailableError, match="in use"):
        Node(node.directory, node.clock).start()
