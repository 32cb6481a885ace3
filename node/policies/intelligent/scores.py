"""The score functions: each says, from a stamp and the present tick, how much an entry is worth. The lowest leaves.

Invariants: scores read nothing but stamps; scores of different functions are never compared.

With t the tick of the last use, f the count, v = log2(cost / size), age = now - t, and n requests = 16 ticks:

    recency      t + lambda n (log2 f + v)          lambda 1/4: near LRU; 64: value density [1, 2]
    rate         log2 f + v - log2(age + c n)       hits to come if uses go on as until now [3]
    reuse        v - log2(max(age, interval))       the next use is as far as the last was; once seen = never [4]
    reuse, mild  the same + log2(f) / 4, once seen = 4 n

Each is the sum of a term by count, one by value and one by age, where those of reuse take the interval if it is longer:
four tables, read by parts of the stamp.

[1] Lee et al.: LRFU, IEEE Transactions on Computers 2001. [2] Cherkasova: GreedyDual-Size-Frequency, HP Labs 1998.
[3] Blankstein et al.: Hyperbolic caching, USENIX ATC 2017. [4] Jiang, Zhang: LIRS, SIGMETRICS 2002.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log2
from typing import Final

from mypy_extensions import i64

from .stamps import INTERVAL_SHIFT, LEVEL_MASK, LOG2_USES, TICK_SHIFT, TICKS, VALUE_SHIFT

_NEVER: Final = 32.0  # log2 of ticks
_AGES: Final = 64 * TICKS
_SLACK: Final = 0.125
"""log2 of how much longer than its interval the age of an entry must be before it counts: intervals are rounded so.
Without it a loop lost, in each round, those residents whose turn was next."""
_FIELD: Final = 0xFF  # value, interval


class Score:
    """Ranks stamps; a lower number leaves first."""

    __slots__ = ("_ages", "_by_age", "_intervals", "_uses", "_values", "name")

    def __init__(
        self,
        name: str,
        value_weight: float,
        uses_weight: float,
        by_age: Callable[[int], float],
        once_seen: float | None = None,
    ) -> None:
        """`by_age`: what so many ticks cost. `once_seen`: log2 of the interval of an entry without one.

        None: intervals do not matter.
        """
        self.name = name
        self._uses = [uses_weight * uses for uses in LOG2_USES]
        self._values = [value_weight * (value - 128) / 2 for value in range(256)]
        self._by_age = by_age
        self._ages = [by_age(age) for age in range(_AGES)]
        self._intervals: list[float] = []
        if once_seen is not None:
            self._intervals = [once_seen, *((quarters - 1) / 4 for quarters in range(1, 256))]

    def rank(self, stamps: list[int], tick: int) -> list[float]:
        """One number for each stamp."""
        uses, values, ages, intervals = self._uses, self._values, self._ages, self._intervals
        now: i64 = tick
        ranks: list[float] = []
        if intervals:
            for stamp in stamps:
                bits: i64 = stamp
                age = now - (bits >> TICK_SHIFT)
                lost = ages[age] if age < _AGES else self._by_age(age)
                interval = intervals[bits >> INTERVAL_SHIFT & _FIELD]
                worth = uses[bits & LEVEL_MASK] + values[bits >> VALUE_SHIFT & _FIELD]
                ranks.append(worth - (max(lost, interval)))
        else:
            for stamp in stamps:
                bits = stamp
                age = now - (bits >> TICK_SHIFT)
                lost = ages[age] if age < _AGES else self._by_age(age)
                ranks.append(uses[bits & LEVEL_MASK] + values[bits >> VALUE_SHIFT & _FIELD] - lost)
        return ranks


def lowest(ranks: list[float], count: int) -> list[int]:
    """Where the lowest ranks stand, the lowest last; of equals the first."""
    if count >= len(ranks):
        found = list(range(len(ranks)))
    else:
        limit = sorted(ranks)[count - 1]
        found = [at for at, rank in enumerate(ranks) if rank <= limit]
        at = len(found) - 1
        while len(found) > count:
            if ranks[found[at]] == limit:
                del found[at]
            at -= 1
    found.sort(key=ranks.__getitem__)
    found.reverse()
    return found


def recency(factor: float) -> Score:
    """Last use plus `factor` times n for each doubling of the value, in ticks before now."""
    return Score(f"recency {factor:g}", factor * TICKS, factor * TICKS, float)


def rate(grace: float) -> Score:
    """Value of the uses to expect in a unit of time; `grace` times n is added to each age."""
    added = 0.5 + grace * TICKS
    return Score(f"rate {grace:g}", 1.0, 1.0, lambda age: log2(age + added))


def reuse(name: str, uses_weight: float, once_seen: float) -> Score:
    """Value over the time to the next use, taken to be the last interval or the age, whichever is longer."""
    return Score(name, 1.0, uses_weight, lambda age: log2(age + 0.5) - _SLACK, once_seen)


def all_scores() -> list[Score]:
    """The functions to choose among; the first is used until there is a reason for another."""
    return [
        recency(0.25),
        rate(0.02),
        rate(0.5),
        recency(64),
        reuse("reuse", 0.0, _NEVER),
        reuse("reuse, mild", 0.25, log2(4 * TICKS)),
    ]
