"""The five strategies over a real node and real stores: what is read, and what is written."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stratacache.client import MISS, CacheStrategy, UsageError
from stratacache.client.base import Cache
from stratacache.client.strategies import (
    AsyncStoreBackedCache,
    DirectoryStore,
    FsspecStore,
    StoreBackedCache,
    WriteQueue,
)
from stratacache.node.errors import CorruptionError, EncodingError
from tests.strategies.stores import Watched, over, wait_until

WRITING = [CacheStrategy.WRITE_THROUGH, CacheStrategy.WRITE_BEHIND, CacheStrategy.REFRESH_AHEAD]


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
