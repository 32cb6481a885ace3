"""Shards that come and go on a real Ray, while clients use the cache."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest

from stratacache.client import MISS, connect
from stratacache.client.ring import Ring
from stratacache.client.view import View
from stratacache.cluster import ClusterHandle, start
from stratacache.node.errors import UsageError
from tests.cluster.waiting import Busy

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

KEYS = 3_000
BUCKET_S = 0.5
GETS_MIN = 100


@pytest.fixture(scope="module")
def cluster(ray_session: str) -> Iterator[ClusterHandle]:
    """Three shards, with which each test ends as it began."""
    with start(name="elastic", shards=3, l1_bytes_max=32 << 20, l2_bytes_max=0) as handle:
        yield handle


class Load(Busy):
    """Clients that get keys and put those that they miss; each key's value only grows."""

    def __init__(self, address: str, token: str | None) -> None:
        super().__init__()
        self.address = address
        self.token = token
        self.gets: dict[int, int] = {}
        self.hits: dict[int, int] = {}
        self.wrong: list[str] = []
        self.failed = 0

    def work(self, number: int) -> None:
        chance = random.Random(number)
        newest: dict[int, int] = {}
        own = range(number, KEYS, 2)  # one writer for each key
        with connect(self.address, token=self.token) as cache:
            while not self.stop.is_set():
                key = chance.choice(own)
                bucket = int(time.monotonic() / BUCKET_S)
                value = cache.get(f"key-{key}")
                self.gets[bucket] = self.gets.get(bucket, 0) + 1
                if value is not MISS and value is not None:
                    self.hits[bucket] = self.hits.get(bucket, 0) + 1
                    if value < newest.get(key, -1):
                        self.wrong.append(f"key-{key}: {value} after {newest[key]}")
                    newest[key] = max(newest.get(key, -1), value)
                if value is MISS or value is None or chance.random() < 0.1:
                    fresh = newest.get(key, -1) + 1
                    if cache.put(f"key-{key}", fresh):
                        newest[key] = fresh
                    else:
                        self.failed += 1
                        newest[key] = fresh - 1

    def ratios(self, since_s: float) -> list[float]:
        """The hit ratio of each half second since a moment, the last one left out."""
        buckets = [one for one in sorted(self.gets) if one > since_s / BUCKET_S][:-1]
        return [self.hits.get(one, 0) / self.gets[one] for one in buckets if self.gets[one] >= GETS_MIN]


def moved_share(before: View, after: View) -> float:
    """The share of keys whose shard differs between two views."""
    one, other = Ring(before), Ring(after)
    keys = [b"key-%d" % number for number in range(20_000)]
    return sum(one.primary(key).id != other.primary(key).id for key in keys) / len(keys)


def test_three_to_four_to_three_shards_under_load(cluster: ClusterHandle) -> None:
    """The hit ratio never falls by more than 3 points, a quarter of the keys moves, and no value steps back."""
    with connect(cluster.address, token=cluster.token) as cache:
        for key in range(KEYS):
            cache.put(f"key-{key}", 0)
    views = [cluster.view]
    with Load(cluster.address, cluster.token) as load:
        begun_s = time.monotonic()
        _let_pass(load, 3)
        cluster.resize(4)
        views.append(cluster.view)
        _let_pass(load, 2)
        cluster.resize(3)
        views.append(cluster.view)
        _let_pass(load, 2)
    assert [len(view.shards) for view in views] == [3, 4, 3]
    assert all(abs(moved_share(*pair) - 0.25) <= 0.03 for pair in pairwise(views))
    ratios = load.ratios(begun_s)
    print(f"lowest hit ratio of {len(ratios)} half seconds: {min(ratios):.4f}, {sum(load.gets.values())} gets")
    assert len(ratios) >= 10
    assert min(ratios) >= 0.97, ratios
    assert not load.wrong
    assert sorted(cluster.pids()) == ["shard-0", "shard-1", "shard-2"], "what left has ended"


def test_a_drained_shard_leaves_its_entries_to_the_others(cluster: ClusterHandle, ray_session: str) -> None:
    """Each entry goes on with its tags; what can't be had is refused, and the command line does the same."""
    with connect(cluster.address, token=cluster.token, strict=True) as cache:
        cache.clear()
        cache.put_many({f"key-{key}": key for key in range(500)}, tags=["all"])
        cluster.drain_shard("shard-1")
        assert sorted(cluster.endpoints) == ["shard-0", "shard-2"]
        assert cache.get_many([f"key-{key}" for key in range(500)]) == {f"key-{key}": key for key in range(500)}
        with pytest.raises(UsageError, match="there is no shard-1"):
            cluster.drain_shard("shard-1")
        with pytest.raises(UsageError, match="from 1 to"):
            cluster.resize(0)
        command = [sys.executable, "-m", "stratacache.cluster", "resize", "--name", "elastic", "--json"]
        done = subprocess.run(
            [*command, "3", "--weight", "shard-0=2"],
            env={**os.environ, "RAY_ADDRESS": ray_session},
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["shards"] == {"shard-0": 2.0, "shard-1": 1.0, "shard-2": 1.0}
        assert len(cache.get_many([f"key-{key}" for key in range(500)])) == 500
        assert cache.invalidate_tags(["all"]) == 500
        assert cache.get_many([f"key-{key}" for key in range(500)]) == {}


def _let_pass(load: Load, seconds: float) -> None:
    """Wait until the load has seen so many more half seconds."""
    wanted = len(load.gets) + 2 * seconds
    until_s = time.monotonic() + 10 * seconds
    while len(load.gets) < wanted and time.monotonic() < until_s:
        time.sleep(0.05)
