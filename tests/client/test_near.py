"""The near cache against real nodes: hits without a question, pushes, silence, own writes, budget, reports."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest

from stratacache.client import MISS, connect
from stratacache.client.core.near import NearCache
from stratacache.client.core.state import Core
from stratacache.client.options import ClientOptions
from stratacache.client.transport.aio_connection import AioConnection
from stratacache.client.transport.aio_watch import AioWatcher, _Ear
from stratacache.client.view import ShardInfo

from .near import warm
from .servers import Node, address, running, wait_until

SHELLS = ("sync", "async")


@pytest.fixture
def writer(nodes: list[Node]) -> Iterator[Any]:
    """Another client, with connections of its own and no near cache."""
    with connect(address(nodes), shared=False, strict=True) as client:
        yield client


@pytest.mark.parametrize("shell", SHELLS)
def test_a_second_read_asks_nobody(open_cache: Callable[..., Any], writer: Any, shell: str) -> None:
    """The first read fetches, the next ones are answered here, decoded, and are counted as near hits."""
    cache = open_cache("near", shell)
    near = warm(cache)
    writer.put_many({f"k{i}": [i] for i in range(50)})
    assert len(cache.get_many([f"k{i}" for i in range(50)])) == 50
    before = sum(shard["hits"] for shard in writer.stats()["shards"].values())
    assert cache.get_many([f"k{i}" for i in range(50)]) == {f"k{i}": [i] for i in range(50)}
    assert cache.get("k7") == [7]
    assert sum(shard["hits"] for shard in writer.stats()["shards"].values()) - before <= 0
    assert cache.stats()["client"]["near_hits"] == 51
    near.validate()


@pytest.mark.parametrize("shell", SHELLS)
def test_hits_are_reported_to_the_shards(open_cache: Callable[..., Any], writer: Any, shell: str) -> None:
    """Shards hear of near hits in batches, so that statistics and eviction see them."""
    cache = open_cache("near", shell)
    warm(cache)
    writer.put("hot", 1)
    cache.get("hot")

    def reported() -> int:
        return sum(shard["near_hits"] for shard in writer.stats()["shards"].values())

    before = reported()
    # A machine that is too busy for a heartbeat may empty the near cache meanwhile: then some of these are no hits.
    wait_until(lambda: cache.get("hot") == 1 and reported() - before >= 10, what="report")


@pytest.mark.parametrize("shell", SHELLS)
def test_changes_elsewhere_are_pushed(open_cache: Callable[..., Any], writer: Any, shell: str) -> None:
    """An overwrite, and invalidations of all kinds by another client, are seen well within the push deadline."""
    cache = open_cache("near", shell)  # whose push deadline is 20 s: silence would end the entries no sooner
    near = warm(cache)
    ways = {
        "put": lambda: writer.put("k", "new", namespace="n", tags=["t"]),
        "key": lambda: writer.invalidate("k", namespace="n"),
        "tag": lambda: writer.invalidate_tags(["t"]),
        "namespace": lambda: writer.invalidate_namespace("n"),
        "all": writer.clear,
        "touch": lambda: writer.touch("k", ttl=0.001, namespace="n"),
    }
    for way, change in ways.items():
        writer.put("k", "old", namespace="n", tags=["t"])
        wait_until(lambda: cache.get("k", namespace="n") == "old", what="the put")
        wait_until(lambda: len(near.entries) >= 1, what="admission")
        change()
        expected = "new" if way == "put" else MISS
        wait_until(lambda expected=expected: cache.get("k", namespace="n") == expected, 5, what=f"the push of {way}")
    near.validate()


@pytest.mark.parametrize("shell", SHELLS)
def test_a_client_reads_what_it_wrote(open_cache: Callable[..., Any], shell: str) -> None:
    """Own puts and invalidations are seen at once, without waiting for the push."""
    cache = open_cache("near", shell)
    warm(cache)
    for i in range(200):
        cache.put("own", i, tags=["mine"])
        assert cache.get("own") == i
        assert cache.get("own") == i
    cache.invalidate_tags(["mine"])
    assert cache.get("own") is MISS


@pytest.mark.parametrize("shell", SHELLS)
def test_a_lost_shard_takes_its_part_along(open_cache: Callable[..., Any], shell: str) -> None:
    """Killing a node ends what is held of it at once; pausing one ends it within the push deadline."""
    del open_cache
    from .conftest import InLoop

    with running(2) as pair:
        make = connect if shell == "sync" else InLoop
        cache: Any = make(address(pair), near_bytes_max=1 << 20, push_deadline_s=0.5, shared=False, deadline_s=0.3)
        try:
            near = warm(cache, 2)
            keys = [f"k{i}" for i in range(100)]
            wait_until(lambda: cache.put_many(dict.fromkeys(keys, 1)) == 100, 10, "puts within a short deadline")
            wait_until(lambda: len(cache.get_many(keys)) == 100, 10, "all of them back")
            pair[0].pause()
            wait_until(lambda: near.stats()["live_parts"] == 1, 5, "the end of the silent part")
            # On a busy machine the other part may have missed its heartbeat for a moment, too: it fills again.
            wait_until(lambda: cache.get_many(keys) and 0 < len(near.entries) < 100, 5, "one part gone, the other kept")
            pair[0].resume()
            wait_until(lambda: near.stats()["live_parts"] == 2, 10, "a new part")
            pair[1].kill()
            wait_until(lambda: near.stats()["live_parts"] == 1, 5, "the end of the lost part")
            near.validate()
        finally:
            cache.close()


def test_budget_holds_and_what_is_used_stays(open_cache: Callable[..., Any], writer: Any) -> None:
    """Used bytes never exceed the budget; an entry that is read again and again outlives a scan."""
    cache = open_cache("near", near_bytes_max=200_000)
    near = warm(cache)
    writer.put_many({f"b{i}": bytes(2000) for i in range(300)})
    cache.get("b0")
    for i in range(1, 300):
        cache.get("b0")
        cache.get(f"b{i}")
        assert near.used_bytes <= 200_000
    assert b"b0" in near.entries
    assert near.evicted > 100
    near.validate()
    writer.put("huge", bytes(100_000))
    assert cache.get("huge") == bytes(100_000)
    assert b"huge" not in near.entries, "one entry must not fill the near cache"


def test_bounded_age(open_cache: Callable[..., Any], writer: Any) -> None:
    """Past near_age_max_s, and past its TTL, an entry is fetched anew."""
    cache = open_cache("near", near_age_max_s=0.05)
    near = warm(cache)
    writer.put("aged", 1)
    cache.get("aged")
    wait_until(lambda: near.lookup(b"aged") is MISS, 5, "age")
    assert cache.get("aged") == 1


def test_threads_share_a_near_cache(open_cache: Callable[..., Any], writer: Any) -> None:
    """Four threads read while another client writes and invalidates: no error, no value that was never put."""
    cache = open_cache("near", near_bytes_max=100_000)
    near = warm(cache)
    stop = threading.Event()
    wrong: list[Any] = []

    def read(seed: int) -> None:
        i = seed
        while not stop.is_set():
            i = (i * 7 + 1) % 50
            value = cache.get(f"t{i}")
            if value is not MISS and value[0] != i:
                wrong.append((i, value))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for version in range(150):
        writer.put(f"t{version % 50}", [version % 50, bytes(3000)], tags=[f"g{version % 5}"])
        if version % 10 == 0:
            writer.invalidate_tags([f"g{version % 7}"])
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    near.validate()


def test_what_a_stopped_process_read_vouches_for_the_time_before() -> None:
    """Stopped between the kernel's part of a read and ours: the part is no longer alive than it was before the stop."""
    now = [100.0]
    options = ClientOptions(near_bytes_max=1 << 20)
    core = Core(options, monotonic=lambda: now[0], elapsed=lambda: now[0], random=Random(1))
    near = NearCache(core)
    shard = ShardInfo(id="a")

    async def listen() -> None:
        watcher = AioWatcher(core, near, None, None)  # type: ignore[arg-type]  # nothing is connected or run
        connection = AioConnection(shard, asyncio.get_running_loop())
        watcher._tick()
        ear = _Ear(core, near, connection, watcher)
        near.hear(ear.part, [b"sc.beat", 0, 1])
        now[0] = 160.0  # read by the kernel at 100, told to us a minute later
        ear._read(20)
        assert ear.part.alive_until == 100.0 + core.options.push_deadline_s

    asyncio.run(listen())
