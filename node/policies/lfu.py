"""LFU: give up the entry that was read least often since it was put.

Entries of one frequency stand in a step, steps in a list by frequency, so a hit moves an entry to the next step
(Shah, Mitra, Matani, "An O(1) algorithm for implementing the LFU cache eviction scheme", 2010).

Invariants: steps are in rising order of frequency and none is empty; within a step the entry that reached it first is
given up first; `entry.order` is the step that holds it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from .base import Evictable, Policy


class _Step:
    __slots__ = ("entries", "frequency", "higher", "lower")

    def __init__(self, frequency: int) -> None:
        self.frequency = frequency
        # Not a dict: taking the first of a dict that loses its first again and again is linear.
        self.entries: OrderedDict[Evictable, None] = OrderedDict()
        self.lower: _Step = self
        self.higher: _Step = self


class LfuPolicy(Policy):
    """Least frequently used first, the longest held of equals. Every operation is O(1)."""

    name = "lfu"

    def __init__(self) -> None:
        self._ends = _Step(0)
        self._len = 0

    def _step_after(self, step: _Step) -> _Step:
        """The step one frequency above, made when it is missing."""
        higher = step.higher
        if higher.frequency == step.frequency + 1:
            return higher
        made = _Step(step.frequency + 1)
        made.lower = step
        made.higher = higher
        step.higher = higher.lower = made
        return made

    @staticmethod
    def _leave(step: _Step, entry: Evictable) -> None:
        del step.entries[entry]
        if not step.entries:
            step.lower.higher = step.higher
            step.higher.lower = step.lower

    def on_insert(self, entry: Evictable) -> None:
        """Begin to hold an entry, as used once."""
        step = self._step_after(self._ends)
        step.entries[entry] = None
        entry.order = step
        self._len += 1

    def on_hits(self, entries: Sequence[Evictable]) -> None:
        """Move entries to the next frequency, in order."""
        for entry in entries:
            step: _Step | None = entry.order
            if step is None:
                continue
            higher = self._step_after(step)
            higher.entries[entry] = None
            entry.order = higher
            self._leave(step, entry)

    def on_update(self, entry: Evictable) -> None:
        """Size, cost and expiry do not matter here."""

    def on_remove(self, entry: Evictable) -> None:
        """Forget an entry and how often it was used."""
        self._leave(entry.order, entry)
        entry.order = None
        self._len -= 1

    def on_rewrite(self, entry: Evictable, grown: int) -> None:  # noqa: ARG002
        """A put of a held key, in place."""
        self.on_remove(entry)
        self.on_insert(entry)

    def admits(self, key: bytes, size: int, cost_s: float, bytes_needed: int) -> bool:  # noqa: ARG002
        """Every newcomer is worth it."""
        return True

    def pop_victim(self) -> Evictable:
        """Give up the least frequently used entry."""
        victim = next(iter(self._ends.higher.entries))
        self.on_remove(victim)
        return victim

    def __len__(self) -> int:
        return self._len

    def validate(self) -> None:
        """Check that steps rise, are not empty, and hold all entries."""
        held = 0
        step = self._ends.higher
        while step is not self._ends:
            assert step.frequency > step.lower.frequency
            assert step.lower.higher is step
            assert step.entries
            assert all(entry.order is step for entry in step.entries)
            held += len(step.entries)
            step = step.higher
        assert held == self._len
