"""What misses have cost under each score function, as far back as is remembered, and how rows are shared out by it.

A function that is d behind the best has exp(-d/h) of its rows [1], h being a fifth of what chance can move: the root of
the sum of squares of all misses that not all functions had.

A short memory finds out early that a workload has changed, and mistakes chance for change; a long one is the other way
round. So each is judged by what who had followed it would have lost, and the better one is followed.

Invariants: shares are weights that sum up to 1; sums fade, so that what is past counts for less and less.

[1] Freund, Schapire: A decision-theoretic generalization of on-line learning, JCSS 1997 (Hedge).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, sqrt
from typing import Final

HEAT: Final = 0.2
"""In what the choice is unsure by: so much worse is a function with 1/e of the best one's rows."""
JUDGED_OVER: Final = 8
"""Fills of the cache over which what followers would have lost fades."""
_STILL: Final = 1e-6
"""Of the least that a function has cost: functions that differ by less are equal."""


class Evidence:
    """Sums of what misses cost, by function, that fade over `fills` fills of the cache."""

    __slots__ = ("_disputed", "_fills", "followed", "losses", "shares")

    def __init__(self, functions: int, fills: float) -> None:
        self._fills = fills
        self._disputed = 0.0  # squares of what misses cost that some function had and another had not
        self.losses = [0.0] * functions
        self.shares = [1 / functions] * functions
        self.followed = 0.0
        """What those have lost who have shared the rows out by this evidence."""

    @property
    def best(self) -> int:
        """Index of the function that has cost least."""
        return self.losses.index(min(self.losses))

    def take(self, lost: Sequence[float], disputed: float) -> None:
        """Add what a period has cost under each function."""
        self.losses = [loss + more for loss, more in zip(self.losses, lost, strict=True)]
        self._disputed += disputed
        self.followed += sum([share * more for share, more in zip(self.shares, lost, strict=True)])

    def charge(self, factors: Sequence[float]) -> None:
        """Count what has been lost so far as so many times as much."""
        self.losses = [loss * factor for loss, factor in zip(self.losses, factors, strict=True)]

    def share_out(self) -> None:
        """Share the rows out by what is known now."""
        lowest = min(self.losses)
        heat = HEAT * sqrt(self._disputed) + _STILL * lowest
        if heat <= 0:
            return
        weights = [exp(max((lowest - loss) / heat, -50.0)) for loss in self.losses]
        whole = sum(weights)
        self.shares = [weight / whole for weight in weights]

    def fade(self, fills: float) -> None:
        """Let so many fills of the cache pass."""
        self._scale(exp(-fills / self._fills), exp(-fills / JUDGED_OVER))

    def halve(self) -> None:
        """From now on half as many keys are followed."""
        self._scale(0.5, 0.5)

    def become(self, other: Evidence) -> None:
        """Forget, and go on from what another memory knows."""
        self.losses = list(other.losses)
        self.shares = list(other.shares)
        self._disputed = other._disputed
        self.followed = other.followed

    def _scale(self, factor: float, followed: float) -> None:
        self.losses = [loss * factor for loss in self.losses]
        self._disputed *= factor
        self.followed *= followed
