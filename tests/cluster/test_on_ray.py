"""A cluster on a real Ray: finding it, using it, killing parts of it, and being refused."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.exceptions import RayError
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_put

from stratacache.client import CacheClient, connect
from stratacache.cluster import ClusterHandle, attach, start
from stratacache.cluster import messages as m
from stratacache.cluster.discovery import current_view, running_clusters
from stratacache.cluster.registry import Registry
from stratacache.node.errors import AccessError, UnavailableError, UsageError
from tests.cluster.waiting import is_alive, take_lock, wait_until
from tests.stopping import stop

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

SMALL = {"l1_bytes_max": 32 << 20, "l2_bytes_max": 0}


@pytest.fixture(scope="module")
def cluster(ray_session: str) -> Iterator[ClusterHandle]:
    """Three shards that the tests of this module share."""
    with start(name="shared", shards=3, **SMALL) as handle:
        yield handle


@pytest.fixture
def cache(cluster: ClusterHandle) -> Iterator[CacheClient]:
    """A strict client of the shared cluster, which it finds empty."""
    cluster.wait_ready()
    client = connect(cluster.address, token=cluster.token, strict=True)
    client.clear()
    yield client
    client.close()


def own_cluster(name: str, **options: object) -> ClusterHandle:
    """A cluster for one test that breaks it."""
    return start(name=name, **{**SMALL, **options})


def test_a_cluster_serves_from_the_driver_from_tasks_and_from_actors(cluster: ClusterHandle) -> None:
    """Discovery without an address works wherever Ray does, and all see the same entries."""

    @ray.remote(num_cpus=0)
    def task(number: int) -> object:
        with connect(cluster="shared") as here:
            here.put(f"task-{number}", number)
            return here.get("from-driver")

    @ray.remote(num_cpus=0)
    class Worker:
        def __init__(self) -> None:
            self.cache = connect(cluster="shared")

        def work(self) -> object:
            self.cache.put("from-actor", [1, 2])
            return self.cache.get("from-driver")

    with connect(cluster="shared", strict=True) as here:
        here.put("from-driver", {"a": 1})
        assert ray.get([task.remote(number) for number in range(3)]) == [{"a": 1}] * 3
        assert ray.get(Worker.remote().work.remote()) == {"a": 1}
        assert here.get_many([f"task-{number}" for number in range(3)]) == {f"task-{n}": n for n in range(3)}
        assert here.get("from-actor") == [1, 2]


def test_discovery_names_the_cluster_and_its_shards(cluster: ClusterHandle) -> None:
    """The view handed out is the one in force."""
    view, token = current_view("shared")
    assert token is None
    assert view == cluster.view
    assert "shared" in running_clusters()
    assert attach("shared").endpoints == cluster.endpoints


def test_discovery_says_the_way_out_when_no_such_cache_runs(cluster: ClusterHandle) -> None:
    """Nothing is created by looking."""
    with pytest.raises(UnavailableError, match=r"no cache named 'nope' runs.*running: shared.*stratacache up"):
        current_view("nope")


def test_discovery_says_the_way_out_without_ray() -> None:
    """A process that is not connected to Ray is told what to do, and starts nothing."""
    code = "from stratacache.cluster.discovery import current_view; current_view()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "call ray.init() before connect(), or connect by address" in result.stderr.splitlines()[-1]


def test_an_outpaced_coordinator_that_writes_last_lowers_no_epoch(ray_session: str) -> None:
    """What it claims between two epochs of its successor is not taken for the last one."""
    old, new, next_one = (Registry("outpaced", "life") for _ in range(3))
    assert old.claim() == (1, 0)
    assert old.remember(1, 5)
    assert new.claim() == (2, 5)
    assert new.remember(2, 9)
    assert not old.is_newest(1)
    assert old.remember(1, 7)
    assert next_one.claim() == (3, 9)
    assert not next_one.remember(3, 9)
    next_one.forget()
    assert next_one.claim() == (1, 0)
    next_one.forget()


def test_keys_spread_over_the_shards(cluster: ClusterHandle, cache: CacheClient) -> None:
    """With 30,000 keys no shard holds more than 1.25 times the mean."""
    for first in range(0, 30_000, 5_000):
        cache.put_many({f"key-{number}": b"v" for number in range(first, first + 5_000)})
    keys = {shard["id"]: shard["stats"]["entries"] for shard in cluster.stats()["shards"]}
    assert sum(keys.values()) == 30_000
    assert max(keys.values()) <= 1.25 * 10_000, keys


def test_a_name_that_is_taken_is_refused_and_nothing_changes(cluster: ClusterHandle) -> None:
    """Only one cluster of a name; the running one does not notice."""
    view = cluster.view
    with pytest.raises(UsageError, match="a cache named 'shared' already runs"):
        start(name="shared", shards=1)
    assert cluster.view == view


def test_a_shard_that_cannot_start_undoes_the_others(cluster: ClusterHandle) -> None:
    """Port P+2 is taken by somebody else: one clear line, and no actor of the cluster is left."""
    port = _free_run(3)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port + 2))
        taken.listen()
        with pytest.raises(UsageError, match=rf"^port {port + 2} on 127.0.0.1 is in use: choose another --port"):
            own_cluster("half", shards=3, port=port)
    assert running_clusters() == ["shared"]
    names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
    assert not [name for name in names if name.startswith("half/")]


def test_a_killed_shard_is_replaced_and_the_others_go_on(cluster: ClusterHandle, cache: CacheClient) -> None:
    """SIGKILL: the same id comes back under a higher epoch; entries of the other shards are still there."""
    cache.put_many({f"key-{number}": number for number in range(300)})
    held = {shard["id"]: shard["stats"]["entries"] for shard in cluster.stats()["shards"]}
    before, pids = cluster.view, cluster.pids()
    os.kill(pids["shard-1"], signal.SIGKILL)
    wait_until(lambda: cluster.view.by_id["shard-1"].incarnation != before.by_id["shard-1"].incarnation)
    cluster.wait_ready()
    after = cluster.view
    assert after.epoch > before.epoch
    assert [shard.id for shard in after.shards] == [shard.id for shard in before.shards]
    assert {id_: pid for id_, pid in cluster.pids().items() if id_ != "shard-1"} == {
        id_: pid for id_, pid in pids.items() if id_ != "shard-1"
    }
    found = cache.get_many([f"key-{number}" for number in range(300)])
    assert len(found) == 300 - held["shard-1"]
    assert all(found[key] == int(key.removeprefix("key-")) for key in found)
    cache.put("again", 1)
    assert cache.get("again") == 1


def test_counters_do_not_fall_when_a_shard_is_replaced(cluster: ClusterHandle, cache: CacheClient) -> None:
    """What a killed process had counted is carried over."""
    for number in range(200):
        cache.get(f"absent-{number}")
    before = cluster.stats()["total"]
    os.kill(cluster.pids()["shard-2"], signal.SIGKILL)
    wait_until(lambda: not cluster.status()["ready"])
    cluster.wait_ready()
    after = cluster.stats()["total"]
    assert after["misses"] >= before["misses"] >= 200


@pytest.mark.parametrize("how", ["killed", "poisoned"])
def test_the_data_path_survives_the_coordinator(cluster: ClusterHandle, cache: CacheClient, how: str) -> None:
    """SIGKILL of it, or an event it can't decide about: gets and puts go on, and it is back with a new epoch and term.

    A coordinator that can't decide ends itself rather than go on with half a decision, and the next one says why.
    """
    cache.put("kept", "value")
    before = cluster.status()
    node = ray.get_actor("shared/coordinator", namespace="stratacache")
    if how == "killed":
        ray.kill(node, no_restart=False)
    else:
        poison = m.LeaseRequested(shard=["no name"], incarnation=1, epoch=1)  # type: ignore[arg-type]
        with pytest.raises(RayError):
            ray.get(node.renew.remote(poison), timeout=20)
    assert cache.get("kept") == "value"
    cache.put("meanwhile", 1)

    def is_back() -> bool:
        try:
            status = cluster.status()
        except UnavailableError:
            return False
        return bool(status["ready"]) and status["term"] > before["term"]  # the old one may answer for a moment yet

    wait_until(is_back, what="the coordinator's return")
    after = cluster.status()
    assert after["epoch"] > before["epoch"]
    assert after["term"] > before["term"]
    assert [shard["pid"] for shard in after["shards"]] == [shard["pid"] for shard in before["shards"]]
    assert (cache.get("kept"), cache.get("meanwhile")) == ("value", 1)
    told = f"term {before['term']}: it could not decide about LeaseRequested (TypeError: "
    assert after["fell"].startswith(told) == (how == "poisoned")


def test_a_coordinator_that_cannot_begin_tries_again_and_ends_nobody(
    cluster: ClusterHandle, cache: CacheClient
) -> None:
    """What Ray kept can't be read for a while: the shards go on, and it takes them over as soon as it can."""
    cache.put("kept", "value")
    before = cluster.status()
    target = f"{before['name']}/{before['uid']}/target".encode()
    _internal_kv_put(target, b"no JSON", overwrite=True, namespace=b"stratacache")
    ray.kill(ray.get_actor("shared/coordinator", namespace="stratacache"), no_restart=False)

    def tells_why() -> bool:
        try:
            cluster.wait_ready(0.1)
        except UnavailableError as error:
            return "the coordinator could not begin" in str(error)
        return False  # the old one may answer for a moment yet

    try:
        wait_until(tells_why, what="the first attempt to begin")
        assert cache.get("kept") == "value"
    finally:
        _internal_kv_del(target, namespace=b"stratacache")
    cluster.wait_ready()
    assert cluster.status()["term"] > before["term"]
    assert cluster.pids() == {shard["id"]: shard["pid"] for shard in before["shards"]}
    assert cache.get("kept") == "value"


def test_a_process_without_ray_uses_all_shards(cluster: ClusterHandle) -> None:
    """`strata://host:port` of one shard is enough: the view gives the rest."""
    code = f"""
import sys
sys.modules["ray"] = None  # import ray raises ImportError
import numpy as np
from stratacache.client import connect
cache = connect("strata://{cluster.endpoints["shard-1"]}", strict=True)
for number in range(60):
    array = np.full((4, 5), number, dtype=np.float32)
    cache.put(f"array-{{number}}", array)
for number in range(60):
    got = cache.get(f"array-{{number}}")
    assert got.dtype == np.float32 and got.shape == (4, 5) and (got == number).all()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    view = cluster.view
    for shard in view.shards:
        with connect(f"strata://{shard.address}", strict=True) as here:
            assert np.array_equal(here.get("array-7"), np.full((4, 5), 7, dtype=np.float32))
    held = {shard["id"]: shard["stats"]["entries"] for shard in cluster.stats()["shards"]}
    assert all(count > 0 for count in held.values()), held


def test_a_plain_redis_client_may_talk_to_any_shard(cluster: ClusterHandle, cache: CacheClient) -> None:
    """The shard fetches from the owner in one hop: no MOVED for those who can't route."""
    redis = pytest.importorskip("redis")
    clients = {}
    for shard, endpoint in cluster.endpoints.items():
        host, _, port = endpoint.rpartition(":")
        clients[shard] = redis.Redis(host=host, port=int(port), socket_timeout=10)
    for number in range(30):
        for client in clients.values():
            assert client.set(f"plain-{number}", b"v%d" % number, ex=60) is True
    for client in clients.values():
        assert client.mget([f"plain-{number}" for number in range(30)]) == [b"v%d" % number for number in range(30)]
        assert 0 < client.ttl("plain-3") <= 60
    assert cache.get("plain-5") == b"v5"
    first, *rest = clients.values()
    assert first.delete(*[f"plain-{number}" for number in range(30)]) == 30
    assert [client.get("plain-7") for client in rest] == [None, None]


def test_a_token_is_handed_out_inside_ray_and_asked_for_outside(ray_session: str) -> None:
    """Whoever may call the coordinator may use the cache; everybody else has to know the token."""
    with own_cluster("locked", shards=2, token="a secret of some length") as handle:
        with pytest.raises(AccessError):
            connect(handle.address, strict=True).put("k", 1)

        @ray.remote(num_cpus=0)
        def task() -> object:
            with connect(cluster="locked", strict=True) as here:
                here.put_many({f"key-{number}": number for number in range(20)})
                return here.get("key-7")

        assert ray.get(task.remote()) == 7
        redis = pytest.importorskip("redis")
        host, _, port = handle.endpoints["shard-0"].rpartition(":")
        plain = redis.Redis(host=host, port=int(port), password="a secret of some length")
        assert len(plain.mget([f"key-{number}" for number in range(20)])) == 20  # shards show it to each other


def test_a_stopped_shard_never_answers_after_its_lease(ray_session: str) -> None:
    """SIGSTOP for longer than the lease: it is replaced, and when it wakes up it does not serve what it held."""
    with own_cluster("fenced", shards=2, lease_ms=3_000) as handle, connect(handle.address, strict=True) as here:
        here.put_many({f"key-{number}": 1 for number in range(50)})
        handle.wait_ready()
        shard = handle.status()["shards"][0]
        pid, port, incarnation = shard["pid"], shard["port"], shard["incarnation"]
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.settimeout(10)
            connection.sendall(b"PING\r\n")
            assert connection.recv(100) == b"+PONG\r\n"
            stop(pid)
            connection.sendall(b"GET key-1\r\nGET key-2\r\nGET key-3\r\n")
            wait_until(lambda: handle.status()["shards"][0]["incarnation"] > incarnation, what="the end of its lease")
            os.kill(pid, signal.SIGCONT)
            try:
                answer = connection.recv(1000)
            except ConnectionResetError:
                answer = b""
        assert answer == b"" or answer.startswith(b"-SUSPENDED"), answer
        wait_until(lambda: not is_alive(pid), 15, "the end of the replaced process")
        wait_until(lambda: handle.pids().get("shard-0", pid) != pid)
        handle.wait_ready()
        here.put("key-1", 2)
        assert here.get("key-1") == 2


def test_a_directory_in_use_is_refused(ray_session: str, tmp_path: Path) -> None:
    """A second start on the same data directory says who holds it, and leaves nothing behind."""
    home = tmp_path / "data" / "twice" / "shard-0"
    home.mkdir(parents=True)
    with (home / "lock").open("w") as lock:
        lock.write("4711")
        lock.flush()
        take_lock(lock)
        with pytest.raises(UsageError, match=r"shard-0 is in use by process 4711: stop the cluster"):
            own_cluster("twice", shards=2, data_dir=str(tmp_path / "data"))
    assert "twice" not in running_clusters()


def test_a_closed_cluster_comes_back_warm(ray_session: str, tmp_path: Path) -> None:
    """Stop, then start on the same directories: the entries are there; with another number of shards they are not."""
    options = {"data_dir": str(tmp_path / "data"), "l3_bytes_max": 64 << 20}
    with own_cluster("warm", shards=2, **options) as handle, connect(handle.address, strict=True) as here:
        here.put_many({f"key-{number}": number for number in range(100)}, tags=["all"])
        epoch = handle.view.epoch
    with own_cluster("warm", shards=2, **options) as handle, connect(handle.address, strict=True) as here:
        assert len(here.get_many([f"key-{number}" for number in range(100)])) == 100
        assert handle.view.epoch > epoch
        here.invalidate_tags({"all"})
    with own_cluster("warm", shards=1, **options) as handle, connect(handle.address, strict=True) as here:
        assert here.get_many([f"key-{number}" for number in range(100)]) == {}


def _free_run(count: int) -> int:
    """The first of `count` consecutive ports that are free now."""
    for first in range(20_000, 30_000, count):
        with contextlib.ExitStack() as held:
            try:
                for port in range(first, first + count):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise AssertionError("no free ports")
