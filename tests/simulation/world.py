"""Time, machines and processes of a simulated cluster: everything happens in one thread, in the order of one seed.

Invariants: time moves only in `World.run`; a process sees only its machine's clock, which may run up to 10 % fast; what
is delivered to a dead process is lost, to a stopped one it waits.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from random import Random

from stratacache.node.clock import Clock

EPOCH_MS = 1_700_000_000_000


class Timer:
    """Something that will happen unless it is cancelled."""

    __slots__ = ("cancelled", "fn")

    def __init__(self, fn: Callable[[], object]) -> None:
        self.fn = fn
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class World:
    """The true time in microseconds, the one source of randomness, and what was done to the cluster."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now_us = 0
        self.faults: Counter[str] = Counter()
        self.trace: Callable[[str], None] | None = None
        self._heap: list[tuple[int, int, Timer]] = []
        self._count = 0

    @property
    def now_ms(self) -> float:
        return self.now_us / 1000

    def after(self, ms: float, fn: Callable[[], object]) -> Timer:
        """Do it in `ms` milliseconds of true time."""
        timer = Timer(fn)
        self._count += 1
        heappush(self._heap, (self.now_us + max(0, int(ms * 1000)), self._count, timer))
        return timer

    def run(self, until_ms: float) -> None:
        """Let time pass."""
        until_us = int(until_ms * 1000)
        heap = self._heap
        while heap and heap[0][0] <= until_us:
            self.now_us, _, timer = heappop(heap)
            if not timer.cancelled:
                timer.fn()
        self.now_us = until_us

    def say(self, text: str) -> None:
        """One line for whoever replays the seed."""
        if self.trace is not None:
            self.trace(f"{self.now_us / 1e6:10.6f} {text}")


@dataclass(eq=False)
class Machine(Clock):
    """A machine: its name, and a monotonic clock of its own rate that outlives the processes on it."""

    world: World
    name: str
    rate: float
    boots: int = 1

    def now_ms(self) -> int:
        return EPOCH_MS + int(self.world.now_us * self.rate) // 1000

    def raise_to(self, floor_ms: int) -> None:
        """The clock of a machine is not lifted here."""

    def perf_ns(self) -> int:
        return int(self.world.now_us * self.rate) * 1000


class Process:
    """A process on a machine: alive, stopped (SIGSTOP) or dead."""

    def __init__(self, world: World, machine: Machine, name: str) -> None:
        self.world = world
        self.machine = machine
        self.name = name
        self.alive = True
        self.stopped = False
        self._inbox: deque[Callable[[], object]] = deque()
        self.on_death: list[Callable[[], object]] = []

    def deliver(self, fn: Callable[[], object]) -> None:
        """Have the process do something now, or when it runs again."""
        if not self.alive:
            return
        if self.stopped:
            self._inbox.append(fn)
        else:
            fn()

    def after(self, local_ms: float, fn: Callable[[], object]) -> Timer:
        """A timer on the machine's clock."""
        return self.world.after(local_ms / self.machine.rate, lambda: self.deliver(fn))

    def stop(self) -> None:
        self.stopped = True

    def resume(self) -> None:
        """Go on: what waited is done first, in its order."""
        self.stopped = False
        while self._inbox and self.alive and not self.stopped:
            self._inbox.popleft()()

    def die(self) -> None:
        """SIGKILL."""
        if self.alive:
            self.alive = False
            self._inbox.clear()
            self.world.say(f"{self.name} dies")
            for fn in self.on_death:
                fn()


class Loop:
    """As much of an event loop as a NodeServer and its connections ask for."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def call_later(self, seconds: float, fn: Callable[..., object], *arguments: object) -> Timer:
        return self._process.after(seconds * 1000, lambda: fn(*arguments))

    def call_soon(self, fn: Callable[..., object], *arguments: object) -> Timer:
        return self._process.after(0, lambda: fn(*arguments))

    call_soon_threadsafe = call_soon

    def time(self) -> float:
        return self._process.machine.now_ms() / 1000
