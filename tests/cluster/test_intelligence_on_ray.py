"""Refresh-ahead on a real Ray: a regular reader finds a value that a task computed before it came."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from stratacache.client import AIOperation, CacheClient, cached, connect
from stratacache.client.intelligent import IntelligentCacheManager
from stratacache.cluster import ClusterHandle, start
from stratacache.cluster.loaders import Loader, register_loader
from stratacache.node.errors import LimitError, UnavailableError
from tests.cluster.waiting import wait_until
from tests.observe.reading import read, value

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

PERIOD_S = 4.0
TTL_S = 3.9
"""A task may take a second more or less to start than is expected: processes have to, on a busy machine."""


@pytest.fixture(scope="module")
def cluster(ray_session: str) -> Iterator[ClusterHandle]:
    """Two shards whose patterns are asked for several times a second."""
    with start(name="ahead", shards=2, l1_bytes_max=32 << 20, l2_bytes_max=0, patterns_every_ms=300) as handle:
        yield handle


@pytest.fixture
def cache(cluster: ClusterHandle) -> Iterator[CacheClient]:
    with connect(cluster.address, token=cluster.token, strict=True) as client:
        yield client


def test_a_regular_reader_finds_what_a_task_computed(cluster: ClusterHandle, cache: CacheClient) -> None:
    """Entries expire between reads; once the reads have proved regular, tasks compute them before the next one."""

    @cached(operation=AIOperation.ANALYZE, ttl=TTL_S, namespace="ahead", refreshable=True, client=cache)
    def analyse(text: str, *, depth: int = 1) -> dict[str, Any]:
        return {"text": text, "depth": depth, "pid": os.getpid(), "at": time.time()}

    def used() -> int:
        return int(cluster.stats()["prefetch"]["refresh_ahead"]["used"])

    texts = [f"text {number}" for number in range(4)]
    begun = time.monotonic()
    ahead = 0
    for turn in range(1, 16):  # a busy machine makes a regular reader late, and it takes longer to prove itself
        results = [analyse(text, depth=2) for text in texts]
        assert [(result["text"], result["depth"]) for result in results] == [(text, 2) for text in texts]
        ahead += sum(result["pid"] != os.getpid() for result in results)
        # The reader's own period is what is tested: it waits for the clock, and for the account of what it has read.
        while not (accounted := ahead >= len(texts) and used() > 0) and time.monotonic() < begun + turn * PERIOD_S:
            time.sleep(0.05)
        if accounted:
            break
    stats = cluster.stats()
    account = stats["prefetch"]["refresh_ahead"]
    assert ahead >= len(texts), account
    assert account["issued"] >= account["used"] > 0
    page = read(stats["metrics"])
    assert value(page, "stratacache_cluster_prefetch_used_total", kind="refresh_ahead") >= account["used"]
    assert any(name.startswith("fn:") for name in stats["prefetch"]["loaders"])
    assert stats["total"]["operations"]["analyze"]["hits"] > 0
    patterns = cache.patterns()
    assert sum(len(shard["patterns"]) for shard in patterns.values()) >= len(texts)


def test_a_registered_loader_computes_what_the_manager_asks_for(cluster: ClusterHandle, cache: CacheClient) -> None:
    """`register_loader` serves IntelligentCacheManager's entries: a task makes the same entry from the recipe."""
    import ray

    from stratacache.cluster.loaders import REFRESHED, refresh_values

    def loader(text: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return {"text": text.upper(), "mode": parameters["mode"], "pid": os.getpid()}

    register_loader(AIOperation.EXTRACT, loader, num_cpus=0.5, batch_size_max=4, cluster="ahead")
    assert "op:extract" in cluster.stats()["prefetch"]["loaders"]
    manager = IntelligentCacheManager(cache, loaders={AIOperation.EXTRACT: loader})
    import asyncio

    first = asyncio.run(manager.get_ai_result(AIOperation.EXTRACT, "words", {"mode": "fast"}))
    assert first["pid"] == os.getpid()
    key = manager.cache_key(AIOperation.EXTRACT, "words", {"mode": "fast"})
    full = b"ai_operations:" + key.encode()
    blob = ray.cloudpickle.dumps(loader)
    task = ray.remote(refresh_values).options(num_cpus=0)
    [(found, outcome, *_), (_, missing, *_)] = ray.get(
        task.remote("ahead", "op:extract", blob, [full, b"ai_operations:nothing"])
    )
    assert (found, outcome, missing) == (full, REFRESHED, "failed")
    again = asyncio.run(manager.get_ai_result(AIOperation.EXTRACT, "words", {"mode": "fast"}))
    assert {**again, "pid": 0} == {**first, "pid": 0}
    assert again["pid"] != first["pid"]


def test_loaders_outlive_the_coordinator(cluster: ClusterHandle) -> None:
    """SIGKILL of the coordinator: its next process has the loaders again, though nobody announces them anew."""
    import ray

    register_loader(AIOperation.SUMMARIZE, len, batch_size_max=3, cluster="ahead")
    before = cluster.stats()
    assert "op:summarize" in before["prefetch"]["loaders"]
    ray.kill(ray.get_actor("ahead/coordinator", namespace="stratacache"), no_restart=False)

    def is_back() -> bool:
        try:
            return bool(cluster.status()["term"] > before["term"])
        except UnavailableError:
            return False

    wait_until(is_back, what="the coordinator's return")
    wait_until(lambda: cluster.stats()["prefetch"]["loaders"] == before["prefetch"]["loaders"], what="the loaders")
    cluster.wait_ready()


def test_inputs_above_the_limit_are_counted_and_large_loaders_refused(cache: CacheClient) -> None:
    """The value is cached all the same; it can't be refreshed ahead."""

    @cached(operation=AIOperation.ANALYZE, ttl=60, namespace="ahead", refreshable=True, client=cache)
    def measure(text: str) -> int:
        return len(text)

    before = cache.stats()["client"]["not_refreshable"]
    assert measure("x" * 70_000) == 70_000
    assert cache.stats()["client"]["not_refreshable"] == before + 1
    assert cache.recipe(measure.key_for("x" * 70_000), namespace="ahead") == b""
    assert measure("short") == 5
    assert cache.recipe(measure.key_for("short"), namespace="ahead").startswith(b"SCR1")
    with pytest.raises(LimitError, match="the limit is 1048576"):
        Loader(name="fn:large", blob=bytes(2 << 20)).validate()
