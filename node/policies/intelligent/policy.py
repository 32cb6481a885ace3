"""The policy itself: notes accesses in the entries, and gives up the worst of the row that is due.

Invariants: `order` of a held entry is `last_access << 8 | count`; the clock counts insertions and hits, nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2
from typing import Final

from stratacache.node.policies.base import Evictable
from stratacache.node.policies.intelligent.residents import Residents

COUNT_MAX: Final = 255


class IntelligentPolicy:
    """Minimises the recompute cost of misses per byte held. Same seed, same calls: same victims."""

    name = "intelligent"

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._residents = Residents()
        self._now = 0

    def __len__(self) -> int:
        return len(self._residents)

    def on_insert(self, entry: Evictable) -> None:
        """Begin to hold an entry."""
        self._now += 1
        entry.order = self._now << 8 | 1
        self._residents.add(entry)

    def on_hits(self, entries: Sequence[Evictable]) -> None:
        """Take note of reads, in order."""
        now = self._now
        for entry in entries:
            now += 1
            if entry.link is not None:
                entry.order = now << 8 | min((entry.order & 255) + 1, COUNT_MAX)
        self._now = now

    def on_update(self, entry: Evictable) -> None:
        """Nothing to do: cost and size are read when they are needed."""

    def on_remove(self, entry: Evictable) -> None:
        """Forget an entry that left for another reason than eviction."""
        self._residents.remove(entry)

    def on_replace(self, old: Evictable, new: Evictable) -> None:
        """A put of a held key: `new` takes the place of `old`."""
        self.on_remove(old)
        self.on_insert(new)

    def admits(self, key: bytes, size: int, cost_s: float, bytes_needed: int) -> bool:  # noqa: ARG002
        """Every newcomer is worth it."""
        return True

    def pop_victim(self) -> Evictable:
        """Give up one entry and forget it."""
        weight = len(self._residents)

        def score(entry: Evictable) -> float:
            order: int = entry.order
            return (order >> 8) + weight * log2((order & 255) * (entry.cost_s + 1e-9) / (entry.size or 1))

        victim = min(self._residents.next_row(), key=score)
        self._residents.remove(victim)
        return victim

    def validate(self) -> None:
        """Check the internals; raises AssertionError with what is wrong. For tests."""
        self._residents.validate()
