"""The five strategies over a real node and real stores: what is read, what is written, and what a crash leaves."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stratacache.client import MISS, CacheStrategy, LimitError, UnavailableError, UsageError, connect
from stratacache.client.base import Cache
from stratacache.client.strategies import (
    AsyncStoreBackedCache,
    DirectoryStore,
    FsspecStore,
    StoreBackedCache,
    WriteQueue,
)
from stratacache.client.strategies.flusher import Flusher
from stratacache.client.strategies.write_queue import DELETED
from stratacache.node.errors import CorruptionError, EncodingError
from tests.wire.processes import running_node

WRITING = [CacheStrategy.WRITE_THROUGH, CacheStrategy.WRITE_BEHIND, CacheStrategy.REFRESH_AHEAD]


@pytest.fixture(scope="module")
def node() -> Iterator[int]:
    with running_node() as (_, port):
        yield port


@pytest.fixture
def cache(node: int, request: pytest.FixtureRequest) -> Iterator[Cache]:
    with connect(f"strata://127.0.0.1:{node}") as client:
        yield client.namespace(request.node.name.replace("[", "-").strip("]")[:80])


class Watched(DirectoryStore):
    """A real store that notes what it is asked, and can be told to fail or to wait."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.loads: list[str] = []
        self.fail = False
        self.before_load: Callable[[], None] = lambda: None

    def load_many(self, keys: Iterable[str]) -> dict[str, Any]:
        wanted = list(keys)
        self.loads += wanted
        found = super().load_many(wanted)
        self.before_load()
        return found

    def store_many(self, items: Mapping[str, Any]) -> None:
        if self.fail:
            raise OSError("the store is away")
        super().store_many(items)


@pytest.fixture
def store(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "store")


def over(cache: Cache, store: Watched, strategy: CacheStrategy, tmp_path: Path, **options: Any) -> StoreBackedCache:
    if strategy is CacheStrategy.WRITE_BEHIND:
        options["queue_dir"] = tmp_path / "queue"
    return StoreBackedCache(cache, store, strategy, ttl=60.0, seed=1, **options)


def wait_until(condition: Callable[[], bool], deadline_s: float = 10.0) -> None:
    until = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < until, "the condition did not come true in time"
        time.sleep(0.005)


@pytest.mark.parametrize("kind", ["directory", "memory", "file"])
def test_stores_keep_what_they_are_given(kind: str, tmp_path: Path) -> None:
    """Any key and any value come back; absent keys are absent; deleting twice is harmless."""
    store: DirectoryStore | FsspecStore
    if kind == "directory":
        store = DirectoryStore(tmp_path / "d")
    else:
        pytest.importorskip("fsspec", reason="fsspec is not installed")
        store = FsspecStore(f"memory://{tmp_path}" if kind == "memory" else f"file://{tmp_path}/f")
    items = {"../../etc/passwd": 1, "a" * 4000: {"x": (1, 2)}, "": None, "ä/\0": np.arange(3)}
    store.store_many(items)
    found = store.load_many([*items, "absent"])
    assert set(found) == set(items)
    assert np.array_equal(found.pop("ä/\0"), np.arange(3))
    assert found == {"../../etc/passwd": 1, "a" * 4000: {"x": (1, 2)}, "": None}
    store.delete_many(["", "absent"])
    store.delete_many([""])
    assert store.load_many([""]) == {}
    assert store.load_many([]) == {}


def test_a_damaged_file_is_an_error_and_no_value(tmp_path: Path) -> None:
    """A store never makes a value up."""
    store = DirectoryStore(tmp_path)
    store.store_many({"a": 1, "b": 2})
    first, second = sorted(tmp_path.rglob("*/*"))
    first.write_bytes(second.read_bytes())
    with pytest.raises(CorruptionError):
        store.load_many(["a", "b"])
    first.write_bytes(b"\xc1")
    with pytest.raises(CorruptionError):
        store.load_many(["a", "b"])


def test_a_store_refuses_what_it_can_not_encode_before_it_writes(tmp_path: Path) -> None:
    """One bad item leaves nothing half-written."""
    store = DirectoryStore(tmp_path)
    with pytest.raises(EncodingError):
        store.store_many({"good": 1, "bad": object()})
    assert store.load_many(["good"]) == {}


@pytest.mark.parametrize("strategy", list(CacheStrategy))
def test_reads(strategy: CacheStrategy, cache: Cache, store: Watched, tmp_path: Path) -> None:
    """CACHE_ASIDE leaves loading to the caller; the others load what is missing, once."""
    store.store_many({"a": 1, "b": None})
    with over(cache, store, strategy, tmp_path) as backed:
        if strategy is CacheStrategy.CACHE_ASIDE:
            assert backed.get("a") is MISS
            assert backed.load("a") == 1
        assert backed.load_many(["a", "b", "absent", "a"]) == {"a": 1, "b": None}
        store.loads.clear()
        assert backed.get_many(["a", "b"]) == {"a": 1, "b": None}
        assert store.loads == []
        assert backed.get("absent", "nothing") == "nothing"


@pytest.mark.parametrize("strategy", list(CacheStrategy))
def test_writes_reach_cache_and_store(strategy: CacheStrategy, cache: Cache, store: Watched, tmp_path: Path) -> None:
    """After a put nobody reads the old value, and the store has the new one (behind: after a flush)."""
    with over(cache, store, strategy, tmp_path) as backed:
        backed.put("a", 1)
        assert backed.load("a") == 1
        backed.put("a", 2)
        store.loads.clear()
        assert backed.load("a") == 2
        assert (store.loads == []) == (strategy in WRITING)
        assert backed.flush()
        assert store.load_many(["a"]) == {"a": 2}
        backed.delete("a")
        assert backed.load("a") is MISS
        assert backed.flush()
        assert store.load_many(["a"]) == {}


def test_a_load_that_overlaps_a_put_is_not_cached(cache: Cache, store: Watched, tmp_path: Path) -> None:
    """The store was read before the put and answers after it: the cache keeps the new value."""
    store.store_many({"a": "old"})
    with over(cache, store, CacheStrategy.WRITE_THROUGH, tmp_path) as backed:
        read, written = threading.Event(), threading.Event()

        def between() -> None:
            read.set()
            assert written.wait(10)

        store.before_load = between
        got: list[Any] = []
        reader = threading.Thread(target=lambda: got.append(backed.get("a")))
        reader.start()
        assert read.wait(10)
        store.before_load = lambda: None
        backed.put("a", "new")
        written.set()
        reader.join(10)
        assert got in (["old"], ["new"])
        assert backed.get("a") == "new"


class Held(Watched):
    """A store whose first change is done, and answers only when `release` is set or a moment is over."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.first_done, self.release = threading.Event(), threading.Event()

    def store_many(self, items: Mapping[str, Any]) -> None:
        super().store_many(items)
        if not self.first_done.is_set():
            self.first_done.set()
            self.release.wait(0.3)


@pytest.mark.parametrize("strategy", [CacheStrategy.WRITE_THROUGH, CacheStrategy.REFRESH_AHEAD])
@pytest.mark.parametrize("change", ["put", "delete"])
def test_what_two_threads_change_ends_alike_in_store_and_cache(
    strategy: CacheStrategy, change: str, cache: Cache, tmp_path: Path
) -> None:
    """The second change reaches the store while the first is on its way from there to the cache."""
    store = Held(tmp_path / "store")
    with over(cache, store, strategy, tmp_path) as backed:
        first = threading.Thread(target=backed.put, args=("a", "first"))
        first.start()
        assert store.first_done.wait(10)
        if change == "put":
            backed.put_many({"b": 1, "a": "second"})
        else:
            backed.delete_many(["b", "a"])
        store.release.set()
        first.join(10)
        assert cache.get("a", default=None) in (store.load_many(["a"]).get("a"), None)
        assert backed.get("a", default=None) == store.load_many(["a"]).get("a")


def test_asyncio_awaits_a_store_without_holding_up_the_loop(cache: Cache, store: Watched, tmp_path: Path) -> None:
    """The same methods; while the store answers slowly, the loop goes on."""

    async def scenario() -> None:
        async with AsyncStoreBackedCache(over(cache, store, CacheStrategy.WRITE_THROUGH, tmp_path)) as backed:
            await backed.put("a", 1)
            await backed.put_many({"b": 2, "c": 3})
            assert await backed.get_many(["a", "b", "none"]) == {"a": 1, "b": 2}
            assert store.load_many(["a", "b", "c"]) == {"a": 1, "b": 2, "c": 3}
            await backed.delete("a")
            assert await backed.get("a", default="gone") == "gone"
            turned = threading.Event()
            store.before_load = lambda: None if turned.wait(10) else pytest.fail("the loop stood still")
            store.store_many({"slow": 7})
            loading = asyncio.create_task(backed.load("slow"))
            asyncio.get_running_loop().call_later(0.01, turned.set)
            assert await loading == 7
            assert await backed.load_many(["c"]) == {"c": 3}
            await backed.delete_many(["b", "c"])
            assert await backed.flush()
            assert (await backed.stats())["store"]["strategy"] == "write_through"
            store.fail = True
            with pytest.raises(OSError, match="away"):
                await backed.put("d", 1)

    asyncio.run(scenario())


def test_a_put_that_is_cancelled_is_not_left_half_done(cache: Cache, tmp_path: Path) -> None:
    """Whoever cancels a put does not wait for it, and it reaches the cache all the same."""
    store = Held(tmp_path / "store")

    async def scenario() -> None:
        async with AsyncStoreBackedCache(over(cache, store, CacheStrategy.WRITE_THROUGH, tmp_path)) as backed:
            putting = asyncio.create_task(backed.put("a", "new"))
            await asyncio.to_thread(store.first_done.wait, 10)
            putting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await putting
            store.release.set()

    asyncio.run(scenario())
    wait_until(lambda: cache.get("a", default=None) == "new")


def test_a_cache_over_a_store_travels_by_pickle(cache: Cache, tmp_path: Path) -> None:
    """As a client does: into a Ray task, for example."""
    backed = StoreBackedCache(cache, DirectoryStore(tmp_path / "store"), CacheStrategy.READ_THROUGH)
    backed.put("a", 5)
    copy = pickle.loads(pickle.dumps(backed))
    assert copy.get("a") == 5
    copy.put("a", 6)
    assert backed.get("a") == 6


def test_a_store_that_fails_is_raised_and_nothing_is_cached(cache: Cache, store: Watched, tmp_path: Path) -> None:
    """WRITE_THROUGH never leaves the cache ahead of the store."""
    with over(cache, store, CacheStrategy.WRITE_THROUGH, tmp_path) as backed:
        backed.put("a", 1)
        store.fail = True
        with pytest.raises(OSError, match="away"):
            backed.put("a", 2)
        assert backed.get("a") == 1


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


def test_refresh_ahead_loads_before_expiry(cache: Cache, store: Watched, tmp_path: Path) -> None:
    """A read near the end of a value's life brings a new one in, without a miss and without waiting."""
    now = [0.0]
    with over(cache, store, CacheStrategy.REFRESH_AHEAD, tmp_path, clock=lambda: now[0]) as backed:
        backed.put("a", "old")
        store.store_many({"a": "new"})
        assert backed.get("a") == "old"
        assert backed.stats()["store"]["refreshed_ahead"] == 0
        now[0] = 50.0  # of 60 seconds
        assert backed.get("a") == "old"
        wait_until(lambda: backed.stats()["store"]["refreshed_ahead"] == 1)
        assert backed.get("a") == "new"


def test_wrong_options_are_refused(cache: Cache, store: Watched, tmp_path: Path) -> None:
    """Each names the option and the way out."""
    with pytest.raises(UsageError, match="queue_dir"):
        StoreBackedCache(cache, store, CacheStrategy.WRITE_BEHIND)
    with pytest.raises(UsageError, match="ttl"):
        StoreBackedCache(cache, store, CacheStrategy.REFRESH_AHEAD)
    with pytest.raises(UsageError, match="refresh_share"):
        StoreBackedCache(cache, store, CacheStrategy.REFRESH_AHEAD, ttl=1, refresh_share=2)
    with pytest.raises(UsageError, match="entries_max"):
        WriteQueue(tmp_path, entries_max=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="not a directory"):
        DirectoryStore(tmp_path / "file")
