"""How long a loader's tasks take before they compute: to be placed, to get a process, to import what they need.

In a Ray whose processes are all in use a task starts a new one, and that takes a second or two; with a runtime
environment of its own it takes longer; a process that is idle takes it at once. A value that is wanted at a certain
time must be begun early enough for a slow start, and not so early that after a quick one it has expired by then. So
both are estimated.

Invariants: 0 <= quick <= slow <= START_S_MAX for every loader; an estimate follows quickly what is beyond it, and
slowly what is within.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

START_S: Final = (0.0, 2.0)
"""Quick and slow of a loader that has not run yet."""
START_S_MAX: Final = 120.0
OUTWARDS: Final = 0.5
INWARDS: Final = 0.25


class Starts:
    """The estimates of one planner, by loader."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, float]] = {}

    def learn(self, loader: str, start_s: float) -> None:
        """A task of the loader was over so many seconds later than its computing alone takes."""
        start_s = min(max(0.0, start_s), START_S_MAX)
        quick_s, slow_s = self.of(loader)
        quick_s += (start_s - quick_s) * (OUTWARDS if start_s < quick_s else INWARDS)
        slow_s += (start_s - slow_s) * (OUTWARDS if start_s > slow_s else INWARDS)
        self._known[loader] = (quick_s, slow_s)

    def of(self, loader: str) -> tuple[float, float]:
        """Seconds from the decision to the first computation of a task: of a quick start and of a slow one."""
        return self._known.get(loader, START_S)

    def of_all(self, loaders: Sequence[str]) -> NDArray[np.float64]:
        """The same for each of these, and one more for rows without a loader (number -1): shape (2, loaders + 1)."""
        return np.array([*map(self.of, loaders), START_S]).T
