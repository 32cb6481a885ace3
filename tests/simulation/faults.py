"""What is done to the cluster: kills, stops, cuts, lost disks, until everything is mended.

Invariants: every fault is counted under its name; `mend` undoes what lasts, and nothing is broken after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.cluster import START_MS

if TYPE_CHECKING:
    from tests.simulation.cluster import SimCluster
    from tests.simulation.shards import ShardProcess
    from tests.simulation.world import Process

PAUSES_MS = (300.0, 1500.0, 3000.0, 3000.0, 6000.0)
STOPS_MS = (50.0, 1000.0, 4000.0, 10_000.0, 16_000.0)
CUTS_MS = (300.0, 2000.0, 5000.0, 10_000.0, 20_000.0)


class Faults:
    """The means: what is done is counted, and undone by `mend`. Nothing is begun after `until_ms`."""

    def __init__(self, cluster: SimCluster, until_ms: float) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.until_ms = until_ms
        self._cuts: list[tuple[str, str]] = []
        self._stopped: list[Process] = []

    def count(self, what: str, detail: str) -> None:
        """One more fault of a kind."""
        self.world.faults[what] += 1
        self.world.say(f"*** {what}: {detail}")

    def kill(self, process: ShardProcess, *, lost: bool) -> None:
        """SIGKILL of one shard process; with `lost` its disk goes with it."""
        self.count("shards killed and their disks lost" if lost else "shards killed", process.name)
        process.die()
        if lost:
            process.home.wipe()

    def stop_one(self, process: Process, last_ms: float) -> None:
        """SIGSTOP of one process for a while."""
        self.count("processes stopped", process.name)
        process.stop()
        self._stopped.append(process)
        self.world.after(last_ms, lambda: self._resume(process))

    def _resume(self, process: Process) -> None:
        if process in self._stopped:
            self._stopped.remove(process)
            process.resume()

    def cut_off(self, pairs: list[tuple[str, str]], fault: str, last_ms: float) -> None:
        """Cut directions between machines, for a while."""
        self.count(fault, ", ".join(f"{source} -> {target}" for source, target in pairs))
        for pair in pairs:
            self.cluster.network.cut(*pair)
            self._cuts.append(pair)
        self.world.after(last_ms, lambda: self._uncut(pairs))

    def _uncut(self, pairs: list[tuple[str, str]]) -> None:
        for pair in pairs:
            if pair in self._cuts:
                self._cuts.remove(pair)
                self.cluster.network.mend(*pair)

    def mend(self) -> None:
        """Undo what lasts."""
        self.cluster.network.loss = self.cluster.network.duplication = 0.0
        self.cluster.network.slow_share = 0.0
        self.cluster.start_ms = START_MS
        for pair in self._cuts:
            self.cluster.network.mend(*pair)
        self._cuts.clear()
        for process in list(self._stopped):
            self._resume(process)


class Storm(Faults):
    """One seed's misfortunes, drawn from all kinds, whatever state the cluster is in."""

    def __init__(self, cluster: SimCluster, until_ms: float) -> None:
        super().__init__(cluster, until_ms)
        self.random = cluster.world.random
        network = cluster.network
        network.loss = self.random.choice((0.0, 0.0, 0.02, 0.15))
        network.duplication = self.random.choice((0.0, 0.0, 0.05))
        network.slow_share = self.random.choice((0.0, 0.02, 0.2))
        network.slow_ms = self.random.choice((50.0, 400.0, 3000.0))
        cluster.start_ms = self.random.choice((1500.0, 6000.0, 20_000.0))
        kinds = (
            self.kill_shard,
            self.stop,
            self.orphan,
            self.cut,
            self.kill_coordinator,
            self.isolate,
            self.kill_machine,
        )
        self._kinds = self.random.sample(kinds, self.random.randint(1, len(kinds)))
        if self.random.random() < 0.5:  # what most mechanisms are for
            self._kinds += [self.kill_shard, self.orphan]
        if cluster.config.replicas > 1 and self.random.random() < 0.6:
            self._kinds += [self.part_owners, self.part_owners]
        self.pause_ms = self.random.choice(PAUSES_MS)
        self.world.after(self.random.uniform(500, 8000), self._next)

    def _next(self) -> None:
        if self.world.now_ms >= self.until_ms:
            return
        self.random.choice(self._kinds)()
        self.world.after(self.random.uniform(0.1, 2) * self.pause_ms, self._next)

    def kill_shard(self) -> None:
        """SIGKILL of shard processes, with or without their disks."""
        alive = [one for one in self.cluster.processes if one.alive]
        everyone = self.random.random() < 0.08
        for process in alive if everyone else self.random.sample(alive, min(len(alive), 1)):
            self.kill(process, lost=self.random.random() < 0.15)

    def stop(self) -> None:
        """SIGSTOP, and SIGCONT later."""
        processes: list[Process] = [one for one in self.cluster.processes if one.alive and not one.stopped]
        coordinator = self.cluster.control.coordinator
        if coordinator is not None and coordinator.alive and not coordinator.stopped and self.random.random() < 0.25:
            processes = [coordinator]
        if processes:
            process = self.random.choice(processes)
            self.stop_one(process, self._last(STOPS_MS))

    def _last(self, choices: tuple[float, ...]) -> float:
        return self.random.choice(choices) * self.random.uniform(0.5, 1.2)

    def _cut_long(self, pairs: list[tuple[str, str]], fault: str) -> None:
        self.cut_off(pairs, fault, self._last(CUTS_MS))

    def cut(self) -> None:
        """Cut two machines off from each other, often one way only."""
        one, other = self.random.sample(sorted(self.cluster.machines), 2)
        both = self.random.random() < 0.4
        self._cut_long([(one, other), (other, one)] if both else [(one, other)], "cuts between two machines")

    def orphan(self) -> None:
        """Cut a shard's machine off from the coordinator, while clients still reach both."""
        coordinator = self.cluster.control.coordinator
        machine = self.random.choice(self.cluster.shard_machines)
        if coordinator is not None and coordinator.machine.name != machine:
            here, there = coordinator.machine.name, machine
            pairs = [(here, there), (there, here)]
            self._cut_long(
                self.random.choice((pairs, pairs, pairs[:1], pairs[1:])), "shards cut off from the coordinator"
            )

    def part_owners(self) -> None:
        """Keep one shard's changes from another for a while, and kill or stop it meanwhile: others go on for it."""
        alive = [one for one in self.cluster.processes if one.alive and one.started is not None]
        if len({one.machine.name for one in alive}) < 2:
            return
        first = self.random.choice(alive)
        second = self.random.choice([one for one in alive if one.machine is not first.machine])
        pair = (first.machine.name, second.machine.name)
        self._cut_long([pair], "owners parted")

        def strike() -> None:
            if first.alive and self.random.random() < 0.6:
                self.count("shards killed", first.name)
                first.die()

        self.world.after(self.random.uniform(100, 2500), strike)

    def isolate(self) -> None:
        """Cut one machine off from all others, or from all but the clients, which makes zombies."""
        names = sorted(self.cluster.machines)
        coordinator = self.cluster.control.coordinator
        if coordinator is not None and coordinator.machine.name != "head" and self.random.random() < 0.5:
            lonely = coordinator.machine.name
        else:
            lonely = self.random.choice([name for name in names if name != "head"])
        draw = self.random.random()
        if draw < 0.4:
            others = ["head"]  # the control service only
        elif draw < 0.7:
            others = [name for name in names if not name.startswith("c")]
        else:
            others = names
        pairs = [pair for name in others if name != lonely for pair in ((lonely, name), (name, lonely))]
        self._cut_long(pairs, "machines isolated")

    def kill_coordinator(self) -> None:
        """SIGKILL of the coordinator, at a moment when something is under way if that can be had."""
        coordinator = self.cluster.control.coordinator
        if coordinator is None or not coordinator.alive:
            return

        def strike(tries: int) -> None:
            if not coordinator.alive:
                return
            if coordinator.core.change is None and tries:
                self.world.after(40, lambda: strike(tries - 1))
                return
            self.count("coordinators killed", coordinator.name)
            coordinator.die()

        strike(self.random.choice((0, 50, 200)))

    def kill_machine(self) -> None:
        """Everything that runs on one machine dies; its disks stay, without what was not flushed."""
        name = self.random.choice(self.cluster.shard_machines)
        self.count("machines killed", name)
        machine = self.cluster.machines[name]
        for process in self.cluster.processes_on(machine):
            process.die()
        machine.boots += 1
        for home in self.cluster.homes_on(name):
            home.disk.lose_power()
