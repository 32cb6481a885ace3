"""The score functions: each says, from a stamp and the present tick, how much an entry is worth. The lowest leaves.

Invariants: scores read nothing but stamps; scores of different functions are never compared.

With t the tick of the last use, f the count, v = log2(cost / size), age = now - t, and n requests = 16 ticks:

    recency      t + lambda n (log2 f + v)          lambda 1/4: near LRU; 64: value density [1, 2]
    rate         log2 f + v - log2(age + c n)       hits to come if uses go on as until now [3]
    reuse        v - log2(max(age, interval))       the next use is as far as the last was; once seen = never [4]
    reuse, mild  the same + log2(f) / 4, once seen = 4 n

[1] Lee et al.: LRFU, IEEE Transactions on Computers 2001. [2] Cherkasova: GreedyDual-Size-Frequency, HP Labs 1998.
[3] Blankstein et al.: Hyperbolic caching, USENIX ATC 2017. [4] Jiang, Zhang: LIRS, SIGMETRICS 2002.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log2
from typing import Final, Protocol

from .stamps import STATE_MASK, TICK_SHIFT, TICKS

_NEVER: Final = 32.0  # log2 of ticks


class Score(Protocol):
    """Ranks stamps; a lower number leaves first."""

    name: str

    def rank(self, stamps: Sequence[int], tick: int) -> list[float]:
        """One number for each stamp."""
        ...


class _Weights(dict[int, float]):
    """What the low bits of a stamp (value, interval, count) are worth, computed once each."""

    __slots__ = ("_weigh",)
    LENGTH_MAX: Final = 2048

    def __init__(self, weigh: Callable[[float, int, int], float]) -> None:
        self._weigh = weigh

    def __missing__(self, state: int) -> float:
        if len(self) >= self.LENGTH_MAX:
            self.clear()
        weight = self[state] = self._weigh(((state >> 16) - 128) / 2, state >> 8 & 255, state & 255)
        return weight


class _Ages(dict[int, float]):
    """log2 of an age in ticks plus a grace, computed once each."""

    __slots__ = ("_grace",)
    LENGTH_MAX: Final = 2048

    def __init__(self, grace: float) -> None:
        self._grace = grace

    def __missing__(self, ticks: int) -> float:
        if len(self) >= self.LENGTH_MAX:
            self.clear()
        age = self[ticks] = log2(ticks + self._grace)
        return age


class Recency:
    """Last use plus `factor` times n for each doubling of the value."""

    def __init__(self, factor: float) -> None:
        self.name = f"recency {factor:g}"
        scale = factor * TICKS
        self._weights = _Weights(lambda value, _interval, count: scale * (log2(count) + value))

    def rank(self, stamps: Sequence[int], tick: int) -> list[float]:  # noqa: ARG002
        """One number for each stamp, in ticks."""
        weights = self._weights
        return [(stamp >> TICK_SHIFT) + weights[stamp & STATE_MASK] for stamp in stamps]


class Rate:
    """Value of the uses to expect in a unit of time; `grace` times n is added to each age."""

    def __init__(self, grace: float) -> None:
        self.name = f"rate {grace:g}"
        self._weights = _Weights(lambda value, _interval, count: log2(count) + value)
        self._ages = _Ages(0.5 + grace * TICKS)

    def rank(self, stamps: Sequence[int], tick: int) -> list[float]:
        """One number for each stamp, in powers of two."""
        weights, ages = self._weights, self._ages
        return [weights[stamp & STATE_MASK] - ages[tick - (stamp >> TICK_SHIFT)] for stamp in stamps]


class Reuse:
    """Value over the time to the next use, taken to be the last interval or the age, whichever is longer."""

    def __init__(self, name: str, count_power: float, once_seen: float) -> None:
        self.name = name
        self._near = _Weights(lambda value, _interval, count: value + count_power * log2(count))
        self._far = _Weights(
            lambda value, interval, count: (
                value + count_power * log2(count) - ((interval - 1) / 4 if interval else once_seen)
            )
        )
        self._ages = _Ages(0.5)

    def rank(self, stamps: Sequence[int], tick: int) -> list[float]:
        """One number for each stamp, in powers of two."""
        near, far, ages = self._near, self._far, self._ages
        by_age = [near[stamp & STATE_MASK] - ages[tick - (stamp >> TICK_SHIFT)] for stamp in stamps]
        return list(map(min, by_age, [far[stamp & STATE_MASK] for stamp in stamps]))


def all_scores() -> tuple[Score, ...]:
    """The functions to choose among; the first is used until there is a reason for another."""
    return (
        Recency(0.25),
        Rate(0.02),
        Rate(0.5),
        Recency(64),
        Reuse("reuse", 0.0, _NEVER),
        Reuse("reuse, mild", 0.25, log2(4 * TICKS)),
    )
