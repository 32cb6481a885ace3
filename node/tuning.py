"""How a process that holds a large node should run Python; for processes of our own only, never for a caller's.

A node of a million entries has a million objects that the cyclic garbage collector would walk again and again
although entries never form cycles: a full collection takes more than 100 ms, in which nobody is served. So entries are
let out of it: young generations are collected often and in small portions, the old one never by itself. What that
costs: cyclic garbage that has become old stays; a serving process makes next to none (measured by `make soak`).

Invariants: a process that has called `tune_process` sees no pause of the collector above a few milliseconds.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Final

YOUNG_OBJECTS: Final = 5_000
YOUNG_ROUNDS: Final = 5
NEVER: Final = 1 << 30
_M_ARENA_MAX: Final = -8  # malloc.h
SWITCH_INTERVAL_S: Final = 0.001
"""How long the worker thread may keep the owner waiting for the interpreter; Python's default of 5 ms is a stall."""


def tune_process() -> None:
    """Set the garbage collector and thread switching for a serving process. Call it once, after the imports."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, YOUNG_ROUNDS, NEVER)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    _share_heap()


def _share_heap() -> None:
    """Have glibc use one heap for all threads: what the worker has freed serves the owner's next value."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
