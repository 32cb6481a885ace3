"""LRU: give up the entry that was read or put longest ago.

Invariants: the ring runs from the least to the most recently used and holds every entry.
"""

from __future__ import annotations

from collections.abc import Sequence

from .base import Evictable
from .fifo import FifoPolicy
from .ring import append, keys_newest_first, unlink


class LruPolicy(FifoPolicy):
    """Least recently used first: FIFO in which reads and puts move an entry to the end. Every operation is O(1)."""

    name = "lru"

    def on_hits(self, entries: Sequence[Evictable]) -> None:
        """Move entries to the recent end, in order."""
        ring = self._ring
        newest: Evictable = ring.order
        for entry in entries:  # unlink and append, inlined: this runs for every hit of the node
            if entry is newest:
                continue
            older: Evictable | None = entry.order
            if older is None:
                continue
            newer: Evictable = entry.link
            older.link = newer
            newer.order = older
            newest.link = entry
            entry.order = newest
            entry.link = ring
            newest = entry
        ring.order = newest

    def on_rewrite(self, entry: Evictable, grown: int) -> None:  # noqa: ARG002
        """A put of a held key: it is the most recently used now."""
        unlink(entry)
        append(self._ring, entry)

    def hottest_first(self) -> list[bytes]:
        """The keys from the most to the least recently used."""
        return keys_newest_first(self._ring)
