"""The only place of the node that looks at a clock, by the counter of `elapsed.py`.

Invariants: `now_ms` never goes back, not even when the wall clock does, and not across a restart when the high-water
mark that was stored is handed in: an entry that was once expired stays expired. It goes on while the machine sleeps:
what was to end meanwhile has ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from mypy_extensions import i64, mypyc_attr

from .elapsed import elapsed_s


@mypyc_attr(allow_interpreted_subclasses=True)
class Clock:
    """What the core asks for: milliseconds since the epoch, and a fine counter for measuring.

    A base class and no protocol, so that compiled code calls its methods directly.
    """

    def now_ms(self) -> int:
        """Milliseconds since the epoch; never goes back."""
        raise NotImplementedError

    def raise_to(self, floor_ms: int) -> None:
        """Never tell a time before `floor_ms` again."""
        raise NotImplementedError

    def perf_ns(self) -> int:
        """Nanoseconds of a monotonic counter, for durations only."""
        raise NotImplementedError


class NodeClock(Clock):
    """Epoch milliseconds that only a counter of elapsed time moves.

    The wall clock is read once, at the start; a step of it later on is not seen. `raise_to` lifts the clock to the
    high-water mark of an earlier run, so that a wall clock that was set back revives nothing.
    """

    def __init__(self, wall_s: Callable[[], float] = time.time, counter_s: Callable[[], float] = elapsed_s) -> None:
        self._counter_s = counter_s
        self._offset_ms: i64 = int(wall_s() * 1000) - int(counter_s() * 1000)

    def now_ms(self) -> int:
        """Milliseconds since the epoch; never goes back."""
        counter_ms: i64 = int(self._counter_s() * 1000)  # seconds, for Python makes a float faster than a large int
        return counter_ms + self._offset_ms

    def raise_to(self, floor_ms: int) -> None:
        """Never tell a time before `floor_ms` again."""
        behind_ms = floor_ms - self.now_ms()
        if behind_ms > 0:
            self._offset_ms += behind_ms

    def perf_ns(self) -> int:
        """Nanoseconds of a monotonic counter, for durations only."""
        return time.perf_counter_ns()


class ManualClock(Clock):
    """A clock that stands still until it is moved: for tests and simulation."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        """Milliseconds since the epoch; never goes back."""
        return self._now_ms

    def raise_to(self, floor_ms: int) -> None:
        """Never tell a time before `floor_ms` again."""
        self._now_ms = max(self._now_ms, floor_ms)

    def perf_ns(self) -> int:
        """Nanoseconds that follow the manual time."""
        return self._now_ms * 1_000_000

    def advance(self, ms: int) -> None:
        """Move on by `ms` milliseconds."""
        self._now_ms += ms
