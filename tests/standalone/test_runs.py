"""What the chart runs really runs: the pods of `standalone` as processes, and what the loss of Ray's head does."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stratacache.client import MISS, CacheClient, connect
from stratacache.node.errors import UnavailableError
from tests.client.certificates import make_certificates
from tests.helm.objects import find, pods
from tests.helm.tools import RELEASE, Helm
from tests.standalone.kubelet import Kubelet, until

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("own-ray"), pytest.mark.timeout(400)]

SMALL = (
    "cache.l1BytesMax=16Mi",
    "cache.l2BytesMax=8Mi",
    "cache.l3BytesMax=64Mi",
    "worker.objectStoreMemory=80Mi",
    "head.objectStoreMemory=80Mi",
)
FULL = f"{RELEASE}-stratacache"
HEAD, CONTROLLER = f"{FULL}-head-0", f"{FULL}-controller-0"


@contextmanager
def release(helm: Helm, *sets: str, haste: float = 10) -> Iterator[Kubelet]:
    """A release in mode standalone, with every container started."""
    with tempfile.TemporaryDirectory(prefix="sc", dir="/tmp") as folder:
        kubelet = Kubelet(helm.manifests(sets=(*SMALL, *sets)), Path(folder), haste)
        issue_certificate(kubelet.folder / "tls")
        try:
            start_all(kubelet)
            yield kubelet
        finally:
            kubelet.close()


def start_all(kubelet: Kubelet) -> None:
    """Head and first worker at once, then what else there is, one by one, as on a busy Kubernetes node.

    Ray nodes that begin at the same moment with one directory between them, which no two pods have, take the same
    socket's name; and Ray Client, which looks for a Ray node by the machine, may find a worker's before the head's.
    """
    names = sorted(kubelet.pods, key=lambda name: (name == CONTROLLER, "-worker-" in name, name))
    for name in names[:2]:
        kubelet.start(name)
    for name in names:
        if kubelet.pods[name].process is None:
            kubelet.start(name)
        until(name, lambda name=name: kubelet.probe(name, "startupProbe"), 90, kubelet.logs)  # type: ignore[misc]


def wait_ready(kubelet: Kubelet, deadline_s: float = 120) -> None:
    """Wait for the controller's readiness probe, restarting what ends meanwhile."""

    def ready() -> bool:
        kubelet.sync()
        return kubelet.probe(CONTROLLER, "readinessProbe")

    until("readiness", ready, deadline_s, kubelet.logs)


def service(kubelet: Kubelet, scheme: str = "strata") -> str:
    """The cache's address for clients, through the Service."""
    one = find(kubelet.manifests, "Service", FULL)
    return f"{scheme}://{kubelet.address_of(one)}:{one['spec']['ports'][0]['port']}"


def issue_certificate(folder: Path) -> None:
    """The Secret of `tls.existingSecret` as cert-manager makes it, mounted."""
    for made, name in zip(make_certificates(folder), ("ca.crt", "tls.crt", "tls.key"), strict=True):
        made.rename(folder / name)


def through_tls(kubelet: Kubelet) -> CacheClient:
    """A client of the Service that believes the certificate's authority and nobody else."""
    trust = {"tls_ca": str(kubelet.folder / "tls" / "ca.crt"), "tls_server_name": "localhost", "use_unix": False}
    return connect(service(kubelet, "stratas"), token=kubelet.secrets[FULL]["token"], strict=True, **trust)


def run_test_pod(kubelet: Kubelet) -> None:
    """What `helm test` runs ends well."""
    check = next(pod for pod in pods(kubelet.manifests) if pod.kind == "Pod").container()
    done = kubelet.run(kubelet.pods[CONTROLLER], [*check["command"], *check["args"]], extra=test_environment(kubelet))
    assert done.returncode == 0, done.stderr


def metric(kubelet: Kubelet, name: str) -> float:
    pod = kubelet.pods[CONTROLLER]
    page = kubelet.http(pod.address, int(pod.ports["8080"]), "/metrics")[1]
    return float(next(line for line in page.splitlines() if line.startswith(name)).rsplit(" ", 1)[1])


def test_standalone_with_rocksdb(helm4: Helm) -> None:
    """Put, get, invalidate through the Service; a drained worker comes back warm; the head's loss loses nothing."""
    with release(helm4, "cache.shards=2", "ray.gcs.faultTolerance=rocksdb") as kubelet:
        wait_ready(kubelet)
        worker = f"{FULL}-worker-1"
        for name in (HEAD, worker):
            assert kubelet.probe(name, "livenessProbe"), name
            assert kubelet.probe(name, "readinessProbe"), name
        token = kubelet.secrets[FULL]["token"]
        with connect(service(kubelet), token=token, strict=True) as cache:
            for index in range(20):
                assert cache.put(f"k{index}", f"v{index}", tags={"odd"} if index % 2 else set())
            assert cache.invalidate_tags({"odd"}) == 10
            kept = {f"k{index}": f"v{index}" for index in range(0, 20, 2)}
            assert cache.get_many(kept) == kept
            assert cache.get("k1") is MISS

        run_test_pod(kubelet)
        assert metric(kubelet, "stratacache_controller_shards_ready") == 2
        assert metric(kubelet, 'stratacache_level_used_bytes{cluster="default",level="l1_memory"') >= 0

        hook = kubelet.pods[worker].template.container()["lifecycle"]["preStop"]["exec"]["command"]
        done = kubelet.run(kubelet.pods[worker], hook)
        assert done.stdout == "drained shard-1\n", done.stdout + done.stderr
        kubelet.pods[worker].kill()
        until("the controller's notice", lambda: not kubelet.probe(CONTROLLER, "readinessProbe"), 30, kubelet.logs)
        wait_ready(kubelet)
        with connect(service(kubelet), token=token, strict=True) as cache:
            assert cache.get_many(kept) == kept, "what was drained did not come back from disk"
            assert cache.get("k1") is MISS

        before = shard_processes(kubelet)
        kubelet.pods[HEAD].kill()
        kubelet.sync()
        until("the head", lambda: kubelet.probe(HEAD, "readinessProbe"), 90, kubelet.logs)
        with connect(service(kubelet), token=token) as cache:  # not strict: suspended shards miss until they go on
            until("every value", lambda: cache.get_many(kept) == kept, 90, kubelet.logs)
            assert cache.get("k1") is MISS
        wait_ready(kubelet)
        assert shard_processes(kubelet) == before, "a shard was restarted"
        assert metric(kubelet, "stratacache_controller_clusters_created_total") == 1


def test_environment(kubelet: Kubelet) -> dict[str, str]:
    """The variables of the chart's own test pod."""
    pod = next(one for one in pods(kubelet.manifests) if one.kind == "Pod")
    return kubelet.environment(kubelet.pods[CONTROLLER], pod.container())


test_environment.__test__ = False  # type: ignore[attr-defined]


def shard_processes(kubelet: Kubelet) -> set[int]:
    """The process ids of the shards, by their titles."""
    found = set()
    for name, pod in kubelet.pods.items():
        if "-worker-" in name:
            for pid in pod.sessions():
                title = Path(f"/proc/{pid}/cmdline").read_bytes()
                found |= {pid} if b"ShardActor" in title else set()
    return found


def test_standalone_without_fault_tolerance(helm4: Helm) -> None:
    """With ray.gcs.faultTolerance none the head's loss ends the cluster; the controller forms it anew. With TLS."""
    sets = ("cache.shards=2", "worker.shardsPerPod=2", "ray.gcs.reconnectTimeoutSeconds=1")
    tls = ("tls.enabled=true", "tls.existingSecret=cache-tls", "tls.serverName=localhost")
    with release(helm4, *sets, *tls, haste=30) as kubelet:  # nothing is to outlive the head
        wait_ready(kubelet)
        with pytest.raises(UnavailableError):
            connect(service(kubelet), token=kubelet.secrets[FULL]["token"], strict=True, use_unix=False)
        run_test_pod(kubelet)
        with through_tls(kubelet) as cache:
            assert cache.put("kept", "v1")
            assert cache.put("gone", "v1")
            assert cache.invalidate("gone")
        before = shard_processes(kubelet)
        kubelet.pods[HEAD].kill()

        def formed_anew() -> bool:
            kubelet.sync()
            return metric_or_zero(kubelet) == 2 and kubelet.probe(CONTROLLER, "readinessProbe")

        until("a new cluster", formed_anew, 150, kubelet.logs)
        assert not (shard_processes(kubelet) & before), "a shard outlived its cluster"
        with through_tls(kubelet) as cache:
            assert cache.get("gone") is MISS
            assert cache.get("kept") in ("v1", MISS)
            assert cache.put("kept", "v2")
            assert cache.get("kept") == "v2"


def metric_or_zero(kubelet: Kubelet) -> float:
    try:
        return metric(kubelet, "stratacache_controller_clusters_created_total")
    except StopIteration:
        return 0.0
