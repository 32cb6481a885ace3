"""LRU: give up the entry that was read or put longest ago.

Invariants: the ring runs from the least to the most recently used and holds every entry.
"""

from __future__ import annotations

from collections.abc import Sequence

from .base import Evictable
from .ring import append, count, keys_newest_first, new_ring, unlink


class LruPolicy:
    """Least recently used first. Every operation is O(1)."""

    name = "lru"

    def __init__(self) -> None:
        self._ring = new_ring()
        self._len = 0

    def on_insert(self, entry: Evictable) -> None:
        """Begin to hold an entry, as the most recently used."""
        append(self._ring, entry)
        self._len += 1

    def on_hits(self, entries: Sequence[Evictable]) -> None:
        """Move entries to the recent end, in order."""
        ring = self._ring
        newest = ring.order
        for entry in entries:  # unlink and append, inlined: this runs for every hit of the node
            if entry is newest:
                continue
            older = entry.order
            if older is None:
                continue
            newer = entry.link
            older.link = newer
            newer.order = older
            newest.link = entry
            entry.order = newest
            entry.link = ring
            newest = entry
        ring.order = newest

    def on_update(self, entry: Evictable) -> None:
        """Size, cost and expiry do not matter here."""

    def on_remove(self, entry: Evictable) -> None:
        """Forget an entry."""
        unlink(entry)
        self._len -= 1

    def on_rewrite(self, entry: Evictable, grown: int) -> None:  # noqa: ARG002
        """A put of a held key: it is the most recently used now."""
        ring = self._ring
        newest = ring.order
        if entry is newest:
            return
        older = entry.order
        newer = entry.link
        older.link = newer
        newer.order = older
        entry.order = newest
        entry.link = ring
        newest.link = ring.order = entry

    def admits(self, key: bytes, size: int, cost_s: float, bytes_needed: int) -> bool:  # noqa: ARG002
        """Every newcomer is worth it."""
        return True

    def pop_victim(self) -> Evictable:
        """Give up the least recently used entry."""
        victim: Evictable = self._ring.link
        self.on_remove(victim)
        return victim

    def hottest_first(self) -> list[bytes]:
        """The keys from the most to the least recently used."""
        return keys_newest_first(self._ring)

    def __len__(self) -> int:
        return self._len

    def validate(self) -> None:
        """Check that the ring is whole in both directions."""
        assert count(self._ring) == self._len
