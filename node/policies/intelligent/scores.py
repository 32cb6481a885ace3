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
from typing import Any, Final

from mypy_extensions import i64

from ..base import Stamped
from .stamps import COMPILED, INTERVAL_SHIFT, LEVEL_MASK, LOG2_USES, TICK_SHIFT, TICKS, VALUE_SHIFT

_NEVER: Final = 32.0  # log2 of ticks
_AGES: Final = 64 * TICKS
_SLACK: Final = 0.125
"""log2 of how much longer than its interval the age of an entry must be before it counts: intervals are rounded so.
Without it a loop lost, in each round, those residents whose turn was next."""
_FIELD: Final = 0xFF  # value, interval
_FINE: Final = 1024
"""Ranks are whole numbers, in so many parts of what the terms are in: adding and comparing them makes no objects."""
_NONE: Final = -(1 << 29)
"""In place of an interval: below what any age costs."""
PLACE_BITS: Final = 8
PLACE_MASK: Final = (1 << PLACE_BITS) - 1
ALL: Final = 1 << 50
"""As a limit: above every rank."""


class Score:
    """Ranks what has a stamp; the lowest leaves first."""

    __slots__ = ("_ages", "_by_age", "_intervals", "_uses", "_value_step", "name")

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
        self._uses = [_fine(uses_weight * uses) for uses in LOG2_USES]
        self._value_step: i64 = _fine(value_weight / 2)
        self._by_age = by_age
        self._ages = [_fine(by_age(age)) for age in range(_AGES)]
        if once_seen is None:
            self._intervals = [_NONE] * (_FIELD + 1)
        else:
            self._intervals = [_fine(once_seen), *(_fine((quarters - 1) / 4) for quarters in range(1, _FIELD + 1))]

    def below(self, stamped: list[Any], tick: i64, limit: i64) -> list[int]:
        """Ranks below a limit, each above the place in the list: sorted, these are the lowest, of equals the first.

        At most 256 objects are ranked at a time.
        """
        uses, ages, intervals, value_step = self._uses, self._ages, self._intervals, self._value_step
        ranks: list[int] = []
        known: Stamped
        if COMPILED:
            # Of a large cache none of these is in the CPU's. Nothing here waits for what is read, so that several are
            # fetched at once; in the loop below each would be waited for. Worth a tenth of a miss.
            for one in stamped:
                known = one
                stamp = known.stamp
        for at, one in enumerate(stamped):
            known = one
            stamp = known.stamp
            age = tick - (stamp >> TICK_SHIFT)
            lost: i64 = ages[age] if age < _AGES else _fine(self._by_age(age))
            interval: i64 = intervals[stamp >> INTERVAL_SHIFT & _FIELD]
            worth: i64 = uses[stamp & LEVEL_MASK]
            rank = worth + value_step * (stamp >> VALUE_SHIFT & _FIELD) - max(lost, interval)
            if rank < limit:
                ranks.append(rank << PLACE_BITS | at)
        return ranks


def _fine(term: float) -> int:
    return round(term * _FINE)


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
