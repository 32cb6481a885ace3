"""LRU: give up the entry that was read or put longest ago.

A doubly linked list through the policy's two slots of the entries themselves, so that it costs no memory per entry.

Invariants: the list runs from the least to the most recently used; an entry is in it exactly when its `order` and
`link` are set; `order` is the one used before it, `link` the one used after it.
"""

from __future__ import annotations

from collections.abc import Sequence

from .base import Evictable


class LruPolicy:
    """Least recently used first. Every operation is O(1)."""

    name = "lru"

    def __init__(self) -> None:
        self._ring = ring = Evictable(b"", 0)  # link: least recently used; order: most recently used
        ring.order = ring.link = ring
        self._len = 0

    def on_insert(self, entry: Evictable) -> None:
        """Begin to hold an entry, as the most recently used."""
        ring = self._ring
        newest = ring.order
        entry.order = newest
        entry.link = ring
        newest.link = ring.order = entry
        self._len += 1

    def on_hits(self, entries: Sequence[Evictable]) -> None:
        """Move entries to the recent end, in order."""
        ring = self._ring
        newest = ring.order
        for entry in entries:
            if entry is newest:
                continue
            before = entry.order
            if before is None:
                continue
            after = entry.link
            before.link = after
            after.order = before
            newest.link = entry
            entry.order = newest
            entry.link = ring
            newest = entry
        ring.order = newest

    def on_update(self, entry: Evictable) -> None:
        """Size, cost and expiry do not matter here."""

    def on_remove(self, entry: Evictable) -> None:
        """Forget an entry."""
        before = entry.order
        after = entry.link
        before.link = after
        after.order = before
        entry.order = entry.link = None
        self._len -= 1

    def admits(self, key: bytes, size: int, cost_s: float, bytes_needed: int) -> bool:  # noqa: ARG002
        """Every newcomer is worth it."""
        return True

    def pop_victim(self) -> Evictable:
        """Give up the least recently used entry."""
        victim: Evictable = self._ring.link
        self.on_remove(victim)
        return victim

    def __len__(self) -> int:
        return self._len

    def validate(self) -> None:
        """Check that the list is whole in both directions."""
        count = 0
        entry = self._ring
        while entry.link is not self._ring:
            assert entry.link.order is entry
            entry = entry.link
            count += 1
        assert self._ring.order is entry
        assert count == self._len
