"""Ray as far as the cluster leans on it: names, a key-value store, who is believed to be alive, restarts.

What it says is not always true, as in the real one: a machine that it can't reach counts as dead, with all processes on
it, while they run on; and then the coordinator that lived there is started again elsewhere, beside the old one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from stratacache.cluster import coordinator_events as c
from tests.simulation.world import Machine, Process

if TYPE_CHECKING:
    from tests.simulation.cluster import SimCluster
    from tests.simulation.coordinators import CoordinatorProcess
    from tests.simulation.shards import ShardProcess

HEALTH_EVERY_MS = 1000
UNHEALTHY_AFTER = 4
RESTART_MS = (200, 4000)


class ControlService(Process):
    """Ray's control service; it does not fail."""

    def __init__(self, cluster: SimCluster, machine: Machine) -> None:
        super().__init__(cluster.world, machine, "control")
        self.cluster = cluster
        self.kv: dict[str, object] = {}
        self.target: dict[str, float] = {}
        self.actors: dict[tuple[str, int], ShardProcess] = {}
        self.coordinator: CoordinatorProcess | None = None
        self.dead_machines: set[str] = set()
        self._unreached: dict[str, int] = {}
        self._watches: dict[tuple[str, int], list[Callable[[], None]]] = {}
        self._restarting = False
        self.after(HEALTH_EVERY_MS, self._check_health)

    def _reaches(self, machine: Machine) -> bool:
        cuts = self.cluster.network.cuts
        return (self.machine.name, machine.name) not in cuts and (machine.name, self.machine.name) not in cuts

    def _check_health(self) -> None:
        for machine in self.cluster.machines.values():
            if self._reaches(machine):
                self._unreached[machine.name] = 0
                if machine.name in self.dead_machines:
                    self._return(machine)
                continue
            self._unreached[machine.name] = self._unreached.get(machine.name, 0) + 1
            if self._unreached[machine.name] == UNHEALTHY_AFTER:
                self._declare_dead(machine)
        self.after(HEALTH_EVERY_MS, self._check_health)

    def _declare_dead(self, machine: Machine) -> None:
        self.world.faults["machines declared dead"] += 1
        self.world.say(f"control service gives up {machine.name}")
        self.dead_machines.add(machine.name)
        for name, process in list(self.actors.items()):
            if process.machine is machine:
                self.forget(name)
        if self.coordinator is not None and self.coordinator.machine is machine:
            if self.coordinator.alive:
                self.world.faults["zombie coordinators"] += 1
            self.restart_coordinator()

    def _return(self, machine: Machine) -> None:
        """A machine that was given up is back: what runs on it is ended, and it joins anew."""
        self.dead_machines.discard(machine.name)
        for process in self.cluster.processes_on(machine):
            if process is not self.coordinator and process.name.partition("-")[0] != "client":
                self.world.after(self.world.random.uniform(0, 3000), process.die)

    # -------------------------------------------------------------- names

    def find_coordinator(self, asker: Process) -> CoordinatorProcess | None:
        """Look the coordinator's name up, if the asker reaches the control service."""
        return self.coordinator if self._reaches(asker.machine) else None

    def register(self, process: ShardProcess) -> None:
        """A shard process was started under its name."""
        name = (process.shard, process.incarnation)
        self.actors[name] = process
        process.on_death.append(
            lambda: self.world.after(self.world.random.choice((20, 200, 2000)), lambda: self.forget(name))
        )

    def watch(self, name: tuple[str, int], lost: Callable[[], None]) -> None:
        """Call `lost` once the process of that name is believed to be dead."""
        if name in self.actors:
            self._watches.setdefault(name, []).append(lost)
        else:
            lost()

    def forget(self, name: tuple[str, int]) -> None:
        """A process is believed to be dead."""
        if self.actors.pop(name, None) is not None:
            for lost in self._watches.pop(name, ()):
                lost()

    def kill(self, name: tuple[str, int]) -> None:
        """ray.kill: the name is free at once, the process ends when its machine hears of it."""
        process = self.actors.get(name)
        self.forget(name)
        if process is None:
            return

        def strike() -> None:
            if not process.alive:
                return
            if self._reaches(process.machine):
                process.die()
            else:
                self.after(1000, strike)

        self.after(self.world.random.choice((10, 200, 5000)), strike)

    # -------------------------------------------------------------- the coordinator

    def restart_coordinator(self) -> None:
        """Start the coordinator's actor again after a while, on a machine that counts as alive."""
        self.coordinator = None
        if self._restarting:
            return
        self._restarting = True

        def start() -> None:
            self._restarting = False
            self.coordinator = self.cluster.new_coordinator()

        self.after(self.world.random.uniform(*RESTART_MS), start)

    def coordinator_died(self, process: CoordinatorProcess) -> None:
        """The actor's process ended."""
        if process is self.coordinator:
            self.restart_coordinator()

    def nodes(self) -> tuple[c.NodeSeen, ...]:
        """The machines that count as alive and may hold shards."""
        return tuple(
            c.NodeSeen(id=name, address=name) for name in self.cluster.shard_machines if name not in self.dead_machines
        )
