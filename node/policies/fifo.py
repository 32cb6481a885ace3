"""FIFO: give up the entry that was put longest ago.

Invariants: the ring runs from the first to the last put and holds every entry; hits change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from .base import Evictable, Policy
from .ring import append, count, new_ring, unlink


class FifoPolicy(Policy):
    """First in, first out. Every operation is O(1)."""

    name = "fifo"

    def __init__(self) -> None:
        self._ring = new_ring()
        self._len = 0

    def on_insert(self, entry: Evictable) -> None:
        """Begin to hold an entry, as the last."""
        append(self._ring, entry)
        self._len += 1

    def on_hits(self, entries: Sequence[Evictable]) -> None:
        """Reads do not matter here."""

    def on_update(self, entry: Evictable) -> None:
        """Size, cost and expiry do not matter here."""

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
        """Give up the first entry."""
        victim: Evictable = self._ring.link
        self.on_remove(victim)
        return victim

    def __len__(self) -> int:
        return self._len

    def validate(self) -> None:
        """Check that the ring is whole in both directions."""
        assert count(self._ring) == self._len
