"""What is remembered of an entry, packed into one int: last use, whether it is sampled, value, last interval, uses.

    bits 25..  tick of the last use      a tick is 1/16 of the time in which as many requests come as entries are held
    bit  24    the key belongs to the sample that the shadow caches follow
    bits 16-23 value = 2 log2(cost_s / size) + 128
    bits 8-15  interval between the last two uses, in quarters of log2 of ticks, plus 1; 0: used once, or too long ago
    bits 0-7   level of the number of uses: 1, 2, 3, 4, 6, 8, 12, 16, 24 ... are levels 1, 2, 3 ...

Invariants: stamps are immutable and mean the same for every score function, so that these can be exchanged at any
moment; a later tick makes a greater stamp. Several uses within a tick count once: a burst is one use, as in LRU-K's
correlated reference period [1]. Uses are counted as Morris does [2], with the tick for a die: a level is left in one
tick of so many as it spans. A stamp lies in its entry as a plain number where the modules are compiled; where they are
not it is an object of 32 bytes, and because time and counts are coarse many entries can share one (`COMPILED`).

[1] O'Neil, O'Neil, Weikum: The LRU-K page replacement algorithm, SIGMOD 1993.
[2] Morris: Counting large numbers of events in small registers, CACM 1978.
"""

from __future__ import annotations

from itertools import pairwise
from math import log, log2
from typing import Final

from mypy_extensions import i64

COMPILED: Final = not __file__.endswith(".py")
"""Whether stamps need no sharing."""

TICKS: Final = 16
"""Ticks in the time of n requests, n being the entries held. 64 gave the same miss ratios, and shared fewer stamps."""

TICK_SHIFT: Final = 25
AGE_SHIFT: Final = 8
"""What is recalled of a key that had left: ticks since the last use, above the level."""
SAMPLED: Final = 1 << 24
VALUE_SHIFT: Final = 16
VALUE_MASK: Final = 0xFF << VALUE_SHIFT
INTERVAL_SHIFT: Final = 8
INTERVAL_MASK: Final = 0xFF << INTERVAL_SHIFT
LEVEL_MASK: Final = 0xFF
KEPT_MASK: Final = SAMPLED | VALUE_MASK
"""What a use does not change."""
GONE: Final = 1 << 61
"""Stamp of an entry that is not held: later than every tick, so that a late hit on it changes nothing."""

_PER_LOG: Final = 2 / log(2)  # compiled, log is the C library's and log2 a call of Python's
INTERVAL_TICKS_MAX: Final = 4 * TICKS
"""A longer interval across an eviction tells nothing of the next one: it counts as unknown."""
MEMORY_TICKS: Final = 8 * TICKS
"""What was last used longer ago is a stranger when it comes back."""

INTERVALS_MAX: Final = 1024
INTERVALS: Final = bytes([min(255, 1 + round(4 * log2(max(1, ticks)))) for ticks in range(INTERVALS_MAX + 1)])
"""An interval as the stamp has it, by its ticks. Tables that a hit reads are bytes: they hold no objects."""
_USES: Final = (1, 1, *(int(uses * 2**power) for power in range(1, 11) for uses in (1, 1.5)))
LOG2_USES: Final = tuple(log2(uses) for uses in _USES)
"""log2 of the number of uses, by level."""
LEVEL_MAX: Final = len(_USES) - 1
_SPANS: Final = tuple(after - uses for uses, after in pairwise(_USES))
_LEVELS_AFTER: Final = [
    bytes([level + (level < LEVEL_MAX and _SPANS[level] <= 1 << zeros) for level in range(LEVEL_MAX + 1)])
    for zeros in range(_SPANS[-1].bit_length())
]
"""By the number of zeros at the end of the die: a level that spans 2^k is left when there are k of them."""


def value_bits(cost_s: float, size: int) -> int:
    """Cost per byte, on a logarithmic scale, in its place within a stamp."""
    value = int(_PER_LOG * log(max(cost_s, 1e-9) / max(size, 1)) + 128.5)
    return min(max(value, 0), 255) << VALUE_SHIFT


def first_use(tick: i64, value: i64) -> i64:
    """The stamp of a key that is not remembered."""
    return tick << TICK_SHIFT | value | 1


def return_use(remembered: i64, now: i64, levels_after: bytes) -> i64:
    """The stamp of a key that comes back after it had left, from what `Ghosts.recall` gives.

    `now`: tick and value in their places; `levels_after`: of this tick.
    """
    ticks = remembered >> AGE_SHIFT
    if ticks > MEMORY_TICKS:
        return now | 1
    stamp: i64 = now | levels_after[remembered & LEVEL_MASK]
    if ticks <= INTERVAL_TICKS_MAX:
        stamp |= INTERVALS[ticks] << INTERVAL_SHIFT
    return stamp


def next_use(stamp: i64, now: i64, levels_after: bytes) -> i64:
    """The stamp after a use in a later tick of a held entry; policy.py has it inlined for hits.

    `now`: the tick in its place; `levels_after`: of this tick.
    """
    ticks = (now >> TICK_SHIFT) - (stamp >> TICK_SHIFT)
    ticks = min(ticks, INTERVALS_MAX)
    return now | stamp & KEPT_MASK | INTERVALS[ticks] << INTERVAL_SHIFT | levels_after[stamp & LEVEL_MASK]


def levels_after(tick: int) -> bytes:
    """Level after a use in this tick, by level before it."""
    die = tick * 0x9E3779B1 >> 12 | _SPANS[-1]
    return _LEVELS_AFTER[(die & -die).bit_length() - 1]
