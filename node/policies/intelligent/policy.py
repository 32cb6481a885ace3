"""The policy itself: stamps entries when they are used, gives up the worst of a row, follows the shadows' choice.

Invariants: `order` of a held entry is its stamp, of an entry that has left it is GONE; the clock counts requests (hits,
newcomers, refused newcomers) and nothing else; a hit changes at most one slot of the entry and moves nothing. Victims
that were chosen ahead are still held, and are given up only if nobody has used them since.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final
from zlib import crc32

from ..base import Evictable
from .ghosts import Ghosts
from .residents import Residents
from .scores import all_scores
from .shadows import Shadows
from .stamps import GONE, SAMPLED, TICK_SHIFT, TICKS, VALUE_MASK, first_use, next_use, return_use, value_bits

_ADMIT_ROWS_MAX: Final = 64
_LARGE: Final = 2048
_VICTIMS: Final = 4
"""A cache of 2,048 entries or more gives up the worst four of a row, one after the other: a quarter of the work."""


_Chosen = tuple[Evictable, int, list[Evictable], int]
"""A victim chosen ahead: the entry, its stamp then, its row, its place in it."""


class _Steps(dict[int, int]):
    """Old stamp -> stamp after a use in the present tick; one int object for all entries of equal history."""

    __slots__ = ("tick",)

    def __init__(self, tick: int) -> None:
        self.tick = tick

    def __missing__(self, stamp: int) -> int:
        new = self[stamp] = next_use(stamp, self.tick)
        return new


class IntelligentPolicy:
    """Minimises the recompute cost of misses per byte held. Same seed, same calls: same victims."""

    name = "intelligent"

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed & 0xFFFFFFFF
        self._residents = Residents()
        self._ghosts = Ghosts()
        self._scores = all_scores()
        self._shadows = Shadows(self._scores)
        self._tick = 1
        self._left = 1.0  # requests until the next tick
        self._steps = _Steps(1)
        self._fresh: dict[int, int] = {}
        self._bytes = 0
        self._resized = False  # a size changed in place: what it was is not known, so the bytes are counted anew
        self._full = False
        self._chosen: deque[_Chosen] = deque()

    def __len__(self) -> int:
        return len(self._residents)

    @property
    def score(self) -> str:
        """Name of the score function in use."""
        return self._scores[self._shadows.best].name

    def on_insert(self, entry: Evictable) -> None:
        """Begin to hold an entry."""
        self._left -= 1
        if self._left <= 0:
            self._advance()
        entry.order = self._stamp_of_newcomer(entry.key, entry.size, entry.cost_s)
        self._residents.add(entry)
        self._bytes += entry.size

    def on_hits(self, entries: Sequence[Evictable]) -> None:
        """Take note of reads, in order."""
        at, end = 0, len(entries)
        while at < end:
            stop = min(end, at + max(1, int(self._left)))
            self._left -= stop - at
            if self._left <= 0:
                self._advance()
            part = entries if not at and stop == end else entries[at:stop]
            at = stop
            steps = self._steps
            limit = self._tick << TICK_SHIFT
            for entry in part:
                stamp = entry.order
                if stamp < limit:
                    entry.order = steps[stamp]
                    if stamp & SAMPLED:
                        self._follow(crc32(entry.key, self._seed), entry.size, entry.cost_s)

    def on_update(self, entry: Evictable) -> None:
        """Take note that size, cost or expiry changed in place."""
        entry.order = entry.order & ~VALUE_MASK | value_bits(entry.cost_s, entry.size)
        self._resized = True

    def on_remove(self, entry: Evictable) -> None:
        """Forget an entry that left for another reason than eviction."""
        self._residents.remove(entry)
        self._bytes -= entry.size
        entry.order = GONE

    def on_rewrite(self, entry: Evictable, grown: int) -> None:
        """A put of a held key, in place: what is known of the key stays."""
        entry.order = entry.order & ~VALUE_MASK | value_bits(entry.cost_s, entry.size)
        self._bytes += grown

    def admits(self, key: bytes, size: int, cost_s: float, bytes_needed: int) -> bool:
        """Whether a newcomer is worth what must leave for it; one that takes the room of one entry always is."""
        if size * len(self._residents) <= 2 * self._bytes or bytes_needed <= 0:
            return True
        digest = crc32(key, self._seed)
        last_tick, count = self._ghosts.recall(digest, self._tick)
        value = value_bits(cost_s, size)
        stamp = return_use(last_tick, count, self._tick, value) if count else first_use(self._tick, value)
        if self._choose_below(stamp, bytes_needed):
            if count:
                self._ghosts.remember(digest, last_tick << TICK_SHIFT | count)
            return True
        self._full = True
        self._ghosts.remember(digest, stamp)
        self._left -= 1
        if self._left <= 0:
            self._advance()
        if self._shadows.samples(digest):
            self._follow(digest, size, cost_s)
        return False

    def pop_victim(self) -> Evictable:
        """Give up one entry and forget it."""
        self._full = True
        chosen = self._chosen
        residents = self._residents
        while chosen:
            entry, stamp, row, at = chosen.popleft()
            if entry.order == stamp:
                if at < len(row) and row[at] is entry:
                    residents.remove_at(row, at)
                else:
                    residents.remove(entry)
                self._note_leaving(entry)
                return entry
        row = residents.next_row()
        stamps = [entry.order for entry in row]
        ranks = self._scores[self._shadows.best].rank(stamps, self._tick)
        if len(residents) >= _LARGE:
            limit = sorted(ranks)[_VICTIMS - 1 if len(ranks) > _VICTIMS else 0]
            below = [
                (entry, stamp, row, at)
                for at, (entry, stamp, rank) in enumerate(zip(row, stamps, ranks, strict=True))
                if rank <= limit
            ]
            chosen.extend(below[1:_VICTIMS])
            at = below[0][3]
        else:
            at = ranks.index(min(ranks))
        entry = row[at]
        residents.remove_at(row, at)
        self._note_leaving(entry)
        return entry

    def validate(self) -> None:
        """Check the internals; raises AssertionError with what is wrong. For tests."""
        self._residents.validate()
        self._shadows.validate()
        if not self._resized and self._bytes != sum(entry.size for entry in self._residents):
            raise AssertionError("the bytes do not add up")

    def _note_leaving(self, entry: Evictable) -> None:
        self._bytes -= entry.size
        self._ghosts.remember(crc32(entry.key, self._seed), entry.order)
        entry.order = GONE

    def _choose_below(self, stamp: int, bytes_needed: int) -> bool:
        """Choose victims that are worth less than a newcomer, until they free enough; False when they can't."""
        score, tick = self._scores[self._shadows.best], self._tick
        limit = score.rank((stamp,), tick)[0]
        found: list[_Chosen] = []
        freed = 0
        rows = self._residents.rows
        for _ in range(min(rows, _ADMIT_ROWS_MAX)):
            row = self._residents.next_row()
            ranked = score.rank([entry.order for entry in row], tick)
            for rank, at in sorted(zip(ranked, range(len(row)), strict=True)):
                if rank >= limit or freed >= bytes_needed:
                    break
                entry = row[at]
                found.append((entry, entry.order, row, at))
                freed += entry.size
            if freed >= bytes_needed:
                break
        if freed < bytes_needed and (rows <= _ADMIT_ROWS_MAX or freed * rows < bytes_needed * _ADMIT_ROWS_MAX):
            return False
        self._chosen = deque(found)
        return True

    def _stamp_of_newcomer(self, key: bytes, size: int, cost_s: float) -> int:
        digest = crc32(key, self._seed)
        tick = self._tick
        value = value_bits(cost_s, size)
        last_tick, count = self._ghosts.recall(digest, tick)
        stamp = return_use(last_tick, count, tick, value) if count else first_use(tick, value)
        if self._shadows.samples(digest):
            self._follow(digest, size, cost_s)
            stamp |= SAMPLED
        return self._fresh.setdefault(stamp, stamp)

    def _follow(self, digest: int, size: int, cost_s: float) -> None:
        if self._shadows.samples(digest):
            room = self._bytes if self._full else float("inf")
            self._shadows.request(digest, size, cost_s, value_bits(cost_s, size), room)

    def _advance(self) -> None:
        entries = len(self._residents)
        step = entries / TICKS
        while self._left <= 0:
            self._tick += 1
            self._left += max(step, 0.0625)
        self._steps = _Steps(self._tick)
        self._fresh = {}
        self._ghosts.grow(entries)
        if self._resized and not self._tick % TICKS:
            self._bytes = sum(entry.size for entry in self._residents)
            self._resized = False
