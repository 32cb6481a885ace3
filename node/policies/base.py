"""What a level and its eviction policy know of each other; nothing else.

Invariants: a policy is a leaf (it imports nothing of the engine), is told of every entry that enters or leaves its
level exactly once, never calls back, reads no clock, and draws randomness only from the seed that it was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mypy_extensions import i64, mypyc_attr

NEVER_MS: Final = (1 << 62) - 1
"""`expires_ms` of an entry without a TTL: one shared int, so that a hit needs a single comparison."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Stamped:
    """What can be ranked by its `stamp` alone; a number within the object, where this module is compiled."""

    __slots__ = ("stamp",)

    stamp: i64


@mypyc_attr(allow_interpreted_subclasses=True)  # CacheEntry is one (manager.py)
class Evictable(Stamped):
    """The part of an entry that a policy may read, and three slots in which it may keep its own state.

    `size`: bytes charged against the budget. `cost_s`: seconds it took to compute (1.0 when unknown).
    `expires_ms`: when it expires on its node's clock, or NEVER_MS. `stamp`, `order` and `link` belong to the policy of
    the level that holds the entry, from `on_insert` to `on_remove` or `pop_victim`.
    """

    __slots__ = ("cost_s", "expires_ms", "key", "link", "order", "size")

    key: bytes
    size: int
    cost_s: float
    expires_ms: int
    order: Any
    link: Any


def evictable(key: bytes, size: int, cost_s: float = 1.0, expires_ms: int = NEVER_MS) -> Evictable:
    """Make one that stands for itself. Not an `__init__`: entries are made without the cost of one (entry.py)."""
    made = Evictable()
    made.key = key
    made.size = size
    made.cost_s = cost_s
    made.expires_ms = expires_ms
    made.stamp = 0
    made.order = made.link = None
    return made


@mypyc_attr(allow_interpreted_subclasses=True)
class Policy:
    """Chooses which entry a full level gives up. Every method is O(1) or O(log n), amortised.

    A base class and no protocol, so that compiled code calls its methods directly.

    Contract: `on_insert` once per entry that enters; `on_hits` with the entries read since the last call, in order of
    access (an entry read twice stands there twice; entries that have left meanwhile must be harmless); `on_update`
    after size, cost or expiry of a held entry changed in place; then exactly one of `on_remove` (it left for another
    reason) and `pop_victim` (the policy gave it up). `pop_victim` is only called while the policy holds an entry.
    `admits` is asked before entries are evicted for a newcomer.
    """

    name: str

    def on_insert(self, entry: Evictable) -> None:
        """Begin to hold an entry."""
        raise NotImplementedError

    def on_hits(self, entries: Sequence[Evictable]) -> None:
        """Take note of reads, in order."""
        raise NotImplementedError

    def on_update(self, entry: Evictable) -> None:
        """Take note that size, cost or expiry changed in place."""
        raise NotImplementedError

    def on_remove(self, entry: Evictable) -> None:
        """Forget an entry that left for another reason than eviction."""
        raise NotImplementedError

    def on_rewrite(self, entry: Evictable, grown: int) -> None:
        """A put of a held key, in place: as `on_remove` and `on_insert` in one call.

        Size (by `grown` bytes), cost and expiry may have changed just before.
        """
        raise NotImplementedError

    def admits(self, key: bytes, size: int, cost_s: float, bytes_needed: int) -> bool:
        """Whether a newcomer is worth evicting `bytes_needed` bytes for; False sends it to the next level at once."""
        raise NotImplementedError

    def pop_victim(self) -> Evictable:
        """Give up one entry and forget it."""
        raise NotImplementedError

    def __len__(self) -> int:
        """How many entries are held."""
        raise NotImplementedError

    def validate(self) -> None:
        """Check the internals; raises AssertionError with what is wrong. For tests."""
        raise NotImplementedError
