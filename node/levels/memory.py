"""A memory level: a table of entries, a budget, and a policy that says what to give up.

Invariants: `bytes_used` is the sum of the sizes of the entries in `table` and never exceeds `bytes_max` when a caller
sees it; an entry is in the table exactly when `entry.level is self`, and exactly then the policy holds it. The table is
read by the server's hot path directly: it stays the same dict for the life of the level.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..entry import Entry
from ..stats import LevelCounters

if TYPE_CHECKING:
    from ..policies.base import Policy
    from ..types import CacheLevel


class MemoryLevel:
    """Entries by canonical key within a budget of bytes and, when `entries_max` is not None, of entries."""

    def __init__(self, kind: CacheLevel, bytes_max: int, entries_max: int | None, policy: Policy) -> None:
        self.kind = kind
        self.bytes_max = bytes_max
        self.entries_max = entries_max if entries_max is not None else 1 << 62
        self.policy = policy
        self.table: dict[bytes, Entry] = {}
        self.bytes_used = 0
        self.counters = LevelCounters()

    def needs_room(self, size: int, charged: int = 0) -> bool:
        """Whether something must leave before an entry of `size` fits, with `charged` bytes for the tag tables."""
        return self.bytes_used + size + charged > self.bytes_max or len(self.table) >= self.entries_max

    def insert(self, entry: Entry) -> None:
        """Take in an entry whose key is not held and for which there is room."""
        self.table[entry.key] = entry
        self.bytes_used += entry.size
        entry.level = self
        self.policy.on_insert(entry)

    def remove(self, entry: Entry) -> None:
        """Let an entry go for another reason than space."""
        self.policy.on_remove(entry)
        del self.table[entry.key]
        self.bytes_used -= entry.size
        entry.level = None

    def pop_victim(self) -> Entry:
        """Let the entry go that the policy chooses."""
        entry = self.policy.pop_victim()
        assert isinstance(entry, Entry)
        del self.table[entry.key]
        self.bytes_used -= entry.size
        entry.level = None
        return entry

    def validate(self) -> None:
        """Check the internals; raises AssertionError with what is wrong."""
        assert self.bytes_used == sum(entry.size for entry in self.table.values())
        assert self.bytes_used <= self.bytes_max
        assert len(self.table) <= self.entries_max
        assert len(self.policy) == len(self.table)
        for key, entry in self.table.items():
            assert entry.key == key
            assert entry.level is self
        self.policy.validate()
