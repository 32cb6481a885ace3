"""One misfortune at a time: seeds in which the cluster is whole again before the next thing happens to it.

The storms of `faults.py` leave little time in which anything is promised. Here clients are busy while something is
under way, and each episode aims at one mechanism: an owner that is away while its keys go on changing and comes back
with its disk, a shard that does not hear of a view change while it still may serve, a client that knows only the view
before. Where nothing is cut off and no more owners are lost at once than there are copies to spare, every acknowledged
put must be found again (I4).
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from stratacache.cluster import membership
from tests.simulation.clients import Workload
from tests.simulation.elastic import sizes

if TYPE_CHECKING:
    from stratacache.cluster.changes import Change
    from tests.simulation.clients import ClientProcess
    from tests.simulation.cluster import SimCluster
    from tests.simulation.coordinators import CoordinatorProcess
    from tests.simulation.faults import Faults

MOVING = Workload(times=8, pauses_ms=(20, 100, 300, 600))
COPIES = Workload(
    keys=4,
    times=8,
    pauses_ms=(20, 100, 300, 600),
    mix=(0.42, 0.08, 0.30, 0.06, 0.10, 0.03, 0.007, 0.003),
    ttls_s=(None, None, None, None, None, 15.0),
)
"""Fewer invalidations than elsewhere, or nothing old would be left to be shown."""
BUSY_PAUSES_MS = (0, 2, 10, 30)
"""Between operations of a client while something is under way that may go wrong."""
LEASES_MS = (1500, 2500, 4000)
MACHINES = 4
SHARDS = 3
RESTS_MS = (50.0, 500.0, 2000.0)
AFTER_MS = 2000.0
PART_MS_MAX = 3500.0
"""The control service takes a machine that it does not reach for dead after four seconds."""


def is_calm(seed: int) -> bool:
    """Whether misfortunes come one at a time in this seed."""
    return seed % 8 in {4, 6}


class Episodes:
    """One seed's misfortunes, one after the other, until `faults.until_ms`."""

    def __init__(self, cluster: SimCluster, faults: Faults, clients: list[ClientProcess]) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.faults = faults
        self.clients = clients
        self.random = random = Random(cluster.world.random.getrandbits(64))
        self._busy_until_ms = 0.0
        network = cluster.network
        network.loss = network.duplication = 0.0
        network.slow_share, network.slow_ms = random.choice(((0.0, 0.0), (0.02, 50.0), (0.1, 300.0)))
        cluster.start_ms = random.choice((500.0, 3.0 * cluster.lease_ms, 3.0 * cluster.lease_ms))
        several = cluster.config.replicas > 1
        self._kinds: tuple[Callable[[], None], ...]
        if not several:
            self._kinds = (self.part_reshape, self.part_reshape, self.reshape)
        elif random.random() < 0.5:
            self._kinds = (self.part_return, self.part_return, self.lose_owners)
        else:
            self._kinds = (self.lose_owners, self.lose_owners, self.stop_owner)
            cluster.oracle.keeps = True
        self.world.after(random.uniform(200, 2000), self._next)

    def _next(self) -> None:
        """Wait until the cluster is whole, let it be so for a while, and strike."""
        if self.world.now_ms >= self.faults.until_ms:
            return
        if not self._is_whole():
            self.world.after(100, self._next)
            return

        def strike() -> None:
            if self._is_whole() and self.world.now_ms < self.faults.until_ms:
                self.random.choice(self._kinds)()
            self.world.after(100, self._next)

        self.world.after(self.random.choice(RESTS_MS), strike)

    def _is_whole(self) -> bool:
        """Whether every shard serves and holds its copies again."""
        serving = [one for one in self.cluster.processes if one.may_serve() and not one.stopped]
        view = self.cluster.control.coordinator.core.view if self.cluster.control.coordinator is not None else None
        if view is None or {one.shard for one in serving} != view.by_id.keys() or not self.cluster.is_ready():
            return False
        copies = [(one.replication, one.engine.now_ms()) for one in serving]
        return not any(copy is not None and copy.is_missing(now_ms) for copy, now_ms in copies)

    # -------------------------------------------------------------- owners that go and come back

    def lose_owners(self) -> None:
        """Kill as many shards as there are copies to spare, or fewer; most come back with their disks."""
        serving = [one for one in self.cluster.processes if one.may_serve()]
        spare = self.cluster.config.replicas - 1
        for process in self.random.sample(serving, min(len(serving), self.random.randint(1, spare))):
            self.faults.kill(process, lost=self.random.random() < 0.1)
        self._hurry(self.cluster.start_ms + AFTER_MS)

    def stop_owner(self) -> None:
        """SIGSTOP of one shard for longer than its lease; another process takes its place and it wakes up late."""
        serving = [one for one in self.cluster.processes if one.may_serve()]
        if serving:
            self.faults.stop_one(self.random.choice(serving), self.cluster.lease_ms * self.random.uniform(0.3, 2.5))
            self._hurry(self.cluster.start_ms + AFTER_MS)

    # -------------------------------------------------------------- views that not everybody hears of

    def part_return(self) -> None:
        """Lose an owner; when it comes back, another shard does not hear of the view that lets it in."""
        serving = [one for one in self.cluster.processes if one.may_serve()]
        if not serving:
            return
        victim = self.random.choice(serving)
        self.faults.kill(victim, lost=False)

        self._when_proposed(lambda change: bool(change.joiners))

    def reshape(self) -> None:
        """Have the ring change."""
        coordinator = self.cluster.control.coordinator
        if coordinator is None or not coordinator.alive:
            return
        now = coordinator.core.target
        count = self.random.choice([one for one in sizes(self.cluster.config.shards) if abs(one - len(now)) > 1])
        self.faults.count("targets set", str(count))
        coordinator.aim(membership.resized(now, count, {}))

    def part_reshape(self) -> None:
        """Have the ring change, and one shard that loses keys by it not hear of it."""
        self.reshape()
        self._when_proposed(lambda change: change.former is not None)

    def _when_proposed(self, wanted: Callable[[Change], bool]) -> None:
        """Part a shard from the coordinator as soon as such a view is proposed, before anybody hears of it."""
        until_ms = min(self.world.now_ms + 15_000, self.faults.until_ms)

        def proposed(coordinator: CoordinatorProcess) -> None:
            change = coordinator.core.change
            if self.world.now_ms < until_ms and change is not None and wanted(change):
                self.cluster.proposed = lambda _: None
                self._part(coordinator, change)

        self.cluster.proposed = proposed

    def _part(self, coordinator: CoordinatorProcess, change: Change) -> None:
        """The coordinator does not reach one shard that serves; one client uses only the keys of that shard."""
        serving = [one for one in self.cluster.processes if one.may_serve()]
        lonely = [one for one in serving if one.shard in change.leavers] or serving
        if not lonely:
            return
        process = self.random.choice(lonely)
        last_ms = min(PART_MS_MAX, self.cluster.lease_ms * self.random.uniform(0.5, 1.3))
        pair = (coordinator.machine.name, process.machine.name)
        self.faults.cut_off([pair], "shards not told of a view change", last_ms)
        self.random.choice(self.clients).stays_with = process.shard
        self._hurry(last_ms)

    def _hurry(self, last_ms: float) -> None:
        """Have the clients busy for a while."""
        until_ms = self._busy_until_ms = max(self._busy_until_ms, self.world.now_ms + last_ms)
        for client in self.clients:
            client.pauses_ms = BUSY_PAUSES_MS

        def rest() -> None:
            if self._busy_until_ms == until_ms:
                for client in self.clients:
                    client.pauses_ms, client.stays_with = client.workload.pauses_ms, ""

        self.world.after(until_ms - self.world.now_ms, rest)
