"""How far predictions can be trusted: what became of those that looked alike.

"Regular" as the seed defines it is a weak promise: of keys that are read at random, half look regular after three
accesses, since two random intervals often resemble each other. So every prediction is judged, whether or not anything
was prefetched for it: did the key's next visit come while a prefetched value would have served it? Predictions are
sorted by how many visits they rest on and how much the intervals vary; a class is believed once enough of its
predictions have come true. Watching costs no computing, so a class that is wrong costs nothing.

Invariants: a class of which nothing is known is not believed; old outcomes lose weight, so that trust can be lost and
won again.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from stratacache.node.patterns import ACCESSES_MIN, VISITS_KEPT

VARIATION_EDGES: Final = np.array([0.02, 0.05, 0.1, 0.2, 0.35])
CLASSES: Final = (VISITS_KEPT - ACCESSES_MIN + 1, len(VARIATION_EDGES) + 1)
OUTCOMES_MAX: Final = 1024.0
"""Beyond so many outcomes a class forgets half of them."""
PRIOR_GOOD: Final = 1.0
PRIOR_ALL: Final = 4.0
PARENT_WEIGHT: Final = 2.0
"""A class with few outcomes of its own leans on all classes of the same variation."""


class Trust:
    """Outcomes of predictions by class."""

    def __init__(self) -> None:
        self._good = np.zeros(CLASSES)
        self._all = np.zeros(CLASSES)

    def learn(self, seen: NDArray[np.uint8], variation: NDArray[np.float64], good: NDArray[np.bool_]) -> None:
        """Take note of what became of some predictions."""
        if not len(seen):
            return
        cells = _cells(seen, variation)
        np.add.at(self._all, cells, 1.0)
        np.add.at(self._good, cells, good.astype(np.float64))
        full = self._all > OUTCOMES_MAX
        self._all[full] /= 2
        self._good[full] /= 2

    def share(self, seen: NDArray[np.uint8], variation: NDArray[np.float64]) -> NDArray[np.float64]:
        """The share of predictions like these that are expected to come true."""
        parent = (self._good.sum(axis=0) + PRIOR_GOOD) / (self._all.sum(axis=0) + PRIOR_ALL)
        cells = _cells(seen, variation)
        known: NDArray[np.float64] = (self._good[cells] + PARENT_WEIGHT * parent[cells[1]]) / (
            self._all[cells] + PARENT_WEIGHT
        )
        return known

    @property
    def outcomes(self) -> int:
        """How many outcomes are remembered."""
        return int(self._all.sum())


def _cells(seen: NDArray[np.uint8], variation: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rows = np.clip(seen.astype(np.int64) - ACCESSES_MIN, 0, CLASSES[0] - 1)
    return rows, np.searchsorted(VARIATION_EDGES, variation)
