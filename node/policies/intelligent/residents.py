"""The entries that a policy holds, in rows of 32 that are visited one after the other.

An eviction looks at one row and gives up the worst of it. Each newcomer takes the place of a victim, so a row is a
sample of all ages, and every row is looked at equally often: the oldest entry of a row that is due is about as old as
the oldest of 32 drawn at random, without drawing (a cache of 32 ways and random placement; the sweep is CLOCK's).

Invariants: every row but the last is full and the last is not empty unless it is the only one; `link` of a held entry
is its row; an entry that is not held has `link` None. Memory: 10.3 bytes an entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ..base import Evictable

ROW_LENGTH: Final = 32
"""Entries in a row: the 32 draws of a sample, and a length at which a list wastes no room."""


class Residents:
    """A set of entries with O(1) insertion, removal and visit of the next row."""

    __slots__ = ("_count", "_hand", "_rows", "_tail")

    def __init__(self) -> None:
        self._rows: list[list[Evictable]] = [[]]
        self._tail = self._rows[0]
        self._hand = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, entry: Evictable) -> None:
        """Hold an entry."""
        tail = self._tail
        if len(tail) == ROW_LENGTH:
            tail = self._tail = []
            self._rows.append(tail)
        tail.append(entry)
        entry.link = tail
        self._count += 1

    def remove(self, entry: Evictable) -> None:
        """Let go of an entry; the last one takes its place."""
        row = entry.link
        self.remove_at(row, row.index(entry))

    def remove_at(self, row: list[Evictable], at: int) -> None:
        """Let go of the entry at a known place of a row."""
        entry = row[at]
        tail = self._tail
        last = tail.pop()
        if last is not entry:
            row[at] = last
            last.link = row
        entry.link = None
        self._count -= 1
        if not tail and len(self._rows) > 1:
            self._rows.pop()
            self._tail = self._rows[-1]

    def __iter__(self) -> Iterator[Evictable]:
        for row in self._rows:
            yield from row

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def next_row(self) -> list[Evictable]:
        """The row that is due; not empty while an entry is held. Not to be changed by the caller."""
        self._hand += 1
        if self._hand >= len(self._rows):
            self._hand = 0
        return self._rows[self._hand]

    def validate(self) -> None:
        """Check the invariants; raises AssertionError with what is wrong."""
        _check(self._tail is self._rows[-1], "the tail is not the last row")
        _check(sum(map(len, self._rows)) == self._count, "the count is not the sum of the rows")
        _check(all(len(row) == ROW_LENGTH for row in self._rows[:-1]), "a row before the last has a hole")
        _check(bool(self._tail) or len(self._rows) == 1, "an empty last row was kept")
        for row in self._rows:
            _check(all(entry.link is row for entry in row), "an entry does not link to its row")


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)
