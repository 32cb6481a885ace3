"""The counter by which everything ends that must not be believed for longer: it runs on while the machine sleeps.

A TTL, a serving lease, a near cache's trust in what it heard: each says "until then", and whoever is meant is not asked
again before. `time.monotonic` is no measure of it: on Linux and macOS it stands still while the machine is suspended,
and the others go on meanwhile. Waits, retries and durations of work are measured by `time.monotonic`, as everywhere.

Invariants: `elapsed_s` never goes back; it counts the time that the machine was suspended, where the system tells. What
is told to nobody can't be counted: a virtual machine that its host stopped, or moved, and that was not told of it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Final

NAMES: Final = {"linux": "CLOCK_BOOTTIME", "darwin": "CLOCK_MONOTONIC"}
"""The clock that counts suspended time, by system. macOS has it under the name of the one that does not on Linux, and
there `time.monotonic` reads another."""


def sleepless_clock() -> int | None:
    """The id of the clock that counts suspended time; None where there is none to be read."""
    which: int | None = getattr(time, NAMES.get(sys.platform, ""), None)
    try:
        if which is not None:
            time.clock_gettime(which)
    except OSError:
        return None
    return which


_WHICH: Final = sleepless_clock()

# Bound once, for it stands on the path of every hit: a function of our own would cost a quarter more.
elapsed_s: Final[Callable[[], float]] = time.monotonic if _WHICH is None else partial(time.clock_gettime, _WHICH)
