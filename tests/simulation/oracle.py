"""What may be returned: the history of all operations in true time, and the rules that it must keep.

A miss is legal but counts as a delete: what was in effect before a get that missed must not come back. "The owner
can't be reached" is no miss. Values are unique, so a returned value names the write it comes from.

Rules, as in docs/CORRECTNESS.md: I1 no resurrection, I2 no step back, I3 no mixture, I4 kept when promised, TTL, one
process serves a range, one view per epoch, epochs never fall.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stratacache.client.view import View

if TYPE_CHECKING:
    from tests.simulation.coordinators import CoordinatorProcess
    from tests.simulation.shards import ShardProcess
    from tests.simulation.world import World

NEVER = float("inf")
TTL_SLACK = 1.15  # the slowest and the fastest clock differ by 10 %


KEPT_LOOKS = 3


class ViolationError(AssertionError):
    """The cluster lied."""


@dataclass(eq=False, slots=True)
class Write:
    """A put, or a fill under a lease. Times are true milliseconds.

    `bound`: from when on an invalidation that begins covers it (the put was acknowledged, or the lease was taken).
    `known`: from when on it is certain that it took effect.
    """

    value: bytes
    key: bytes
    tags: frozenset[bytes]
    namespace: bytes
    start: float
    bound: float = NEVER
    known: float = NEVER
    ttl_ms: float = NEVER
    fill: bool = False
    what: str = ""

    def __str__(self) -> str:
        return f"{self.what} {self.value.decode()} [{self.start:.1f}, known {self.known:.1f}]"


@dataclass(eq=False, slots=True)
class Invalidation:
    """An invalidation; `end` is when it was acknowledged."""

    kind: str
    names: frozenset[bytes]
    start: float
    end: float = NEVER
    what: str = ""

    def covers(self, write: Write) -> bool:
        match self.kind:
            case "keys":
                return write.key in self.names
            case "tags":
                return bool(write.tags & self.names)
            case "namespace":
                return write.namespace in self.names
            case _:
                return True


@dataclass
class Oracle:
    """Records, and judges every read when it ends."""

    world: World
    replicas: int = 1
    keeps: bool = False
    """Whether an acknowledged write must be found until it is invalidated or expires."""
    writes: dict[bytes, Write] = field(default_factory=dict)
    by_key: dict[bytes, list[Write]] = field(default_factory=dict)
    invalidations: list[Invalidation] = field(default_factory=list)
    misses: dict[bytes, list[tuple[float, float]]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    views: dict[int, View] = field(default_factory=dict)
    _epochs: dict[str, int] = field(default_factory=dict)

    # -------------------------------------------------------------- clients

    def write(self, write: Write) -> Write:
        """A write begins."""
        self.writes[write.value] = write
        self.by_key.setdefault(write.key, []).append(write)
        return write

    def stored(self, write: Write) -> None:
        """A write was acknowledged."""
        now = self.world.now_ms
        write.known = min(write.known, now)
        write.bound = min(write.bound, now)
        self.counts["writes acknowledged"] += 1

    def invalidate(self, one: Invalidation) -> Invalidation:
        """An invalidation begins."""
        self.invalidations.append(one)
        return one

    def acknowledged(self, one: Invalidation) -> None:
        """An invalidation was acknowledged."""
        one.end = self.world.now_ms
        self.counts["invalidations acknowledged"] += 1

    def read(self, reader: str, key: bytes, start: float, value: bytes | None) -> None:
        """A get that began at `start` gives a value, or None for a miss."""
        end = self.world.now_ms
        if value is None:
            self.counts["misses"] += 1
            self.misses.setdefault(key, []).append((start, end))
            if self.keeps:
                self._check_kept(key, start, f"{reader} get {key.decode()} [{start:.1f}, {end:.1f}]")
            return
        self.counts["hits"] += 1
        write = self.writes.get(value)
        who = f"{reader} get {key.decode()} [{start:.1f}, {end:.1f}]"
        if write is None or write.key != key or write.start > end:
            raise ViolationError(f"I3 mixture: {who} gave {value!r}, which was never put for this key")
        self._check_invalidations(write, start, who)
        self._check_step_back(write, start, who)
        if start > write.known + write.ttl_ms * TTL_SLACK:
            raise ViolationError(f"TTL: {who} gave {write}, which had expired")
        write.known = min(write.known, end)
        write.bound = min(write.bound, end)

    def _check_invalidations(self, write: Write, start: float, who: str) -> None:
        for one in self.invalidations:
            if one.end <= start and write.bound <= one.start and one.covers(write):
                raise ViolationError(
                    f"I1 resurrection: {who} gave {write}, which {one.what} [{one.start:.1f}, {one.end:.1f}] covers"
                )

    def _check_step_back(self, write: Write, start: float, who: str) -> None:
        for other in self.by_key[write.key]:
            if other is not write and other.known <= start and write.bound <= other.start:
                raise ViolationError(f"I2 step back: {who} gave {write}, older than {other}")
        if self.replicas > 1:
            return  # what one owner has evicted another may still hold: the value is as true as it was
        for missed_start, missed_end in self.misses.get(write.key, ()):
            if missed_end <= start and write.known <= missed_start:
                raise ViolationError(
                    f"I2 step back: {who} gave {write}, which a get had missed [{missed_start:.1f}, {missed_end:.1f}]"
                )

    def _check_kept(self, key: bytes, start: float, who: str) -> None:
        """Nothing is evicted here and some owner always lives on: what is gone was invalidated, or has expired."""
        writes = self.by_key.get(key, [])
        settled = [write for write in writes if write.known <= start]
        for write in settled[-KEPT_LOOKS:]:
            last = [one for one in writes if one.known >= write.start]  # any of these may be what was there
            if not any(self._may_be_gone(one) for one in last):
                raise ViolationError(f"I4 lost: {who} missed {write}")
        self.counts["misses that nothing was promised for"] += 1

    def _may_be_gone(self, write: Write) -> bool:
        if self.world.now_ms >= write.start + write.ttl_ms / TTL_SLACK:
            return True
        return any(one.end >= write.start and one.covers(write) for one in self.invalidations)

    # -------------------------------------------------------------- inside

    def serves(self, process: ShardProcess) -> None:
        """A process is about to answer data commands."""
        others = [one.name for one in process.cluster.serving(process.shard) if one is not process]
        if others:
            raise ViolationError(f"fencing: {process.name} and {', '.join(others)} serve one range at a time")

    def saw_view(self, view: View, who: str) -> None:
        """A shard works under a view."""
        known = self.views.setdefault(view.epoch, view)
        if known != view:
            raise ViolationError(f"views: {who} works under another view of epoch {view.epoch}")
        if view.epoch < self._epochs.get(who, 0):
            raise ViolationError(f"views: the epoch of {who} fell to {view.epoch}")
        self._epochs[who] = view.epoch

    def saw_epoch(self, coordinator: CoordinatorProcess) -> None:
        """A coordinator has decided something."""
        epoch = coordinator.core.epoch
        if epoch < self._epochs.get(coordinator.name, 0):
            raise ViolationError(f"views: the epoch of {coordinator.name} fell to {epoch}")
        self._epochs[coordinator.name] = epoch
