"""One seed: a configuration, a workload, faults, healing, and the verdict."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from stratacache.cluster.membership import WINDOW_MS
from tests.simulation import elastic, episodes
from tests.simulation.clients import COPIES, KEYS, STORM, ClientProcess, Workload
from tests.simulation.cluster import SimCluster
from tests.simulation.elastic import Reshaper
from tests.simulation.faults import Faults, Storm
from tests.simulation.oracle import Oracle, ViolationError
from tests.simulation.world import World

FORM_MS = 20_000.0
FAULTS_MS = 40_000.0
HEAL_MS = 150_000.0
PROBE_MS = 15_000.0
MANY = 20
"""From here on each key has one owner unless more are asked for: every shard would have a stream to every other."""
SHM = Path("/dev/shm")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a seed showed."""

    seed: int
    violation: str | None
    counts: Counter[str]
    faults: Counter[str]
    view_changes: int
    simulated_s: float


def copies_of(seed: int, shards: int) -> int:
    """How many owners a key has in this seed; drawn apart from the rest, so that old seeds stay as they were."""
    return min(shards, Random(f"copies {seed}").choice((1, 1, 2, 2, 3)))


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a seed is about. Calm: misfortunes come one at a time. Elastic: shards come and go."""

    calm: bool
    elastic: bool
    shards: int
    replicas: int

    @property
    def workload(self) -> Workload:
        """What clients do."""
        if self.calm:
            return episodes.COPIES if self.replicas > 1 else episodes.MOVING
        if self.elastic:
            return elastic.WORKLOAD
        return COPIES if self.replicas > 1 else STORM


def choose_setting(seed: int, random: Random, shards: int | None, replicas: int | None) -> Setting:
    """The setting of a seed; `shards` and `replicas` are kept to where they are given."""
    count = shards or random.choice((1, 2, 3, 3, 4, 5))
    copies = min(replicas, count) if replicas else copies_of(seed, count) if count < MANY else 1
    calm, moving = episodes.is_calm(seed), elastic.is_elastic(seed) and not replicas
    if moving:
        copies = 1  # keys move between shards only where there is one copy of each
    elif calm and not shards:
        count, copies = episodes.SHARDS, replicas or max(2, copies)
    return Setting(calm=calm, elastic=copies == 1 if calm else moving, shards=count, replicas=copies)


def simulate(
    seed: int,
    *,
    ops: int = 160,
    shards: int | None = None,
    replicas: int | None = None,
    real_disks: bool = False,
    trace: Callable[[str], None] | None = None,
) -> Outcome:
    """Run one seed to its end or to its first violation; with `real_disks` the shards' L3 are LMDB files in memory."""
    with elastic.own_sizes(), ExitStack() as stack:
        folder: Path | None = None
        if real_disks:
            temporary = TemporaryDirectory(prefix="stratacache-sim-", dir=SHM if SHM.exists() else None)
            folder = Path(stack.enter_context(temporary))
        return _simulate(seed, ops, shards, replicas, folder, trace)


def _simulate(
    seed: int,
    ops: int,
    shards: int | None,
    replicas: int | None,
    folder: Path | None,
    trace: Callable[[str], None] | None,
) -> Outcome:
    logging.getLogger("stratacache").setLevel(logging.CRITICAL)  # failures are the rule here
    world = World(seed)
    world.trace = trace
    random = world.random
    setting = choose_setting(seed, random, shards, replicas)
    calm, workload = setting.calm, setting.workload
    oracle = Oracle(world, replicas=setting.replicas)
    cluster = SimCluster(
        world,
        oracle,
        shards=setting.shards,
        replicas=setting.replicas,
        machines=episodes.MACHINES if calm else random.choice((1, 2, 3, 4)),
        lease_ms=random.choice(episodes.LEASES_MS if calm else (1000, 2000, 2000, 4000, 10_000)),
        has_disk=random.random() < 0.8,
        l1_bytes_max=1 << 20 if calm else random.choice((1 << 20, 1 << 20, 1 << 20, 12_000)),
        window_ms=elastic.choose_sizes(random) if setting.elastic else WINDOW_MS,
        folder=folder,
    )
    count = random.choice((2, 2, 3) if calm else (1, 2, 3))
    ops = ops * workload.times // count
    clients = [
        ClientProcess(cluster, oracle, number, workload, lanes=random.choice((1, 2, 3)), ops=ops)
        for number in range(count)
    ]
    violation: str | None = None
    try:
        _faults_and_healing(cluster, clients, setting)
        _check_engines(cluster)
        elastic.count_entries(cluster)
    except ViolationError as error:
        violation = str(error)
        world.say(f"VIOLATION {violation}")
    for client in clients:
        client.shell.abandon()
    for process in cluster.processes:
        process.die()
    return Outcome(
        seed=seed,
        violation=violation,
        counts=oracle.counts,
        faults=world.faults,
        view_changes=len(oracle.views),
        simulated_s=world.now_ms / 1000,
    )


def _faults_and_healing(cluster: SimCluster, clients: list[ClientProcess], setting: Setting) -> None:
    world = cluster.world
    while not cluster.is_ready():
        world.run(world.now_ms + 250)
        if world.now_ms > FORM_MS:
            raise ViolationError("convergence: the cluster does not form")
    faults: Faults
    reshaper: Reshaper | None = None
    if setting.calm:
        faults = Faults(cluster, world.now_ms + FAULTS_MS)
        episodes.Episodes(cluster, faults, clients)
    else:
        faults = storm = Storm(cluster, world.now_ms + FAULTS_MS)
        if setting.elastic:
            reshaper = Reshaper(cluster)
            reshaper.calm(storm)
    while world.now_ms < faults.until_ms and not all(client.ops_left <= 0 for client in clients):
        world.run(world.now_ms + 1000)
    faults.until_ms = 0
    faults.mend()
    if reshaper is not None:
        reshaper.until_ms = 0
    world.say("*** healed")
    for client in clients:
        client.halt = True
    until_ms = world.now_ms + HEAL_MS
    while world.now_ms < until_ms and not (cluster.is_ready() and not any(client.busy for client in clients)):
        world.run(world.now_ms + 500)
    if not cluster.is_ready():
        raise ViolationError("convergence: the cluster is not ready again after everything was mended")
    world.run(world.now_ms + 3000)
    _probe(cluster, clients[0])


def _check_engines(cluster: SimCluster) -> None:
    """Internals agree, and no level holds more than its budget."""
    for process in cluster.processes:
        if process.alive and process.started is not None:
            process.engine.validate()
            used = process.engine.l1.bytes_used
            if used > process.engine.config.l1_bytes_max:
                raise ViolationError(f"budget: {process.name} holds {used} bytes in L1")


def _probe(cluster: SimCluster, client: ClientProcess) -> None:
    """Every range takes puts and gives them back, after a few tries: circuits have to close again."""
    world = cluster.world
    until_ms = world.now_ms + PROBE_MS
    wrong: dict[str, BaseException | None] = {f"k{number}": None for number in range(KEYS * 2)}

    def ended(key: str, error: BaseException | None) -> None:
        if error is None:
            wrong.pop(key, None)
        elif world.now_ms < until_ms:
            wrong[key] = error
            client.after(300, lambda: client.probe(key, partial(ended, key)))

    for key in list(wrong):
        client.probe(key, partial(ended, key))
    while wrong and world.now_ms < until_ms:
        world.run(world.now_ms + 500)
    if wrong:
        key, error = next(iter(wrong.items()))
        raise ViolationError(f"convergence: {key} can't be used after everything was mended: {error or 'no answer'}")
