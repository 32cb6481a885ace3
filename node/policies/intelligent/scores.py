"""The score functions: each says, from a stamp and the present tick, how much an entry is worth. The lowest leaves.

Invariants: scores read nothing but stamps; scores of different functions are never compared.

With t the tick of the last use, f the count, v = log2(cost / size), age = now - t, and n requests = 16 ticks:

    recency      t + lambda n (log2 f + v)          lambda 1/4: near LRU; 64: value density [1, 2]
    rate         log2 f + v - log2(age + c n)       hits to come if uses go on as until now [3]
    reuse        v - log2(max(age, interval))       the next use is as far as the last was; once seen = never [4]
    reuse, mild  the same + log2(f) / 4, once seen = 4 n
    keeping      t + 64 n (log2 f + v), but what was used once is level however old: the newcomer leaves

Reuse and keeping are *patient*: what they keep while they wait for second uses pays off later than what others keep. So
does, in part, what recency with much value keeps: entries that were used more than once.

Each is the sum of a term by count, one by value and one by age, where reuse takes the interval if it is longer: four
tables, read by parts of the stamp. Tables, stamps and ranks are packed numbers (librt.vecs), so that ranking makes
no objects where it is compiled.

[1] Lee et al.: LRFU, IEEE Transactions on Computers 2001. [2] Cherkasova: GreedyDual-Size-Frequency, HP Labs 1998.
[3] Blankstein et al.: Hyperbolic caching, USENIX ATC 2017. [4] Jiang, Zhang: LIRS, SIGMETRICS 2002.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log2
from typing import Any, Final

from librt.vecs import append, vec
from mypy_extensions import i64

from ..base import Stamped
from .stamps import INTERVAL_SHIFT, LEVEL_MASK, LOG2_USES, TICK_SHIFT, TICKS, VALUE_SHIFT

_NEVER: Final = 32.0  # log2 of ticks
_AGES: Final = 64 * TICKS
_OLDEST: Final = 60 * TICKS
_SLACK: Final = 0.125
"""log2 of how much longer than its interval the age of an entry must be before it counts: intervals are rounded so.
Without it a loop lost, in each round, those residents whose turn was next."""
_DOUBT: Final = 0.26
"""log2 of how much shorter than a resident's a newcomer's interval must be: more than what a tick more or less does to
a rounded one. Without it the newcomers of a loop drove out residents that were as good."""
_FIELD: Final = 0xFF  # value, interval
_FINE: Final = 1024
"""Ranks are whole numbers, in so many parts of what the terms are in."""
_NONE: Final = -(1 << 29)
"""In place of an interval: below what any age costs."""
PLACE_BITS: Final = 8
PLACE_MASK: Final = (1 << PLACE_BITS) - 1
ALL: Final = 1 << 50
"""As a limit: above every rank."""


class Score:
    """Ranks what has a stamp; the lowest leaves first."""

    __slots__ = ("_ages", "_by_age", "_doubt", "_intervals", "_uses", "_value_step", "name", "patience")

    def __init__(
        self,
        name: str,
        value_weight: float,
        uses_weight: float,
        by_age: Callable[[int], float],
        once_seen: float | None = None,
        *,
        by_interval: bool = False,
        patience: float = 0.0,
    ) -> None:
        """`by_age`: what so many ticks cost. `once_seen`: what an entry without an interval costs at least.

        None: nothing. `by_interval`: what others cost at least is its log2. `patience`: the share of the handicap that
        the function is spared (see shadows.py).
        """
        self.name = name
        self.patience = patience
        self._uses = vec[i64]([_fine(uses_weight * uses) for uses in LOG2_USES])
        self._value_step: i64 = _fine(value_weight / 2)
        self._by_age = by_age
        self._doubt: i64 = _fine(_DOUBT) if by_interval else 0
        self._ages = vec[i64]([_fine(by_age(age)) for age in range(_AGES)])
        known = [_fine((quarters - 1) / 4) if by_interval else _NONE for quarters in range(1, _FIELD + 1)]
        unknown = _NONE if once_seen is None else _fine(once_seen)
        self._intervals = vec[i64]([unknown] + known)  # noqa: RUF005 (mypyc 2.4 stumbles over the star)

    def lowest(self, stamps: vec[i64], tick: i64, count: i64, newcomers: i64 = 0, limit: i64 = ALL) -> vec[i64]:
        """The `count` lowest ranks below a limit, sorted, each above the place of its stamp; of equals the first.

        The first `newcomers` stamps are of entries that have not been kept before. At most 256 are ranked at a time.
        """
        uses, ages, intervals, value_step = self._uses, self._ages, self._intervals, self._value_step
        doubt = self._doubt
        found = vec[i64](capacity=count)
        bound = limit << PLACE_BITS
        at: i64 = 0
        while at < len(stamps):
            stamp = stamps[at]
            age = tick - (stamp >> TICK_SHIFT)
            lost = ages[age] if age < len(ages) else self._after(age)
            interval = intervals[stamp >> INTERVAL_SHIFT & _FIELD]
            worth = uses[stamp & LEVEL_MASK] + value_step * (stamp >> VALUE_SHIFT & _FIELD)
            worth -= max(lost, interval)
            if at < newcomers:
                worth -= doubt
            rank = worth << PLACE_BITS | at
            at += 1
            if rank < bound:  # seldom, once as many are found: into its place among them
                place: i64 = len(found)
                if place < count:
                    found = append(found, rank)
                else:
                    place -= 1
                while place > 0 and found[place - 1] > rank:
                    found[place] = found[place - 1]
                    place -= 1
                found[place] = rank
                if len(found) == count:
                    bound = found[count - 1]
        return found

    def _after(self, age: i64) -> i64:
        return _fine(self._by_age(age))


def read_stamps(stamped: list[Any], stamps: vec[i64], at: i64) -> None:
    """Read the stamps of objects, to be ranked, into a list from a place on.

    Of a large cache none of the objects is in the CPU's, and nothing here waits for what is read, so that several are
    fetched at a time.
    """
    for one in stamped:
        known: Stamped = one
        stamps[at] = known.stamp
        at += 1


def _fine(term: float) -> int:
    return round(term * _FINE)


def recency(factor: float, *, patience: float = 0.0) -> Score:
    """Last use plus `factor` times n for each doubling of the value, in ticks before now."""
    return Score(f"recency {factor:g}", factor * TICKS, factor * TICKS, float, patience=patience)


def rate(grace: float) -> Score:
    """Value of the uses to expect in a unit of time; `grace` times n is added to each age."""
    added = 0.5 + grace * TICKS
    return Score(f"rate {grace:g}", 1.0, 1.0, lambda age: log2(age + added))


def reuse(name: str, uses_weight: float, once_seen: float, *, patience: float = 0.0) -> Score:
    """Value over the time to the next use, taken to be the last interval or the age, whichever is longer."""
    return Score(
        name, 1.0, uses_weight, lambda age: log2(age + 0.5) - _SLACK, once_seen, by_interval=True, patience=patience
    )


def keeping(factor: float) -> Score:
    """As `recency`, but entries without an interval (used once, mostly) are as old as entries get, and so level."""
    return Score(f"keeping {factor:g}", factor * TICKS, factor * TICKS, float, _OLDEST, patience=1.0)


def all_scores() -> list[Score]:
    """The functions to choose among; what is next to each other here is alike."""
    return [
        recency(0.25),
        rate(0.02),
        rate(0.5),
        recency(64, patience=0.75),
        reuse("reuse, mild", 0.25, log2(4 * TICKS)),
        keeping(64),
        reuse("reuse", 0.0, _NEVER, patience=1.0),
    ]
