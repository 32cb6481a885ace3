"""Shards that come and go: how shard processes reach each other for a handoff, and who asks for other shards.

One seed of four is resized, drained and weighted again and again, at times faster than anything can be handed
over. The windows, batches and bitmaps of these seeds are small, so that their ends are met.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from hiredis import ReplyError

from stratacache.client.transport.wire import check_greeting, pack
from stratacache.client.view import ShardInfo
from stratacache.cluster import intake, leftovers, membership, touched
from stratacache.cluster.intake import Refused
from stratacache.node.errors import UsageError
from tests.simulation.clients import Workload
from tests.simulation.sockets import Socket

if TYPE_CHECKING:
    from tests.simulation.cluster import SimCluster
    from tests.simulation.faults import Storm
    from tests.simulation.shards import ShardProcess

WORKLOAD = Workload(times=3, pauses_ms=(0, 5, 20, 100, 300))
"""Clients are busier than in other seeds, so that much is there to be moved, and is used while it moves."""
PAUSES_MS = (700.0, 3000.0, 6000.0)
SHARDS_MAX = 5


def sizes(shards: int) -> range:
    """How many shards a cluster may have that began with so many."""
    return range(1, SHARDS_MAX + 1) if shards <= SHARDS_MAX else range(shards - SHARDS_MAX, shards + SHARDS_MAX + 1)


def is_elastic(seed: int) -> bool:
    """Whether shards come and go in this seed."""
    return seed % 4 == 0


@contextmanager
def own_sizes() -> Iterator[None]:
    """What `choose_sizes` sets ends with the seed."""
    with (
        patch.object(touched, "BITS", touched.BITS),
        patch.object(leftovers, "BATCH_KEYS_MAX", leftovers.BATCH_KEYS_MAX),
        patch.object(leftovers, "LOOKS_A_STEP", leftovers.LOOKS_A_STEP),
        patch.object(intake, "FETCH_AFTER_MS", intake.FETCH_AFTER_MS),
        patch.object(intake, "BATCH_PAUSE_MS", intake.BATCH_PAUSE_MS),
    ):
        yield


def choose_sizes(random: Random) -> int:
    """Set how much is handed over at a time in this seed; gives the window's length."""
    touched.BITS = random.choice((16, 256, 1 << 16))
    leftovers.BATCH_KEYS_MAX = random.choice((1, 3, 200))
    leftovers.LOOKS_A_STEP = random.choice((1, 3000))
    intake.FETCH_AFTER_MS = random.choice((0, 3000, 10_000))
    intake.BATCH_PAUSE_MS = random.choice((5, 1000))
    return random.choice((1500, 6000, 20_000))


class SimPeers:
    """The `Peers` of a simulated shard process: connections to others, as a client's."""

    def __init__(self, process: ShardProcess) -> None:
        self._process = process
        self._idle: dict[ShardInfo, list[Socket]] = {}
        self._all: list[Socket] = []
        process.on_death.append(lambda: [socket.close() for socket in self._all])

    def after(self, ms: int, fn: Callable[[], None]) -> None:
        """Call `fn` in so many milliseconds."""
        self._process.after(ms, fn)

    def ask(self, shard: ShardInfo, argv: Sequence[bytes], deadline_ms: int, done: Callable[[Any], None]) -> None:
        """Send a command to this process of a shard."""
        process = self._process
        ended = False

        def end(reply: Any) -> None:
            nonlocal ended
            if not ended:
                ended = True
                timer.cancel()
                process.after(0, lambda: done(reply))

        def late() -> None:
            socket.close()
            end(None)

        def answered(replies: list[Any] | str) -> None:
            if isinstance(replies, str):
                end(None)
                return
            self._idle.setdefault(shard, []).append(socket)
            reply = replies[0]
            end(Refused(str(reply)) if isinstance(reply, ReplyError) else reply)

        def send() -> None:
            socket.send(pack([tuple(argv)]), 1, answered)

        def greeted(replies: list[Any] | str) -> None:
            if isinstance(replies, str) or check_greeting(replies, shard, exact=False) is not None:
                socket.close()
                end(None)
            elif not ended:
                send()

        timer = process.after(deadline_ms, late)
        idle = [one for one in self._idle.pop(shard, ()) if not one.closed]
        if idle:
            socket = idle.pop()
            self._idle[shard] = idle
            send()
        else:
            socket = Socket(process, process.cluster, shard)
            self._all.append(socket)
            socket.open(greeted)


def count_entries(cluster: SimCluster) -> None:
    """Count what was handed over, and what was not, with the faults."""
    for process in cluster.processes:
        if process.started is not None:
            for what, count in process.handoffs.stats().items():
                if count and what != "left":
                    cluster.world.faults[f"moved entries {what}"] += count


class Reshaper:
    """Asks for other shards and weights until a moment."""

    def __init__(self, cluster: SimCluster) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.random = cluster.world.random
        self.until_ms = float("inf")
        self._pause_ms = self.random.choice(PAUSES_MS)
        self._last: dict[str, float] = {}
        self.world.after(self.random.uniform(200, 3000), self._next)

    def calm(self, faults: Storm) -> None:
        """Leave most seeds time to hand something over."""
        if self.random.random() < 0.7:
            faults.pause_ms *= self.random.choice((3, 10))
        if self.random.random() < 0.5:  # shards come to know of a view at different times
            network = self.cluster.network
            network.slow_share, network.slow_ms = 0.3, self.random.choice((300.0, 1500.0))

    def _next(self) -> None:
        if self.world.now_ms >= self.until_ms:
            return
        coordinator = self.cluster.control.coordinator
        if coordinator is not None and coordinator.alive and not coordinator.stopped:
            try:
                target = self._target(coordinator.core.target)
            except UsageError:
                target = None
            if target is not None and target != coordinator.core.target:
                self._last = dict(coordinator.core.target)
                self.world.faults["targets set"] += 1
                self.world.say(f"*** wanted: {target}")
                coordinator.aim(target)
        self.world.after(self.random.uniform(0.1, 2) * self._pause_ms, self._next)

    def _target(self, now: dict[str, float]) -> dict[str, float]:
        random = self.random
        draw = random.random()
        if draw < 0.3 and self._last:
            return self._last  # and back
        if draw < 0.75:
            return membership.resized(now, random.choice(sizes(self.cluster.config.shards)), {})
        if draw < 0.9:
            return membership.without(now, random.choice(sorted(now)))
        return membership.resized(now, None, {random.choice(sorted(now)): random.choice((0.25, 1.0, 3.0))})
