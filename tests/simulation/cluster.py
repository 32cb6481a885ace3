"""One simulated cluster: machines, the control service, the coordinator, shard processes and their homes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from stratacache.cluster import coordinator_events as c
from stratacache.cluster import messages as m
from stratacache.cluster.config import ClusterConfig
from stratacache.cluster.membership import WINDOW_MS
from tests.simulation.control import ControlService
from tests.simulation.coordinators import CoordinatorProcess
from tests.simulation.homes import DiskDouble, Home, RealDisk
from tests.simulation.network import Network
from tests.simulation.oracle import Oracle
from tests.simulation.shards import ShardProcess
from tests.simulation.world import Machine, Process, World

LOCK_WAIT_MS = 20_000
START_MS = 1500.0


class SimCluster:
    """Everything but the clients."""

    def __init__(
        self,
        world: World,
        oracle: Oracle,
        *,
        shards: int,
        machines: int,
        lease_ms: int,
        has_disk: bool,
        l1_bytes_max: int,
        replicas: int = 1,
        window_ms: int = WINDOW_MS,
        folder: Path | None = None,
    ) -> None:
        """`folder`: where the shards' real disks are, None for doubles."""
        self.world = world
        self.oracle = oracle
        self.network = Network(world)
        self.name, self.uid = "sim", "life-1"
        self.lease_ms = lease_ms
        self.window_ms = window_ms
        self.has_disk = has_disk
        self.folder = folder
        self.pinned = machines == 1
        self.start_ms = START_MS
        """How long Ray takes to start a process, at most."""
        self.config = ClusterConfig(
            name=self.name, uid=self.uid, shards=shards, replicas=replicas, lease_ms=lease_ms, start_timeout_ms=60_000
        )
        object.__setattr__(self.config, "l1_bytes_max", l1_bytes_max)  # smaller than a user may ask for
        names = ["head", *(f"m{number}" for number in range(machines))]
        self.machines = {name: self.new_machine(name) for name in names}
        self.shard_machines = names[1:]
        self.homes: dict[tuple[str, str], Home] = {}
        self.processes: list[ShardProcess] = []
        self.coordinators: list[CoordinatorProcess] = []
        self.proposed: Callable[[CoordinatorProcess], None] = lambda _: None
        """Told of a view change that a coordinator has begun and nobody has heard of."""
        self._listening: dict[tuple[str, int], ShardProcess] = {}
        self._ports = 7000
        self.control = ControlService(self, self.machines["head"])
        self.control.coordinator = self.new_coordinator()

    def new_machine(self, name: str) -> Machine:
        """A machine with a clock of its own, at most 10 % faster than any other."""
        return Machine(self.world, name, self.world.random.choice((1.0, 1.1, self.world.random.uniform(1.0, 1.1))))

    def new_coordinator(self) -> CoordinatorProcess:
        """A run of the coordinator, on a machine that counts as alive."""
        first = not self.coordinators
        places = ["head"] if first else ["head", *self.shard_machines]
        alive = [name for name in places if first or name not in self.control.dead_machines]
        machine = self.machines[self.world.random.choice(alive)]
        made = CoordinatorProcess(self, machine, len(self.coordinators) + 1)
        self.coordinators.append(made)
        return made

    def processes_on(self, machine: Machine) -> list[Process]:
        """The coordinator and the shards that run there."""
        everything: list[Process] = [*self.processes, *self.coordinators]
        return [one for one in everything if one.alive and one.machine is machine]

    def home(self, shard: str, machine: str) -> Home:
        """A shard's directory on a machine."""
        found = self.homes.get((shard, machine))
        if found is None:
            disk = RealDisk(self.folder / f"{shard}@{machine}") if self.folder is not None else DiskDouble()
            found = self.homes[shard, machine] = Home(fence=f"{machine}:{shard}", disk=disk)
        return found

    def homes_on(self, machine: str) -> list[Home]:
        """The shards' directories on a machine."""
        return [home for (_, there), home in self.homes.items() if there == machine]

    def start_shard(self, effect: c.StartShard, reply: Callable[[Any], None]) -> None:
        """As Ray starts an actor and the coordinator calls its `start`."""
        control, random = self.control, self.world.random
        alive = [name for name in self.shard_machines if name not in control.dead_machines]
        if not alive or (effect.node and effect.node not in alive):
            self.world.after(500, lambda: reply("not placed"))
            return
        machine = self.machines[effect.node or random.choice(alive)]
        if (effect.shard, effect.incarnation) in control.actors:
            reply("the name is taken")
            return
        home = self.home(effect.shard, machine.name)
        process = ShardProcess(self, effect, machine, home)
        control.register(process)
        self.processes.append(process)
        self.world.faults["shard processes started"] += 1

        def started(answer: m.ShardStarted | None) -> None:
            if answer is None:
                process.die()
            reply(answer or "the lock is held")

        def begin() -> None:
            wait_ms = 2000 if effect.incarnation == 1 else LOCK_WAIT_MS
            process.deliver(lambda: process.start(effect.port, self.world.now_ms + wait_ms, started))

        process.on_death.append(lambda: reply("it died"))
        self.world.after(random.uniform(0.05, 1) * self.start_ms, begin)

    # -------------------------------------------------------------- sockets

    def listen(self, process: ShardProcess, wish: int) -> int:
        """Listen on the wished port if it is free, as the actor does."""
        port = wish
        if not port or (process.machine.name, port) in self._listening:
            self._ports += 1
            port = self._ports
        self._listening[process.machine.name, port] = process
        return port

    def closed(self, process: ShardProcess) -> None:
        """A process ended: its port is free."""
        for endpoint, other in list(self._listening.items()):
            if other is process:
                del self._listening[endpoint]

    def listener(self, host: str, port: int) -> ShardProcess | None:
        """Who listens there."""
        return self._listening.get((host, port))

    def serving(self, shard: str) -> list[ShardProcess]:
        """Processes of a shard that would answer data commands now."""
        return [one for one in self.processes if one.shard == shard and one.may_serve()]

    def is_ready(self) -> bool:
        """Whether the coordinator says that everything is well."""
        coordinator = self.control.coordinator
        return coordinator is not None and coordinator.alive and coordinator.core.is_settled()
