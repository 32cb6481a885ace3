"""A cluster's pages on a real Ray: where they are, that they agree with the cache, and that Ray has the figures too."""

from __future__ import annotations

import os
import signal
import urllib.request
from collections.abc import Iterator

import pytest
import ray

from stratacache.client import CacheClient, connect
from stratacache.cluster import ClusterHandle, start
from stratacache.cluster.config import ClusterConfig
from stratacache.cluster.metrics import metrics_ports
from tests.cluster.waiting import wait_until
from tests.observe.reading import families, read, value

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]


@pytest.fixture(scope="module")
def cluster(ray_session: str) -> Iterator[ClusterHandle]:
    """Two shards with a disk level off."""
    with start(name="observed", shards=2, l1_bytes_max=32 << 20, l2_bytes_max=1 << 20) as handle:
        yield handle


@pytest.fixture
def cache(cluster: ClusterHandle) -> Iterator[CacheClient]:
    """A client of it."""
    with connect(cluster.address, token=cluster.token, strict=True) as client:
        yield client


def pages(cluster: ClusterHandle) -> dict[str, str]:
    """The text of each shard's page, found as `stratacache status` finds them."""
    found = {shard["id"]: shard["stats"]["metrics"] for shard in cluster.stats()["shards"]}
    assert all(address.startswith("127.0.0.1:") for address in found.values())
    return {shard: read(address) for shard, address in found.items()}


def held(cache: CacheClient) -> int:
    """Entries that lie in some level, those that were invalidated included until they are swept."""
    shards = cache.stats()["shards"].values()
    return sum(level["entries"] for shard in shards for level in shard["levels"].values())


def test_pages_agree_with_the_cache(cluster: ClusterHandle, cache: CacheClient) -> None:
    """Every shard's figures are those of `cache.stats()`; the coordinator tells of the cluster and of nothing else."""
    for index in range(200):
        cache.put(f"k{index}", index, cost_s=0.5, namespace="docs" if index % 2 else "default", tags={"t"})
    assert len(cache.get_many([f"k{index}" for index in range(0, 200, 2)])) == 100
    assert len(cache.get_many([f"k{index}" for index in range(50)], namespace="docs")) == 25
    cache.invalidate_namespace("docs")
    wait_until(lambda: held(cache) == 100, 10, "the sweep of what was invalidated")
    text = pages(cluster)
    stats = cache.stats()["shards"]
    assert set(text) == set(stats) == {"shard-0", "shard-1"}
    for shard, page in text.items():
        figures = stats[shard]
        assert value(page, "stratacache_hits_total", cluster="observed", shard=shard) == figures["hits"] > 0
        assert value(page, "stratacache_misses_total") == figures["misses"] > 0
        assert value(page, "stratacache_puts_total") == figures["puts"] > 0
        assert value(page, "stratacache_entries") == figures["entries"] > 0
        assert value(page, "stratacache_saved_seconds_total") == pytest.approx(figures["hits"] * 0.5)
        assert value(page, "stratacache_serving") == 1
        for level, there in figures["levels"].items():
            assert value(page, "stratacache_level_used_bytes", level=level) == there["bytes_used"]
            assert value(page, "stratacache_level_hits_total", level=level) == there["hits"]
        for space, there in figures["namespaces"].items():
            assert value(page, "stratacache_namespace_hits_total", namespace=space) == there["hits"]
    assert sum(value(page, "stratacache_hits_total") for page in text.values()) == 125
    report = cluster.stats()
    own = read(report["metrics"])
    assert value(own, "stratacache_cluster_shards_active", cluster="observed") == 2
    assert value(own, "stratacache_cluster_epoch") == report["epoch"]
    assert not [name for name in families(own) if name.startswith("stratacache") and "_cluster_" not in name]
    assert report["total"]["hits"] == 125


def test_a_restarted_shard_has_a_page_again(cluster: ClusterHandle) -> None:
    """After SIGKILL the new process serves its own, and the coordinator counts it."""
    before = cluster.stats()
    os.kill(cluster.pids()["shard-0"], signal.SIGKILL)

    def is_back() -> bool:
        first = cluster.stats()["shards"][0]
        return bool(first["incarnation"] > before["shards"][0]["incarnation"] and first["stats"].get("serving"))

    wait_until(is_back, 30, "the replacement")
    cluster.wait_ready()
    text = pages(cluster)["shard-0"]
    assert value(text, "stratacache_serving") == 1
    assert value(read(before["metrics"]), "stratacache_cluster_shard_incarnation", shard="shard-0") == 2


def test_ray_exports_the_figures_too(cluster: ClusterHandle, cache: CacheClient) -> None:
    """What Ray's own Prometheus page on this machine says of a shard is what the cache says."""
    cache.put("ray", 1)
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"

    def exported() -> bool:
        with urllib.request.urlopen(address, timeout=10) as answer:
            text = answer.read().decode()
        puts = sum(shard["puts"] for shard in cache.stats()["shards"].values())
        try:
            return (
                value(text, "ray_stratacache_puts_total", cluster="observed") >= puts
                and value(text, "ray_stratacache_cluster_shards_active", cluster="observed") == 2
                and value(text, "ray_stratacache_level_limit_bytes", shard="shard-1", level="l1_memory") == 32 << 20
            )
        except AssertionError:
            return False

    wait_until(exported, 40, "Ray's export", pause_s=0.5)


def test_fixed_ports_are_counted_from_the_first() -> None:
    """The coordinator has the first, shard i the one after i more; with a span, each shard takes a free one."""
    assert tuple(metrics_ports(ClusterConfig(metrics_port=9100), None)) == (9100,)
    assert tuple(metrics_ports(ClusterConfig(metrics_port=9100), 2)) == (9103,)
    assert tuple(metrics_ports(ClusterConfig(metrics_port=9100, port=6380, port_span=2), 7)) == (9101, 9102)
    assert tuple(metrics_ports(ClusterConfig(), 2)) == ()
