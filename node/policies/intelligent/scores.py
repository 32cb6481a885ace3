"""The score functions: each says, from a stamp and the present tick, how much an entry is worth. The lowest leaves.

Invariants: scores read nothing but stamps; scores of different functions are never compared.

With t the tick of the last use, f the count, v = log2(cost / size), age = now - t, and n requests = 16 ticks:

    recency      t + lambda n (log2 f + v)          lambda 1/4: near LRU; 64: value density [1, 2]
    rate         log2 f + v - log2(age + c n)       hits to come if uses go on as until now [3]
    reuse        v - log2(max(age, interval))       the next use is as far as the last was; once seen = never [4]
    reuse, mild  the same + log2(f) / 4, once seen = 4 n

In each of them v is a term of its own, and the rest depends on age, interval and count only: so a score is two tables,
one by value and one by the rest, both filled as they are needed.

[1] Lee et al.: LRFU, IEEE Transactions on Computers 2001. [2] Cherkasova: GreedyDual-Size-Frequency, HP Labs 1998.
[3] Blankstein et al.: Hyperbolic caching, USENIX ATC 2017. [4] Jiang, Zhang: LIRS, SIGMETRICS 2002.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log2
from typing import Final

from .stamps import (
    INTERVAL_MASK,
    INTERVAL_SHIFT,
    LEVEL_MASK,
    LOG2_USES,
    SAMPLED,
    TICK_SHIFT,
    TICKS,
    VALUE_MASK,
    VALUE_SHIFT,
)

_NEVER: Final = 32.0  # log2 of ticks

Worth = Callable[[int, float | None, float], float]
"""(age in ticks, log2 of the last interval or None, log2 of the uses) -> what an entry of value 0 is worth."""


class _Histories(dict[int, float]):
    """Worth by (age, interval, level), each computed once. Key: the present tick's stamp less the entry's."""

    __slots__ = ("_worth",)
    LENGTH_MAX: Final = 4096

    def __init__(self, worth: Worth) -> None:
        self._worth = worth

    def __missing__(self, past: int) -> float:
        if len(self) >= self.LENGTH_MAX:
            self.clear()
        age = -(-past >> TICK_SHIFT)
        state = (age << TICK_SHIFT) - past
        interval = state >> INTERVAL_SHIFT & 0xFF
        worth = self._worth(age, (interval - 1) / 4 if interval else None, LOG2_USES[state & LEVEL_MASK])
        self[past] = worth
        return worth


class Score:
    """Ranks stamps; a lower number leaves first."""

    __slots__ = ("_histories", "_mask", "_values", "name")

    def __init__(self, name: str, value_weight: float, unused: int, worth: Worth) -> None:
        """`unused`: bits of the stamp that `worth` does not depend on: the fewer histories, the faster."""
        self.name = name
        self._mask = ~(unused | SAMPLED | VALUE_MASK)
        self._histories = _Histories(worth)
        self._values = {value << VALUE_SHIFT: value_weight * (value - 128) / 2 for value in range(256)}

    def rank(self, stamps: list[int], tick: int) -> list[float]:
        """One number for each stamp."""
        histories, values, mask = self._histories, self._values, self._mask
        now = tick << TICK_SHIFT
        return [histories[now - (stamp & mask)] + values[stamp & VALUE_MASK] for stamp in stamps]


def recency(factor: float) -> Score:
    """Last use plus `factor` times n for each doubling of the value, in ticks before now."""
    scale = factor * TICKS
    return Score(f"recency {factor:g}", scale, INTERVAL_MASK, lambda age, _interval, uses: scale * uses - age)


def rate(grace: float) -> Score:
    """Value of the uses to expect in a unit of time; `grace` times n is added to each age."""
    added = 0.5 + grace * TICKS
    return Score(f"rate {grace:g}", 1.0, INTERVAL_MASK, lambda age, _interval, uses: uses - log2(age + added))


def reuse(name: str, uses_weight: float, once_seen: float) -> Score:
    """Value over the time to the next use, taken to be the last interval or the age, whichever is longer."""
    return Score(
        name,
        1.0,
        0 if uses_weight else LEVEL_MASK,
        lambda age, interval, uses: (
            uses_weight * uses - max(log2(age + 0.5), once_seen if interval is None else interval)
        ),
    )


def all_scores() -> tuple[Score, ...]:
    """The functions to choose among; the first is used until there is a reason for another."""
    return (
        recency(0.25),
        rate(0.02),
        rate(0.5),
        recency(64),
        reuse("reuse", 0.0, _NEVER),
        reuse("reuse, mild", 0.25, log2(4 * TICKS)),
    )
