"""What is done to the cluster: each fault is a real signal to a real process, and is waited out before the next."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from typing import Any

from stratacache.cluster import ClusterHandle
from stratacache.node.errors import UnavailableError
from tests.cluster.waiting import is_alive
from tests.stopping import stop

HEAL_S = 90.0


class Tormentor:
    """Chooses and carries out faults on a cluster whose raylets it may remove and add."""

    def __init__(self, handle: ClusterHandle, raylets: Any, lease_s: float, seed: int) -> None:
        self.handle = handle
        self.raylets = raylets
        self.lease_s = lease_s
        self.chooser = random.Random(f"faults/{seed}")
        self.lengths = random.Random(f"lengths/{seed}")
        self.done: Counter[str] = Counter()
        self._killed: set[int] = set()
        self.kills = 0
        """Processes of the cache that were killed, those on a killed raylet among them."""

    def strike(self, kind: str) -> None:
        """Carry out one fault and wait until every shard serves again."""
        before = self.done[kind]
        while self.done[kind] == before:
            try:
                getattr(self, kind)()
                self.done[kind] += 1
            except ProcessLookupError:
                self.done["gone before it was struck"] += 1  # a loaded machine ends its leases by itself
            self.heal()

    def kill_shard(self) -> None:
        """SIGKILL to a shard."""
        self._kill(self._shard_pid())

    def kill_coordinator(self) -> None:
        """SIGKILL to the coordinator, and in half of the cases to a shard right after."""
        coordinator, shard = self.coordinator_pid(), self._shard_pid()
        self._kill(coordinator)
        if self.lengths.random() < 0.5:
            self._kill(shard)

    def stop_shard(self) -> None:
        """SIGSTOP to a shard for about as long as its serving lease, mostly for longer, then SIGCONT."""
        pid = self._shard_pid()
        stop(pid)
        leases = self.lengths.uniform(0.5, 2.0)
        time.sleep(self.lease_s * leases)
        self.done["stopped beyond its lease"] += leases > 1.0
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            self.done["replaced while stopped"] += 1

    def kill_raylet(self) -> None:
        """End a whole Ray node with everything on it, and add a fresh one."""
        node = self.chooser.choice(sorted(self.raylets.worker_nodes, key=lambda node: str(node.node_id)))
        self.kills += sum(shard["node"] == node.node_id for shard in self.handle.status()["shards"])
        self.raylets.remove_node(node, allow_graceful=False)
        self.raylets.add_node(num_cpus=2, object_store_memory=80_000_000)

    def coordinator_pid(self) -> int:
        """The process of the coordinator."""
        import ray

        reference = self.handle._coordinator.__ray_call__.remote(lambda _: os.getpid())
        pid: int = ray.get(reference, timeout=HEAL_S)
        return pid

    def coordinator_is_on_head(self) -> bool:
        """Whether the loss of any other Ray node leaves the coordinator alone."""
        import ray

        where = self.handle._coordinator.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id())
        return bool(ray.get(where, timeout=HEAL_S) == self.raylets.head_node.node_id)

    def heal(self) -> None:
        """Wait until every shard has a live process that serves; raises UnavailableError when that does not come."""
        until = time.monotonic() + HEAL_S
        while True:
            try:
                self.handle.wait_ready(10.0)
                pids = self.handle.pids().values()
                new = not self._killed.intersection(pids) and all(map(is_alive, pids))
                if new and len(pids) == len(self.handle.view.shards):
                    self._killed.clear()
                    return  # Ray takes a while to see that a process or a node is gone: ready alone may be old news
            except UnavailableError:
                if time.monotonic() > until:
                    raise
            if time.monotonic() > until:
                raise UnavailableError(f"not every shard has a live process after {HEAL_S:g} s")
            time.sleep(0.1)

    def _kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self._killed.add(pid)
        self.kills += 1

    def _shard_pid(self) -> int:
        return self.chooser.choice(sorted(self.handle.pids().values()))
