"""Two and three owners of each key on a real Ray: what survives, what is answered, and how soon all is well again."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stratacache.client import CacheClient, connect
from stratacache.client.ring import Ring
from stratacache.client.view import SUSPENDED
from stratacache.cluster import ClusterHandle, start
from stratacache.node.errors import UnavailableError
from tests.cluster.waiting import take_lock, wait_flushed, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

KEYS = 400
DEADLINE_S = 2.0
SLACK_S = 1.0  # a loaded machine may not run a thread for that long


@pytest.fixture(scope="module")
def cluster(ray_session: str) -> Iterator[ClusterHandle]:
    """Four shards, two owners of each key."""
    with start(name="twice", shards=4, replicas=2, l1_bytes_max=32 << 20, l2_bytes_max=0, lease_ms=3_000) as handle:
        yield handle


@pytest.fixture
def cache(cluster: ClusterHandle) -> Iterator[CacheClient]:
    """A strict client of the shared cluster, which it finds empty."""
    cluster.wait_ready()
    with connect(cluster.address, token=cluster.token, strict=True, deadline_s=DEADLINE_S) as client:
        client.clear()
        yield client


def held(cluster: ClusterHandle) -> int:
    """Entries on all shards."""
    return sum(shard["stats"]["entries"] for shard in cluster.stats()["shards"])


def kill(cluster: ClusterHandle, shard: str) -> str:
    """SIGKILL; gives the incarnation that died."""
    incarnation = cluster.view.by_id[shard].incarnation
    os.kill(cluster.pids()[shard], signal.SIGKILL)
    return incarnation


def test_every_key_has_two_owners_and_is_forgotten_by_both(cluster: ClusterHandle, cache: CacheClient) -> None:
    """Puts, expiry changes and invalidations of every kind reach the second owner before they are acknowledged."""
    cache.put_many({f"key-{number}": number for number in range(KEYS)}, tags=["all"])
    assert held(cluster) == 2 * KEYS
    assert cache.invalidate("key-1") == 1
    assert held(cluster) == 2 * (KEYS - 1)
    assert cache.touch("key-2", ttl=100)
    assert 90 < cache.ttl("key-2") <= 100
    cache.invalidate_tags({"all"})
    assert held(cluster) == 0
    cache.put("other", 1, namespace="docs")
    assert held(cluster) == 2
    cache.invalidate_namespace("docs")
    assert held(cluster) == 0


def test_a_plain_redis_client_sees_one_truth(cluster: ClusterHandle, cache: CacheClient) -> None:
    """Writes go to the first owner wherever they arrive; counters count once."""
    redis = pytest.importorskip("redis")
    clients = []
    for endpoint in cluster.endpoints.values():
        host, _, port = endpoint.rpartition(":")
        clients.append(redis.Redis(host=host, port=int(port), socket_timeout=10))
    for number in range(20):
        for client in clients:
            client.incr(f"count-{number}")
    for client in clients:
        assert client.mget([f"count-{number}" for number in range(20)]) == [b"%d" % len(clients)] * 20


@dataclass
class Load:
    """One thread that puts and reads all the time, and what it saw."""

    cache: CacheClient
    acknowledged: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    failed_at: float = 0.0
    reads: list[tuple[float, bool]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Put each key's next version, read another key."""
        round_ = 0
        while not self.stop.is_set():
            round_ += 1
            for number in range(KEYS):
                if number % 8 == round_ % 8:
                    self.put(f"load-{number}", round_)
                self.read(f"load-{(number * 7) % KEYS}")
                if self.stop.is_set():
                    return

    def put(self, key: str, version: int) -> None:
        """A put counts once it is acknowledged; one that failed may take effect or not."""
        self.acknowledged.setdefault(key, 0)
        if self._timed(lambda: self.cache.put(key, version)):
            self.acknowledged[key] = version

    def read(self, key: str) -> None:
        """An acknowledged put may not be missing, and nothing older may be there."""
        least = self.acknowledged.get(key, 0)
        if least:
            value = self._timed(lambda: self.cache.get(key, default=0))
            if value is not None:
                self.reads.append((time.monotonic(), value >= least))
                if value < least:
                    self.lost.append(f"{key}: {value} instead of {least}")

    def only_hits(self, since: float) -> bool:
        """Whether there has been a whole second since that moment in which every read was answered, with a hit."""
        now = time.monotonic()
        recent = [hit for at, hit in self.reads if at > now - 1.0]
        return now > max(since, self.failed_at) + 1.0 and len(recent) > 0 and all(recent)

    def _timed(self, act: Any) -> Any:
        begun = time.monotonic()
        try:
            return act()
        except UnavailableError:
            self.failed_at = time.monotonic()
            return None
        finally:
            self.slowest_s = max(self.slowest_s, time.monotonic() - begun)


def test_a_killed_shard_costs_no_put_and_no_read(cluster: ClusterHandle, cache: CacheClient) -> None:
    """SIGKILL of one of four under load: reads go on within the deadline, nothing acknowledged is lost."""
    load = Load(cache)
    thread = threading.Thread(target=load.run)
    thread.start()
    try:
        wait_until(lambda: len(load.acknowledged) == KEYS, what="a first round of puts")
        for shard in ("shard-1", "shard-3"):
            dead = kill(cluster, shard)
            wait_until(lambda dead=dead, shard=shard: cluster.view.by_id[shard].incarnation != dead)
            cluster.wait_ready()
            restarted = time.monotonic()
            wait_until(lambda at=restarted: load.only_hits(at), 5.0, "a second of nothing but hits", pause_s=0.2)
            wait_until(lambda: _is_synced(cluster), what="the copies' return", pause_s=0.2)
    finally:
        load.stop.set()
        thread.join()
    assert load.lost == []
    assert load.slowest_s < DEADLINE_S + SLACK_S
    assert len(load.reads) > 1000


def _is_synced(cluster: ClusterHandle) -> bool:
    """Whether every key has two copies again."""
    return held(cluster) >= 2 * KEYS


def test_a_value_outlives_two_of_three_owners(ray_session: str) -> None:
    """Three owners: the first two of a key die one after the other, and the third gives what was put."""
    with (
        start(name="thrice", shards=3, replicas=3, l1_bytes_max=32 << 20, l2_bytes_max=0, lease_ms=3_000) as handle,
        connect(handle.address, token=handle.token, strict=True, deadline_s=DEADLINE_S) as cache,
    ):
        cache.put_many({f"key-{number}": number for number in range(60)}, tags=["all"])
        first, second, _ = Ring(handle.view).owners(b"key-7")
        kill(handle, first.id)
        kill(handle, second.id)
        wait_until(lambda: _read(cache, "key-7") == 7, what="an answer")
        handle.wait_ready()
        wait_until(lambda: len(_read_all(cache, 60)) == 60, what="all copies")
        # A client leaves a shard that did not answer alone for a moment, also when it is back.
        wait_until(lambda: _put_all(cache, {"key-7": 8}), what="a put on all owners")
        assert cache.get("key-7") == 8
        cache.invalidate_tags({"all"})
        assert _read_all(cache, 60).keys() == {"key-7"}


def _read(cache: CacheClient, key: str) -> Any:
    try:
        return cache.get(key)
    except UnavailableError:
        return None


def _read_all(cache: CacheClient, count: int) -> dict[str, Any]:
    try:
        return cache.get_many([f"key-{number}" for number in range(count)])
    except UnavailableError:
        return {}


def _put_all(cache: CacheClient, items: dict[str, Any]) -> bool:
    try:
        return cache.put_many(items) == len(items)
    except UnavailableError:
        return False


def test_a_shard_that_was_down_forgets_what_others_changed(ray_session: str, tmp_path: Path) -> None:
    """Keys put anew and invalidated while one of their owners is away: it comes back warm, and with none of the old."""
    with (
        start(
            name="hints",
            shards=3,
            replicas=2,
            l1_bytes_max=32 << 20,
            l2_bytes_max=0,
            lease_ms=3_000,
            data_dir=str(tmp_path / "data"),
            l3_bytes_max=64 << 20,
        ) as handle,
        connect(handle.address, token=handle.token, strict=True, deadline_s=5.0) as here,
    ):
        names = [f"key-{number}" for number in range(300)]
        here.put_many(dict.fromkeys(names, 1))
        mine = [name for name in names if Ring(handle.view).primary(name.encode()).id == "shard-1"]
        wait_flushed(handle, "shard-1")
        with (tmp_path / "data" / "hints" / "shard-1" / "lock").open("r+b") as lock:
            kill(handle, "shard-1")
            take_lock(lock)  # before its successor can: now it stays away
            wait_until(lambda: handle.view.by_id["shard-1"].state == SUSPENDED, what="the suspension")
            assert _read_all(here, 300).keys() == set(names), "the others do not go on for it"
            wait_until(lambda: _put_all(here, dict.fromkeys(mine[::2], 2)), what="the suspension, told to the shards")
            assert here.invalidate(mine[1]) == 1
        wait_until(lambda: handle.status()["ready"], 40, "the return of shard-1")
        view = handle.view.by_id["shard-1"]
        with connect(f"strata://{view.address}", token=handle.token, strict=True) as there:
            wait_until(lambda: len(_read_all(there, 300)) == 299, what="an answer to every key")
            found = _read_all(there, 300)
        assert {found[name] for name in mine[::2]} == {2}
        assert mine[1] not in found
        assert {found[name] for name in names if name not in mine[::2] and name != mine[1]} == {1}
        stats = next(one["stats"] for one in handle.stats()["shards"] if one["id"] == "shard-1")
        assert stats["levels"]["l3_disk"]["hits"] > 0, "it came back cold"
