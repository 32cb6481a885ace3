"""A list through the policy's two slots of the entries themselves: it costs no memory per entry.

A ring is an Evictable that stands for both ends: `link` leads to the oldest entry, `order` to the newest.

Invariants: an entry is in at most one ring, and exactly then its `order` and `link` are set; `order` is the next older
one, `link` the next newer one.
"""

from __future__ import annotations

from .base import Evictable, evictable


def new_ring() -> Evictable:
    """Make an empty ring."""
    ring = evictable(b"", 0)
    ring.order = ring.link = ring
    return ring


def append(ring: Evictable, entry: Evictable) -> None:
    """Put an entry at the newest end."""
    newest: Evictable = ring.order
    entry.order = newest
    entry.link = ring
    newest.link = ring.order = entry


def unlink(entry: Evictable) -> None:
    """Take an entry out of its ring."""
    older: Evictable = entry.order
    newer: Evictable = entry.link
    older.link = newer
    newer.order = older
    entry.order = entry.link = None


def keys_newest_first(ring: Evictable) -> list[bytes]:
    """The keys of a ring, from its newest end on."""
    keys: list[bytes] = []
    entry: Evictable = ring.order
    while entry is not ring:
        keys.append(entry.key)
        entry = entry.order
    return keys


def count(ring: Evictable) -> int:
    """Walk a ring in both directions and give its length; raises AssertionError when it is broken."""
    length = 0
    entry = ring
    while entry.link is not ring:
        assert entry.link.order is entry
        entry = entry.link
        length += 1
    assert ring.order is entry
    return length
