"""What is remembered of an entry, packed into one int: last use, whether it is sampled, value, last interval, count.

    bits 25..  tick of the last use      a tick is 1/16 of the time in which as many requests come as entries are held
    bit  24    the key belongs to the sample that the shadow caches follow
    bits 16-23 value = 2 log2(cost_s / size) + 128
    bits 8-15  interval between the last two uses, in quarters of log2 of ticks, plus 1; 0: used once, or too long ago
    bits 0-7   number of uses, at most one a tick

Invariants: stamps are immutable and mean the same for every score function, so that these can be exchanged at any
moment; a later tick makes a greater stamp. Several uses within a tick count once: a burst is one use, as in LRU-K's
correlated reference period [1]. Because time is coarse, many entries share one int object.

[1] O'Neil, O'Neil, Weikum: The LRU-K page replacement algorithm, SIGMOD 1993.
"""

from __future__ import annotations

from functools import lru_cache
from math import log2
from typing import Final

TICKS: Final = 16
"""Ticks in the time of n requests, n being the entries held. 64 gave the same miss ratios, and shared fewer stamps."""

TICK_SHIFT: Final = 25
SAMPLED: Final = 1 << 24
STATE_MASK: Final = (1 << 24) - 1
VALUE_MASK: Final = 0xFF << 16
COUNT_MAX: Final = 255
GONE: Final = 1 << 120
"""`order` of an entry that is not held: later than every tick, so that a late hit on it changes nothing."""

INTERVAL_TICKS_MAX: Final = 4 * TICKS
"""A longer interval across an eviction tells nothing of the next one: it counts as unknown."""
MEMORY_TICKS: Final = 16 * TICKS
"""What was last used longer ago is a stranger when it comes back."""

_INTERVALS: Final = tuple(min(255, 1 + round(4 * log2(max(1, ticks)))) for ticks in range(1024))


@lru_cache(maxsize=512)
def value_bits(cost_s: float, size: int) -> int:
    """Cost per byte, on a logarithmic scale, in its place within a stamp."""
    value = round(2 * log2(max(cost_s, 1e-9) / max(size, 1))) + 128
    return min(max(value, 0), 255) << 16


def first_use(tick: int, value: int) -> int:
    """The stamp of a key that is not remembered."""
    return tick << TICK_SHIFT | value | 1


def next_use(stamp: int, tick: int) -> int:
    """The stamp after a use in a later tick of a held entry."""
    count = stamp & 255
    ticks = tick - (stamp >> TICK_SHIFT)
    return (
        tick << TICK_SHIFT
        | stamp & (SAMPLED | VALUE_MASK)
        | _INTERVALS[min(ticks, 1023)] << 8
        | (count + 1 if count < COUNT_MAX else count)
    )


def return_use(last_tick: int, count: int, tick: int, value: int) -> int:
    """The stamp of a key that comes back after it had left."""
    ticks = tick - last_tick
    if ticks > MEMORY_TICKS:
        return first_use(tick, value)
    interval = _INTERVALS[max(ticks, 1)] if ticks <= INTERVAL_TICKS_MAX else 0
    return tick << TICK_SHIFT | value | interval << 8 | min(count + 1, COUNT_MAX)
