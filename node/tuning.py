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
import logging
import resource
import sys
from typing import Final

log = logging.getLogger(__name__)

YOUNG_OBJECTS: Final = 5_000
YOUNG_ROUNDS: Final = 5
NEVER: Final = 1 << 30
_M_ARENA_MAX: Final = -8  # malloc.h
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
HEAP_BLOCK_BYTES_MAX: Final = 32 << 20  # a larger block is mapped by itself
HEAP_FREE_BYTES_MAX: Final = 64 << 20
SWITCH_INTERVAL_S: Final = 0.001
"""How long the worker thread may keep the owner waiting for the interpreter; Python's default of 5 ms is a stall."""


def tune_process() -> None:
    """Set the garbage collector and thread switching for a serving process. Call it once, after the imports."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, YOUNG_ROUNDS, NEVER)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    _tune_heap()


FILES_BESIDE_CLIENTS: Final = 128


def allow_connections(count: int) -> None:
    """Let the process have so many connections at a time, as far as the system lets it; says so where it does not.

    A shell starts processes with 1,024 files, of which each client needs one.
    """
    wanted = count + FILES_BESIDE_CLIENTS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning("open files are limited to %d: no more than %d clients", hard, hard - FILES_BESIDE_CLIENTS)


def _tune_heap() -> None:
    """Have glibc use one heap for all threads, and keep some of what is freed at its end.

    What the worker has freed then serves the owner's next value. By itself glibc gives the end of its heap back when
    128 KiB are free there, so that a batch of puts faults in, page by page, what the one before it has given back: half
    of its time. It comes to these very thresholds where a block of 32 MiB was freed once.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, HEAP_BLOCK_BYTES_MAX)
        mallopt(_M_TRIM_THRESHOLD, HEAP_FREE_BYTES_MAX)
