"""Starting and stopping a cluster from Python: what the command line, the demo and the Helm bootstrap use.

Invariants: `start` creates a whole cluster or nothing; only `start` creates, everything else looks up; `stop` returns
when the processes of this cluster are gone.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Final

from stratacache.client.efficiency import Prices, efficiency
from stratacache.client.view import ACTIVE, View
from stratacache.cluster.config import MIB, RAY_NAMESPACE, ClusterConfig, coordinator_name
from stratacache.cluster.discovery import Access, find_coordinator
from stratacache.cluster.home import runtime_dir
from stratacache.cluster.tls import Trust
from stratacache.node.errors import CacheError, UnavailableError, UsageError

CALL_DEADLINE_S: Final = 30.0
STOP_DEADLINE_S: Final = 30.0
HEAD_RESOURCE: Final = "node:__internal_head__"
_POLL_S: Final = 0.05


class ClusterHandle:
    """A running cluster, as `start` and `attach` return it. Leaving it as a context manager stops the cluster."""

    def __init__(self, name: str, coordinator: Any) -> None:
        self.name = name
        self._coordinator = coordinator

    @property
    def view(self) -> View:
        """The view in force now."""
        return self._access().view

    @property
    def token(self) -> str | None:
        """What clients must show; None when none is needed."""
        return self._access().token

    @property
    def tls(self) -> Trust | None:
        """How clients outside Ray believe the shards: their `tls_ca` and `tls_server_name`; None without TLS."""
        found = self._access().tls
        return Trust(*found) if found is not None else None

    @property
    def endpoints(self) -> dict[str, str]:
        """`host:port` of every active shard, by shard id."""
        return {shard.id: shard.address for shard in self.view.shards if shard.state == ACTIVE}

    @property
    def address(self) -> str:
        """What `stratacache.client.connect` takes."""
        found = self._access()
        shards = [shard.address for shard in found.view.shards if shard.state == ACTIVE]
        return ("stratas://" if found.tls is not None else "strata://") + ",".join(shards)

    def pids(self) -> dict[str, int]:
        """Process id of every running shard, by shard id."""
        return {shard["id"]: shard["pid"] for shard in self.status()["shards"] if shard["pid"]}

    def status(self) -> dict[str, Any]:
        """Phase, epoch, and each shard's state and place."""
        status: dict[str, Any] = _ask(self._coordinator.status.remote())
        return status

    def stats(self) -> dict[str, Any]:
        """The status, with each shard's figures (`stats`) and their sum (`total`)."""
        stats: dict[str, Any] = _ask(self._coordinator.stats.remote())
        return stats

    def efficiency_report(self, prices: Prices | None = None) -> dict[str, Any]:
        """Seconds (and with `prices` dollars) saved by operation, model and namespace, prefetching, recommendations."""
        stats = self.stats()
        return efficiency(stats["total"], prices=prices, prefetch=stats["prefetch"])

    def drain(self, node: str, deadline_s: float) -> list[str]:
        """Close the shards of a Ray node, given by its id, that is about to go; returns their ids."""
        shards: list[str] = _ask(self._coordinator.drain.remote(node, deadline_s), deadline_s + CALL_DEADLINE_S)
        return shards

    def resize(
        self, shards: int | None = None, *, weights: Mapping[str, float] | None = None, deadline_s: float = 180.0
    ) -> None:
        """Change the number of shards (None: keep it) and their weights while the cache is in use, and wait for it.

        New shards get the lowest free numbers, and those of the highest numbers leave. What moves is handed over: a
        key that is asked for meanwhile is taken from where it was. Raises UsageError for what can't be had, and
        UnavailableError when it is not done within `deadline_s` (0: it is not waited for); it goes on then, see
        `status()["change"]`.
        """
        _ask(self._coordinator.resize.remote(shards, dict(weights or {})))
        if deadline_s:
            self.wait_settled(deadline_s)

    def drain_shard(self, shard: str, *, deadline_s: float = 180.0) -> None:
        """Take a shard out of the cluster for good: the others get its keys, the hottest first, then its process ends.

        Raises as `resize` does.
        """
        _ask(self._coordinator.remove.remote(shard))
        self.wait_settled(deadline_s)

    def wait_settled(self, deadline_s: float = 180.0) -> None:
        """Wait until every wanted shard serves and has what is its own; raises UnavailableError."""
        _ask(self._coordinator.wait_settled.remote(deadline_s), deadline_s + CALL_DEADLINE_S)

    def wait_ready(self, deadline_s: float = 60.0) -> None:
        """Wait until every shard serves again; raises UnavailableError when it does not come to that."""
        _ask(self._coordinator.wait_ready.remote(deadline_s), deadline_s + CALL_DEADLINE_S)

    def stop(self) -> None:
        """Flush and end every shard, then the coordinator; Ray itself is left alone."""
        import ray
        from ray.exceptions import RayError

        uid = ""
        pids: set[int] = set()
        try:
            status = self.status()
            uid = status["uid"]
            local = ray.get_runtime_context().get_node_id()
            pids = {one["pid"] for one in status["shards"] if one["pid"] and one["node"] in ("", local)}
            _ask(self._coordinator.stop.remote(), STOP_DEADLINE_S)
        except (RayError, UnavailableError):
            pass  # what does not answer is ended all the same
        ray.kill(self._coordinator)
        _end_actors(self.name, pids)
        if uid:
            shutil.rmtree(runtime_dir(uid), ignore_errors=True)

    def __enter__(self) -> ClusterHandle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _access(self) -> Access:
        blob, token, tls = _ask(self._coordinator.view.remote())
        return Access(View.from_bytes(blob), token, tls)


def start(config: ClusterConfig | None = None, /, **options: Any) -> ClusterHandle:
    """Create a cluster in the Ray cluster of this process, and wait until it serves.

    Takes a ClusterConfig, or its fields by keyword (`shards=3, name="default", ...`). Connects to Ray as `ray.init()`
    does when this process has not yet. Raises UsageError when the request can't be met (the name is taken, a port is
    in use, ...) and UnavailableError when it took too long; nothing is left behind then.
    """
    import ray

    config = config or ClusterConfig(**options)
    config.validate()
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    config = _completed(config)
    from stratacache.cluster.coordinator_actor import CoordinatorActor

    try:
        coordinator = (
            ray.remote(CoordinatorActor)
            .options(
                name=coordinator_name(config.name),
                namespace=RAY_NAMESPACE,
                lifetime="detached",
                num_cpus=0,
                memory=64 * MIB,
                max_restarts=-1,
                max_concurrency=10_000,
                scheduling_strategy=_on_head(),
            )
            .remote(config)
        )
        taken = _is_taken(coordinator)
    except ValueError:
        taken = True
    if taken:
        raise UsageError(
            f"a cache named {config.name!r} already runs in this Ray cluster: "
            "end it with `stratacache down`, or choose another --name"
        )
    handle = ClusterHandle(config.name, coordinator)
    try:
        handle.wait_ready(config.start_timeout_ms / 1000 + 5)
    except BaseException:
        ray.kill(coordinator)
        _end_actors(config.name, set())
        shutil.rmtree(runtime_dir(config.uid), ignore_errors=True)
        raise
    return handle


def _on_head() -> Any:
    """Where the coordinator runs: on Ray's head while it has room, since without the head it may not grant anything.

    On any other machine, the loss of that machine too would stop all shards for the 20 s that Ray takes to notice.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    heads = [node["NodeID"] for node in ray.nodes() if node["Alive"] and HEAD_RESOURCE in node["Resources"]]
    return NodeAffinitySchedulingStrategy(heads[0], soft=True) if heads else "DEFAULT"


def _is_taken(coordinator: Any) -> bool:
    """Whether the new actor's name was taken: over Ray Client that shows at its first call, not at its creation.

    Nothing may be cleaned up then, since the actors of that name are not ours.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        ray.get(coordinator.status.remote(), timeout=CALL_DEADLINE_S)
    except RayError as error:
        return isinstance(error, ValueError) and not isinstance(error, RayTaskError)
    return False


def attach(name: str | None = None) -> ClusterHandle:
    """The running cluster of this name; raises UnavailableError when there is none."""
    coordinator = find_coordinator(name)
    status = _ask(coordinator.status.remote())
    return ClusterHandle(status["name"], coordinator)


def _completed(config: ClusterConfig) -> ClusterConfig:
    """Give the cluster its life's name, its machine when it has only one, and else a token.

    This is settled once: were it looked at again when a coordinator restarts, a machine that joined meanwhile would
    turn a private cluster into one that is reached from outside, and its disks would no longer be all there is.
    """
    import ray

    config = replace(config, uid=secrets.token_hex(4))
    addresses = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if len(addresses) == 1 and not config.node_resource:
        return replace(config, machine=addresses.pop())
    if not config.host and config.token is None and not config.insecure:
        config = replace(config, token=secrets.token_urlsafe(32))
    return config


def _ask(reference: Any, deadline_s: float = CALL_DEADLINE_S) -> Any:
    """An actor's answer; its errors as ours."""
    import ray
    from ray.exceptions import ActorDiedError, GetTimeoutError, RayError

    try:
        return ray.get(reference, timeout=deadline_s)
    except GetTimeoutError:
        raise UnavailableError(f"the coordinator gave no answer within {deadline_s:g} s") from None
    except ActorDiedError:
        raise UnavailableError("the cluster has been stopped") from None
    except RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, CacheError):
            raise cause from None
        raise UnavailableError(f"the coordinator can't be asked now ({type(error).__name__}): try again") from error


def _end_actors(name: str, pids: set[int]) -> None:
    """Kill what is left of the cluster's actors, and wait until they and these local processes are gone."""
    import ray

    until = time.monotonic() + STOP_DEADLINE_S
    while time.monotonic() < until:
        left = [
            actor["name"]
            for actor in ray.util.list_named_actors(all_namespaces=True)
            if actor["namespace"] == RAY_NAMESPACE and actor["name"].startswith(f"{name}/")
        ]
        for actor in left:
            try:
                ray.kill(ray.get_actor(actor, namespace=RAY_NAMESPACE))
            except ValueError:
                continue  # it ended meanwhile
        if not left and not any(_is_alive(pid) for pid in pids):
            return
        time.sleep(_POLL_S)
    raise UnavailableError(f"processes of cluster {name} did not end within {STOP_DEADLINE_S:g} s")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
