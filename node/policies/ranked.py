"""What TTL and SIZE_BASED have in common: give up the entry of the lowest rank, of equals the least recently used.

Entries of one rank stand in a ring, ranks in a heap.

Invariants: every entry is in the ring of its rank as it was at `on_insert` or the last `on_update`; a rank that has
a ring is in the heap exactly once; rings may be empty, but not more of them than entries (plus a few).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from typing import Final

from .base import Evictable, Policy
from .ring import append, count, new_ring, unlink

EMPTY_RINGS_MAX: Final = 64


class RankedPolicy(Policy):
    """Lowest rank first, the least recently used of equals. Hits are O(1), the rest O(log n), amortised."""

    name = "ranked"

    def __init__(self, rank: Callable[[Evictable], int]) -> None:
        self._rank = rank
        self._rings: dict[int, Evictable] = {}
        self._heap: list[int] = []
        self._len = 0

    def on_insert(self, entry: Evictable) -> None:
        """Begin to hold an entry."""
        rank = self._rank(entry)
        ring = self._rings.get(rank)
        if ring is None:
            if len(self._rings) > 2 * self._len + EMPTY_RINGS_MAX:
                self._forget_empty()
            ring = self._rings[rank] = new_ring()
            heappush(self._heap, rank)
        append(ring, entry)
        self._len += 1

    def _forget_empty(self) -> None:
        self._rings = {rank: ring for rank, ring in self._rings.items() if ring.link is not ring}
        self._heap = list(self._rings)
        heapify(self._heap)

    def on_hits(self, entries: Sequence[Evictable]) -> None:
        """Move entries to the recent end of their rings, in order."""
        for entry in entries:
            if entry.order is None:
                continue
            unlink(entry)
            ring = self._rings.get(self._rank(entry))
            # An entry that was killed has another rank than its ring: it goes first, which is right.
            append(ring if ring is not None else self._rings[self._heap[0]], entry)

    def on_update(self, entry: Evictable) -> None:
        """Move an entry whose rank changed to its new ring."""
        self.on_remove(entry)
        self.on_insert(entry)

    def on_remove(self, entry: Evictable) -> None:
        """Forget an entry."""
        unlink(entry)
        self._len -= 1

    def on_rewrite(self, entry: Evictable, grown: int) -> None:  # noqa: ARG002
        """A put of a held key, in place."""
        self.on_remove(entry)
        self.on_insert(entry)

    def admits(self, key: bytes, size: int, cost_s: float, bytes_needed: int) -> bool:  # noqa: ARG002
        """Every newcomer is worth it."""
        return True

    def pop_victim(self) -> Evictable:
        """Give up the entry of the lowest rank."""
        while True:
            ring = self._rings[self._heap[0]]
            victim: Evictable = ring.link
            if victim is not ring:
                break
            del self._rings[heappop(self._heap)]
        self.on_remove(victim)
        return victim

    def __len__(self) -> int:
        return self._len

    def validate(self) -> None:
        """Check that rings and heap name the same ranks and hold all entries."""
        assert sorted(self._heap) == sorted(self._rings)
        assert sum(map(count, self._rings.values())) == self._len
