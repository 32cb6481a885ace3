"""How far predictions can be trusted: what became of those that looked alike.

"Regular" as the seed defines it is a weak promise: of keys that are read at random, half look regular after three
accesses, since two random intervals often resemble each other. So every prediction is judged, whether or not anything
was prefetched for it: did the key's next visit come while a prefetched value would have served it? Predictions are
sorted by who computes the key, how much the intervals vary and how many visits they rest on; a class is believed once
enough of its predictions have come true. Watching costs no computing, so a class that is wrong costs nothing.

A class with few outcomes leans on the wider one that it is part of: on all keys of its loader that vary as much, and
those on all keys of the loader. No further: the calls of one function are often alike, while a pipeline that reads ten
thousand keys three times in a minute says nothing about a dashboard.

Invariants: a loader of which nothing is known is not believed; old outcomes lose weight, so that trust can be lost and
won again.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from stratacache.node.patterns import ACCESSES_MIN, VISITS_KEPT

VARIATION_EDGES: Final = np.array([0.02, 0.05, 0.1, 0.2, 0.35])
SEEN_CLASSES: Final = VISITS_KEPT - ACCESSES_MIN + 1
CLASSES: Final = (SEEN_CLASSES, len(VARIATION_EDGES) + 1)
"""Of one loader."""
OUTCOMES_MAX: Final = 1024.0
"""Beyond so many outcomes a class forgets half of them."""
PRIOR_GOOD: Final = 1.0
PRIOR_ALL: Final = 4.0
WIDER_WEIGHT: Final = 2.0
"""As many outcomes a class is given of the wider one."""
ROUNDING_S: Final = 6**-0.5
"""Deviation that an interval gets from the rounding of both its ends to whole seconds: a key that is read three times
within three seconds looks perfectly regular, and is not."""


class Trust:
    """Outcomes of predictions by class."""

    def __init__(self) -> None:
        self._good = np.zeros((1, *CLASSES))
        self._all = np.zeros((1, *CLASSES))
        self._shares: NDArray[np.float64] | None = None

    def learn(self, classes: NDArray[np.int64], good: NDArray[np.bool_]) -> None:
        """Take note of what became of some predictions of these classes (`classes_of`)."""
        if not len(classes):
            return
        self._reach(int(classes.max()) + 1)
        np.add.at(self._all.reshape(-1), classes, 1.0)
        np.add.at(self._good.reshape(-1), classes, good.astype(np.float64))
        full = self._all > OUTCOMES_MAX
        self._all[full] /= 2
        self._good[full] /= 2
        self._shares = None

    def share(self, classes: NDArray[np.int64]) -> NDArray[np.float64]:
        """The share of predictions like these that are expected to come true."""
        if len(classes):
            self._reach(int(classes.max()) + 1)
        if self._shares is None:
            of_loader = (_sum(self._good, (1, 2)) + PRIOR_GOOD) / (_sum(self._all, (1, 2)) + PRIOR_ALL)
            as_varied = (_sum(self._good, 1) + WIDER_WEIGHT * of_loader) / (_sum(self._all, 1) + WIDER_WEIGHT)
            known = (self._good + WIDER_WEIGHT * as_varied) / (self._all + WIDER_WEIGHT)
            self._shares = known.reshape(-1)
        return self._shares[classes]

    def _reach(self, classes: int) -> None:
        """Make room for classes of loaders that were not met before."""
        missing = -(-classes // (CLASSES[0] * CLASSES[1])) - len(self._all)
        if missing > 0:
            more = np.zeros((missing, *CLASSES))
            self._good, self._all = np.concatenate([self._good, more]), np.concatenate([self._all, more])
            self._shares = None

    @property
    def outcomes(self) -> int:
        """How many outcomes are remembered."""
        return int(self._all.sum())


def classes_of(
    loaders: NDArray[np.int16], seen: NDArray[np.uint8], variation: NDArray[np.float64], mean_s: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The class of each prediction as a number; `loaders` is -1 for keys that nobody can compute."""
    rows = np.clip(seen.astype(np.int64) - ACCESSES_MIN, 0, SEEN_CLASSES - 1)
    varied = np.hypot(variation, np.divide(ROUNDING_S, mean_s, out=np.full(len(mean_s), np.inf), where=mean_s > 0))
    columns: NDArray[np.int64] = np.searchsorted(VARIATION_EDGES, varied)
    return ((loaders.astype(np.int64) + 1) * CLASSES[0] + rows) * CLASSES[1] + columns


def _sum(outcomes: NDArray[np.float64], over: int | tuple[int, ...]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = outcomes.sum(axis=over, keepdims=True)
    return total
