"""What survives the processes of a shard: its state file, its lock, and a disk, which is a double or the real L3.

The double is quick: a process leaves all, or a random part, of what it held to its successor. The real one is LMDB in
a folder of its own (`--disk real`): the engine's worker is a queue of this simulation, so that a process can die
between any two of its jobs; nothing is flushed then. Invariant: a process that has ended has nothing open.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from unittest.mock import patch

from stratacache.cluster import messages as m
from stratacache.node import handoff
from stratacache.node.config import NodeConfig, WriteMode
from stratacache.node.engine import MultiLevelCache
from stratacache.node.levels import recovery
from stratacache.node.levels.sidefile import SideFile
from stratacache.node.levels.store import RecordStore
from tests.simulation.world import Process

if TYPE_CHECKING:
    from stratacache.node.levels.sidefile import Stamp
    from tests.simulation.shards import ShardProcess

L3_BYTES = 4 << 20
BEFORE = "data.mdb.before"
SLOW_MS = (0.1, 0.1, 0.1, 2, 20, 300)
"""How long a job of the disk takes."""


class Disk(Protocol):
    """What one directory holds."""

    def open(self, process: ShardProcess, made: type[MultiLevelCache]) -> MultiLevelCache:
        """An engine with what is there."""

    def leave(self, process: ShardProcess) -> None:
        """The process has died."""

    def flush(self) -> None:
        """Write what waits."""

    def lose_power(self) -> None:
        """The machine goes down after its processes: what was not flushed may be lost."""

    def wipe(self) -> None:
        """Another disk takes its place."""


@dataclass
class Home:
    """A shard's directory on one machine: what survives its processes."""

    fence: str
    disk: Disk
    stored: m.Stored | None = None
    holder: Process | None = None

    def wipe(self) -> None:
        """The disk was lost, and another one took its place."""
        self.stored = None
        self.disk.wipe()


@dataclass
class Record:
    """One entry on a disk."""

    key: bytes
    payload: bytes
    expires_ms: int
    tags: tuple[bytes, ...]
    codec: int


@dataclass
class DiskDouble:
    """A part of what a process held when it ended."""

    records: list[Record] = field(default_factory=list)

    def open(self, process: ShardProcess, made: type[MultiLevelCache]) -> MultiLevelCache:
        """As Disk.open."""
        config = NodeConfig(l1_bytes_max=process.cluster.config.l1_bytes_max, seed=process.incarnation)
        engine = made(config, clock=process.machine, post=process.soon)
        for record in self.records:
            MultiLevelCache.put(
                engine,
                record.key,
                record.payload,
                expires_ms=record.expires_ms,
                tags=record.tags,
                codec=record.codec,
            )
        return engine

    def leave(self, process: ShardProcess) -> None:
        """As Disk.leave."""
        if not process.cluster.has_disk:
            return
        now_ms = process.machine.now_ms()
        random = process.world.random
        unsettled = process.replication.outbox.unsettled if process.replication is not None else ()
        kept = 1.0 if random.random() < 0.5 else 0.8
        self.records = [
            Record(one.key, one.payload, one.expires_ms, one.tags, one.codec)
            for one in process.engine.table.values()
            if one.expires_ms > now_ms and random.random() < kept and one.key not in unsettled
        ]

    def flush(self) -> None:
        """Nothing waits."""

    def lose_power(self) -> None:
        """Part of what was held is lost anyhow."""

    def wipe(self) -> None:
        """As Disk.wipe."""
        self.records = []


class DiskWorker:
    """The engine's worker: one job at a time, urgent ones first, each after a while; none once its process is dead."""

    def __init__(self, process: ShardProcess) -> None:
        self.stopped = False
        self._process = process
        self._jobs: list[tuple[bool, int, Callable[[], None]]] = []
        self._count = 0
        self._busy = False

    def submit(self, job: Callable[[], None], *, urgent: bool = False) -> None:
        """As Worker.submit."""
        self._count += 1
        heappush(self._jobs, (not urgent, self._count, job))
        if not self._busy:
            self._busy = True
            self._wait()

    def _wait(self) -> None:
        self._process.after(self._process.world.random.choice(SLOW_MS), self._work)

    def _work(self) -> None:
        if self._jobs:
            heappop(self._jobs)[2]()
        self._busy = bool(self._jobs)
        if self._busy:
            self._wait()

    def run_urgent(self) -> None:
        """As Worker.run_urgent."""
        while self._jobs and not self._jobs[0][0]:
            heappop(self._jobs)[2]()

    def run_all(self) -> None:
        """Do what waits now."""
        while self._jobs:
            heappop(self._jobs)[2]()

    def stop(self, deadline_s: float) -> bool:
        """As Worker.stop."""
        self.stopped = True
        return True


class RealDisk:
    """A folder with the L3 of the engine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._engine: MultiLevelCache | None = None
        self._worker: DiskWorker | None = None
        self._behind = False

    def open(self, process: ShardProcess, made: type[MultiLevelCache]) -> MultiLevelCache:
        """As Disk.open."""
        cluster, random = process.cluster, process.world.random
        through = cluster.config.replicas == 1 and random.random() < 0.25
        config = NodeConfig(
            l1_bytes_max=cluster.config.l1_bytes_max,
            l3_bytes_max=L3_BYTES if cluster.has_disk else 0,
            data_dir=self._folder if cluster.has_disk else None,
            l3_write_mode=WriteMode.WRITE_THROUGH if through else WriteMode.WRITE_BEHIND,
            flush_after_ms=random.choice((1, 100, 1000)),
            seed=process.incarnation,
        )
        self._behind = not through
        if (self._folder / "data.mdb").exists():
            shutil.copyfile(self._folder / "data.mdb", self._folder / BEFORE)
        worker = self._worker = DiskWorker(process)
        with (
            patch.object(handoff, "Worker", lambda _: worker),
            patch.object(recovery, "_probe", _probe),
            patch.object(recovery, "read_boot_id", lambda: b"boot %d" % process.machine.boots),
        ):
            engine = self._engine = made(config, clock=process.machine, post=process.soon)
        return engine

    def leave(self, process: ShardProcess) -> None:
        """The kernel closes what a killed process had open; what was mapped stays as it is."""
        engine, self._engine = self._engine, None
        opened: Any = engine.l3._open if engine is not None and engine.l3 is not None else None
        if opened is not None:
            opened.store.close(sync=False)
            opened.side.close()
            os.close(opened.lock)

    def flush(self) -> None:
        """As Disk.flush."""
        if self._worker is not None:
            self._worker.run_all()

    def lose_power(self) -> None:
        """What was written behind since the last process began is not on the disk; the rest of it is."""
        before = self._folder / BEFORE
        if self._behind and before.exists():
            shutil.copyfile(before, self._folder / "data.mdb")

    def wipe(self) -> None:
        """As Disk.wipe."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _probe(data: Path, bytes_max: int, side: SideFile) -> str:
    """As recovery._probe, in this process: these files are whole."""
    store = RecordStore(data, bytes_max, sync=False, side=None)
    stamp: Stamp = store.check()[0]
    store.close(sync=False)
    return "" if stamp in side.stamps() else "its records do not add up to what was written"
