"""The network between machines: delays, one-way cuts, calls that get lost, byte streams that get stuck.

Two kinds of traffic. A `call` is one message each way, as Ray's: it may be lost, come twice, or overtake another. A
`Pipe` is one direction of a TCP connection: in order, whole, and what is cut off arrives when the cut is mended, even
if the sender has closed its end meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from tests.simulation.world import Process, World

RETRY_MS = 40.0


class Network:
    """Who can't reach whom, and how slow it is."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.cuts: dict[tuple[str, str], int] = {}
        self.loss = 0.0
        self.duplication = 0.0
        self.slow_share = 0.02
        self.slow_ms = 400.0

    def cut(self, source: str, target: str) -> None:
        """Cut one direction between two machines."""
        if source != target:
            self.cuts[source, target] = self.cuts.get((source, target), 0) + 1

    def mend(self, source: str, target: str) -> None:
        """Undo one cut."""
        left = self.cuts.get((source, target), 0) - 1
        if left > 0:
            self.cuts[source, target] = left
        else:
            self.cuts.pop((source, target), None)

    def is_cut(self, source: Process, target: Process) -> bool:
        return bool(self.cuts) and (source.machine.name, target.machine.name) in self.cuts

    def delay_ms(self, source: Process, target: Process) -> float:
        random = self.world.random
        if source.machine is target.machine:
            return random.uniform(0.02, 0.3)
        if random.random() < self.slow_share:
            return random.uniform(1, self.slow_ms)
        return random.uniform(0.1, 3)

    def send(self, source: Process, target: Process, fn: Callable[[], object], *, twice: bool = False) -> None:
        """One message; lost by chance or by a cut, and sometimes delivered `twice`."""
        random = self.world.random
        if self.is_cut(source, target) or (self.loss and random.random() < self.loss):
            self.world.faults["messages lost"] += 1
            return
        self.world.after(self.delay_ms(source, target), lambda: target.deliver(fn))
        if twice and self.duplication and random.random() < self.duplication:
            self.world.faults["messages doubled"] += 1
            self.world.after(self.delay_ms(source, target) * 3, lambda: target.deliver(fn))

    def call(
        self,
        source: Process,
        target: Process,
        handler: Callable[[Callable[[Any], None]], None],
        done: Callable[[Any], None],
        *,
        timeout_ms: float,
        twice: bool = False,
    ) -> None:
        """Ask `target`; `done` gets the answer, or None when there was none in time. `handler` is given `reply`."""
        finished = False

        def finish(answer: Any) -> None:
            nonlocal finished
            if not finished:
                finished = True
                timer.cancel()
                done(answer)

        timer = source.after(timeout_ms, lambda: finish(None))
        reply = lambda answer: self.send(target, source, lambda: finish(answer))  # noqa: E731
        self.send(source, target, lambda: handler(reply), twice=twice)


class Pipe:
    """One direction of a connection; `deliver` gets chunks, then None at the end."""

    def __init__(
        self, network: Network, source: Process, target: Process, deliver: Callable[[bytes | None], None]
    ) -> None:
        self._network = network
        self._source = source
        self._target = target
        self._deliver = deliver
        self._queue: deque[tuple[int, bytes | None]] = deque()
        self._ready_us = 0
        self._pumping = False
        self._closed = False

    def send(self, chunk: bytes | None) -> None:
        """Hand a chunk to the kernel (None: close). It leaves even if the process dies right after."""
        if self._closed:
            return
        self._closed = chunk is None
        world = self._network.world
        delay_ms = self._network.delay_ms(self._source, self._target)
        self._ready_us = max(self._ready_us, world.now_us + int(1000 * delay_ms))
        self._queue.append((self._ready_us, chunk))
        self._pump()

    def _pump(self) -> None:
        if self._queue and not self._pumping:
            self._pumping = True
            wait_us = self._queue[0][0] - self._network.world.now_us
            self._network.world.after(max(0, wait_us) / 1000, self._arrive)

    def _arrive(self) -> None:
        self._pumping = False
        if self._network.is_cut(self._source, self._target):
            self._pumping = True
            self._network.world.after(RETRY_MS, self._arrive)
            return
        _, chunk = self._queue.popleft()
        self._target.deliver(lambda: self._deliver(chunk))
        self._pump()
