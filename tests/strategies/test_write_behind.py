"""WRITE_BEHIND and its queue on disk: a store that is away, a full queue, crashes, forks."""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from stratacache.client import CacheStrategy, LimitError, UnavailableError, UsageError
from stratacache.client.base import Cache
from stratacache.client.strategies import WriteQueue
from stratacache.client.strategies.flusher import Flusher
from stratacache.client.strategies.write_queue import DELETED, Change
from tests.strategies.stores import Watched, over, wait_until


def test_a_dead_store_is_retried_and_reported(cache: Cache, store: Watched, tmp_path: Path) -> None:
    """Writing behind goes on while the store is away; stats say so; when it is back everything arrives."""
    store.fail = True
    with over(cache, store, CacheStrategy.WRITE_BEHIND, tmp_path) as backed:
        backed.put_many({"a": 1, "b": 2})
        backed.put("a", 3)
        wait_until(lambda: backed.stats()["store"]["failures"] >= 2)
        report = backed.stats()["store"]
        assert report["waiting"] == 2
        assert "away" in report["last_error"]
        store.fail = False
        assert backed.flush()
        assert store.load_many(["a", "b"]) == {"a": 3, "b": 2}
        assert backed.stats()["store"]["last_error"] == ""


def test_a_change_that_can_not_be_read_is_reported_and_kept(store: Watched, tmp_path: Path) -> None:
    """A queue of another version of the program: nothing is lost, nothing is hidden, and the flusher lives on."""
    queue = WriteQueue(tmp_path)
    queue.add({"a": 1})
    row = b""
    with queue._file.begin(write=True) as txn:
        order = (1).to_bytes(8, "big")
        row = txn.get(order, db=queue._changes)
        txn.put(order, b"\x93\xa1a\xcc\xc8\xc4\x00", db=queue._changes)  # codec 200
    flusher = Flusher(queue, store, retry_min_s=0.01, retry_max_s=0.02)
    flusher.wake()
    wait_until(lambda: flusher.report()["failures"] >= 2)
    assert "codec 200" in flusher.report()["last_error"]
    assert len(queue) == 1
    with queue._file.begin(write=True) as txn:
        txn.put(order, row, db=queue._changes)
    assert flusher.wait_empty(10)
    assert store.load_many(["a"]) == {"a": 1}
    flusher.close()
    queue.close()


def test_a_queue_that_fails_is_retried_too(store: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full when a stored change is to leave the queue: the flusher lives on, and stores it again."""
    queue = WriteQueue(tmp_path / "queue")
    done = queue.done
    failing = [OSError("no space left"), OSError("no space left")]

    def fails_twice(changes: list[Change]) -> None:
        if failing:
            raise failing.pop()
        done(changes)

    monkeypatch.setattr(queue, "done", fails_twice)
    queue.add({"a": 1})
    flusher = Flusher(queue, store, retry_min_s=0.01, retry_max_s=0.02)
    assert flusher.wait_empty(10)
    assert (flusher.report()["failures"], flusher.report()["stored"]) == (2, 1)
    assert store.load_many(["a"]) == {"a": 1}
    flusher.close()
    queue.close()


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process takes a byte."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_queue_counts_what_its_disk_has_taken(tmp_path: Path) -> None:
    """After a commit that failed it neither holds less than it says (and spins) nor more (and forgets to store)."""
    queue = WriteQueue(tmp_path / "queue")
    queue.add({"a": 1})
    counts = len(queue), queue.bytes_used
    with full_disk(), pytest.raises(UnavailableError, match="takes nothing"):
        queue.add({"b": 2})
    assert (len(queue), queue.bytes_used) == counts
    batch = queue.oldest(10)
    assert [change.key for change in batch] == ["a"]
    with full_disk(), pytest.raises(lmdb.Error):
        queue.done(batch)
    assert (len(queue), queue.bytes_used) == counts
    queue.done(batch)
    assert (len(queue), queue.bytes_used, queue.oldest(10)) == (0, 0, [])
    queue.close()


def test_what_waits_is_read_before_the_store(cache: Cache, store: Watched, tmp_path: Path) -> None:
    """An entry that leaves the cache before it is stored is still the newest value."""
    store.store_many({"a": "old", "gone": "old"})
    store.fail = True
    with over(cache, store, CacheStrategy.WRITE_BEHIND, tmp_path) as backed:
        backed.put("a", "new")
        backed.delete("gone")
        cache.invalidate_namespace()
        assert backed.get_many(["a", "gone"]) == {"a": "new"}
        store.fail = False


def test_a_full_queue_refuses_at_once_and_changes_nothing(tmp_path: Path) -> None:
    """The bound is in entries and in bytes; a change of a key that waits takes no further place."""
    queue = WriteQueue(tmp_path, entries_max=2, bytes_max=1000)
    queue.add({"a": 1, "b": 2})
    with pytest.raises(LimitError, match="limits"):
        queue.add({"a": 9, "c": 3})
    assert queue.waiting(["a", "b", "c"]) == {"a": 1, "b": 2}
    queue.add({"a": 3})
    with pytest.raises(LimitError):
        queue.add({"a": "x" * 1000})
    assert [(change.key, change.value) for change in queue.oldest(9)] == [("b", 2), ("a", 3)]
    queue.close()


def test_a_change_during_a_flush_is_not_lost(tmp_path: Path) -> None:
    """What was stored is taken out only where no newer change took its place."""
    queue = WriteQueue(tmp_path)
    queue.add({"a": 1, "b": 1})
    batch = queue.oldest(10)
    queue.add({"a": 2, "c": DELETED})
    queue.done(batch)
    assert queue.waiting(["a", "b", "c"]) == {"a": 2, "c": DELETED}
    assert len(queue) == 2
    used = queue.bytes_used
    queue.close()
    again = WriteQueue(tmp_path)
    assert (len(again), again.bytes_used) == (2, used)
    again.add({"d": 1})
    assert [change.key for change in again.oldest(10)] == ["a", "c", "d"]
    with pytest.raises(UnavailableError, match="another process"):
        WriteQueue(tmp_path)
    again.close()


CRASHER = """
    import sys
    from stratacache.client.strategies import WriteQueue
    queue = WriteQueue(sys.argv[1])
    number = 0
    while True:
        queue.add({f"k{number % 50}": number})
        print(number, flush=True)
        number += 1
"""


def test_sigkill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Killed while it adds: every acknowledged change, or a newer one of its key, waits in the queue."""
    command = [sys.executable, "-c", textwrap.dedent(CRASHER), str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 120:
            break
    os.kill(process.pid, signal.SIGKILL)
    acknowledged = int((line + process.stdout.read()).split()[-1])
    process.wait(10)
    process.stdout.close()
    with_ends = WriteQueue(tmp_path)
    waiting = with_ends.waiting(f"k{index}" for index in range(50))
    with_ends.close()
    for number in range(acknowledged - 49, acknowledged + 1):
        assert waiting[f"k{number % 50}"] in (number, number + 50)


def test_what_a_crash_left_is_stored_by_the_next_process(cache: Cache, store: Watched, tmp_path: Path) -> None:
    """A queue with content is emptied as soon as it is opened."""
    left = WriteQueue(tmp_path / "queue")
    left.add({"a": 1})
    left.close()
    with over(cache, store, CacheStrategy.WRITE_BEHIND, tmp_path) as backed:
        wait_until(lambda: store.load_many(["a"]) == {"a": 1})
        assert backed.flush()


def test_a_forked_child_is_told_that_the_queue_is_not_its_own(cache: Cache, store: Watched, tmp_path: Path) -> None:
    """Nobody in the child stores what waits, and the file may not be used on the other side of a fork."""
    with over(cache, store, CacheStrategy.WRITE_BEHIND, tmp_path) as backed:
        backed.put("a", 1)
        read, write = os.pipe()
        child = os.fork()
        if not child:
            said = []
            for call in (lambda: backed.put("b", 2), lambda: backed.get("c"), lambda: backed.delete("a")):
                try:
                    call()
                    said.append("nothing")
                except BaseException as error:
                    said.append(f"{type(error).__name__}: {error}")
            os.write(write, "\n".join(said).encode())
            os._exit(0)
        os.close(write)
        os.waitpid(child, 0)
        with os.fdopen(read) as told:
            lines = told.read().splitlines()
        assert len(lines) == 3
        assert all(line.startswith("UnavailableError: ") and "directory of its own" in line for line in lines), lines
        backed.put("d", 4)
        assert backed.flush()
        assert store.load_many(["a", "b", "d"]) == {"a": 1, "d": 4}
    with pytest.raises(UsageError, match="directory of its own"):
        pickle.dumps(WriteQueue(tmp_path / "another"))
