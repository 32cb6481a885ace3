"""What one run leaves on disk for the next: never what a run between them, or one that was closed, has changed."""

from __future__ import annotations

import contextlib
import os
import shutil
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


@pytest.mark.parametrize("step", ["SideFile", "_left_clean"])
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
def test_after_the_close_no_change_is_acknowledged(node: Node, mode: WriteMode) -> None:
    """It could not reach the file, where the next run finds what was there before."""
    engine = node.start(l3_write_mode=mode)
    for change in CHANGES.values():
        engine.put(b"a", b"old", tags=(b"red",))
        node.stop()
        with pytest.raises(UnavailableError, match="closed"):
            change(engine)
        engine = node.start(l3_write_mode=mode)
        assert payload(engine, b"a") == b"old"


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


def flip(path: Path, at: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


@pytest.mark.parametrize("at", [16, 72, 256 + 16])
def test_a_damaged_head_of_the_side_file_revives_nothing(node: Node, at: int) -> None:
    """An incarnation that reads as an earlier one would number invalidations below the versions of what they cover."""
    for _ in range(2):
        node.start()
    node.start().put(b"a", b"old", tags=(b"red",))
    node.stop()
    flip(node.directory / "side", at, 1)
    engine = node.start()
    engine.invalidate_tags((b"red",))
    assert payload(engine, b"a") is None


def test_a_mark_with_a_damaged_bit_is_a_mark(node: Node, tmp_path: Path) -> None:
    """What may be older than an acknowledged put is a miss after a crash."""
    engine = node.start()
    engine.put(b"a", b"old")
    assert engine.l3 is not None
    assert engine.l3.write_out(10)
    engine.put(b"a", b"new")
    crashed = Node(tmp_path / "crashed", node.clock)
    shutil.copytree(node.directory, crashed.directory)
    flip(crashed.directory / "side", only_mark(crashed.directory / "side"), 0)
    assert payload(crashed.start(), b"a") is None
    crashed.stop()


def only_mark(side: Path) -> int:
    """Where the one mark stands."""
    data = side.read_bytes()
    found = [at for at in range(4096, len(data)) if data[at]]
    assert len(found) == 1
    return found[0]


def test_a_side_file_from_before_heads_had_a_checksum_is_read(node: Node) -> None:
    """An update of the program keeps what is on disk."""
    node.start().put(b"a", b"1")
    node.stop()
    side = node.directory / "side"
    data = bytearray(side.read_bytes())
    data[72:512] = bytes(440)
    side.write_bytes(data)
    assert payload(node.start(), b"a") == b"1"
    node.stop()
    assert payload(node.start(), b"a") == b"1"


def test_an_end_in_the_middle_of_a_start_does_not_lock_the_next_one_out(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The note of the format is not written anew, and so can't be lost: without it the directory would be refused."""
    node.start().put(b"a", b"1")
    node.stop()

    def cut_off(path: Path, _: bytes) -> int:
        path.open("wb").close()
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", cut_off)
        with contextlib.suppress(SystemExit):
            node.start()
        node.stop()
    assert payload(node.start(), b"a") in (None, b"1")
