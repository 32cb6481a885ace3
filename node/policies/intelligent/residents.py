"""The entries that a policy has looked at, in rows that are visited one after the other.

A batch of newcomers waits at the door for a short while, and then meets a row: the worst of both together leave, as
many as the batch has, and the rest stays in the row. So each row is a sample of all ages, a newcomer that is worth
nothing is gone soon, and the oldest entry of a row that is due is about as old as the oldest of so many drawn at
random, without drawing (a cache of 48 ways and random placement; the sweep is CLOCK's). What one visit costs is shared
by the whole batch: four entries are looked at for each that leaves, in a large cache.

Invariants: `link` of an entry is the row or batch that it stands in. No row is longer than 48; one that evictions find
nearly empty is joined to a neighbour. Memory: 10 bytes an entry.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import Final

from librt.vecs import vec
from mypy_extensions import i64

from ..base import Evictable
from .scores import PLACE_MASK, Score, read_stamps
from .stamps import GONE

ROW_LENGTH: Final = 48
"""Entries in a row: so many that meet a batch. With 24 or 64 some traces lost half a point."""
BATCH_MAX: Final = 8
"""Entries taken in and given up together in a cache of 4,096 or more; in smaller ones one for each 256 entries held."""
_BATCH_SHARE: Final = 256
DOOR_SHARE: Final = 64
"""One entry in so many waits at the door."""
SHARED_MIN: Final = 4
"""Fewer rows are not shared out among functions."""
BELOW_ROWS_MIN: Final = 8
BELOW_TIMES: Final = 8
"""What is to leave for a large newcomer is looked for among so many times its bytes, in so many rows at least."""


class Residents:
    """A set of entries with O(1) insertion, removal and choice of what is to leave."""

    __slots__ = ("_count", "_door", "_door_length", "_hand", "_rows")

    def __init__(self) -> None:
        self._rows: list[list[Evictable]] = [[]]
        self._hand = 0
        self._door: deque[list[Evictable]] = deque()
        self._door_length = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Evictable]:
        return chain(*self._door, *self._rows)

    def take_in(self, batch: list[Evictable]) -> None:
        """Hold newcomers, whose list it keeps: their `link` leads to it already."""
        self._count += len(batch)
        door = self._door
        door.append(batch)
        if len(door) > self._door_length + 2:  # no eviction has asked for them: the cache still fills
            batch = door.popleft()
            row = self._rows[-1]
            if len(row) + len(batch) > ROW_LENGTH:
                row = []
                self._rows.append(row)
            _join(row, batch)

    def turn(self) -> float:
        """Where the row that is due next stands among all rows, from 0 to 1; -1 where there are only a few."""
        rows = len(self._rows)
        return ((self._hand + 1) % rows + 0.5) / rows if rows >= SHARED_MIN else -1.0

    def removed(self, count: int) -> None:
        """Take note that so many entries have been taken out of the lists that they link to."""
        self._count -= count

    def resize(self, entries: int) -> int:
        """Fit the door to the number of entries; gives how many should be taken in at a time."""
        batch_length = min(BATCH_MAX, entries // _BATCH_SHARE + 1)
        self._door_length = entries // (DOOR_SHARE * batch_length)
        return batch_length

    def worst(self, score: Score, tick: i64, count: int) -> list[Evictable]:
        """Let go of the worst of the row that is due and of the batch that waits longest; the worst is the last.

        Gives as many as the batch has, `count` where none has waited long enough, at least one. Only to be called while
        an entry is held.
        """
        row, batch = self._due()
        newcomers: i64 = len(batch)
        # Of equals the first leave, newcomers before others: in a loop the last used is the last to be used again.
        stamps = vec[i64]([0] * (newcomers + len(row)))
        read_stamps(batch, stamps, 0)
        read_stamps(row, stamps, newcomers)
        ranks = score.lowest(stamps, tick, newcomers or count, newcomers)
        worst: list[Evictable] = []
        at: i64 = len(ranks)
        while at > 0:
            at -= 1
            place = ranks[at] & PLACE_MASK
            worst.append(batch[place] if place < newcomers else row[place - newcomers])
            stamps[place] = GONE
        self._count -= len(worst)
        at = len(stamps)
        while at > newcomers:
            at -= 1
            if stamps[at] == GONE:
                row.pop(at - newcomers)
        stay = [entry for number, entry in enumerate(batch) if stamps[number] != GONE]
        for entry in stay:
            entry.link = row
        row[:0] = stay
        return worst

    def below(self, score: Score, tick: int, limit: int, bytes_needed: int, share: float) -> list[Evictable] | None:
        """Entries that rank below `limit` and free that many bytes together; None when not enough of them are found.

        `share`: of all bytes, what is needed. Only in rows that hold a few times as much is it looked for, so that the
        price of a newcomer does not grow with the cache. To take what lies there and leave the rest to chance would
        cost entries that are worth more than the newcomer.
        """
        found: list[Evictable] = []
        freed = 0
        rows = self._rows
        looks = min(len(rows), max(BELOW_ROWS_MIN, int(BELOW_TIMES * share * len(rows))))
        for _ in range(looks):
            if freed >= bytes_needed:
                break
            self._hand = (self._hand + 1) % len(rows)
            row = rows[self._hand]
            stamps = vec[i64]([0] * len(row))
            read_stamps(row, stamps, 0)
            for rank in score.lowest(stamps, tick, len(row), 0, limit):
                if freed >= bytes_needed:
                    break
                entry = row[rank & PLACE_MASK]
                found.append(entry)
                freed += entry.size
        return found if freed >= bytes_needed else None

    def _due(self) -> tuple[list[Evictable], list[Evictable]]:
        """The row that is due and the batch that meets it; not both empty."""
        door = self._door
        batch = door.popleft() if len(door) > self._door_length else []
        for _ in range(len(self._rows)):
            row = self._next_row()
            if row:
                return row, batch
        while not batch:
            batch = door.popleft()
        return self._rows[0], batch

    def _next_row(self) -> list[Evictable]:
        rows = self._rows
        self._hand += 1
        if self._hand >= len(rows):
            self._hand = 0
            last = rows[-1]
            if len(rows) > 1 and len(last) + len(rows[0]) <= ROW_LENGTH:
                _join(rows[0], rows.pop())
            return rows[0]
        row = rows[self._hand]
        before = rows[self._hand - 1]
        if len(row) + len(before) <= ROW_LENGTH // 2:
            _join(before, row)
            rows[self._hand] = rows[-1]
            rows.pop()
            return before
        return row

    def validate(self) -> None:
        """Check the invariants; raises AssertionError with what is wrong."""
        lists = [*self._door, *self._rows]
        _check(sum(map(len, lists)) == self._count, "the count is not the sum of the rows")
        _check(all(len(row) <= ROW_LENGTH for row in self._rows), "a row is too long")
        for row in lists:
            _check(all(entry.link is row for entry in row), "an entry does not link to its row")


def _join(row: list[Evictable], others: list[Evictable]) -> None:
    row += others
    for entry in others:
        entry.link = row


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)
