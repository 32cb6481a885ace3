"""The policy itself: stamps entries when they are used, gives up the worst of a row, follows the shadows' choice.

What can wait is done for a batch of newcomers or of condemned entries at once: that is what makes it fast in Python.

Invariants: `stamp` of a held entry is packed as stamps.py says, or the complement of that while the entry is condemned;
of an entry that has left it is GONE. `link` is the list that it stands in: the newcomers, the condemned, or one of the
residents'. The clock counts requests (hits, newcomers, refused newcomers) and nothing else; a hit changes at most one
slot of the entry and moves nothing. A condemned entry is still held, and is given up only if nobody has used it since.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from librt.vecs import append, vec
from mypy_extensions import i64

from ..base import Evictable, Policy, evictable
from .digests import Digests
from .ghosts import Ghosts
from .residents import Residents
from .scores import PLACE_BITS, all_scores
from .shadows import Shadows
from .stamps import (
    AGE_SHIFT,
    COMPILED,
    GONE,
    INTERVAL_SHIFT,
    INTERVALS,
    INTERVALS_MAX,
    KEPT_MASK,
    LEVEL_MASK,
    SAMPLED,
    TICK_SHIFT,
    TICKS,
    VALUE_MASK,
    first_use,
    levels_after,
    return_use,
    value_bits,
)


class IntelligentPolicy(Policy):
    """Minimises the recompute cost of misses per byte held. Same seed, same calls: same victims."""

    name = "intelligent"

    def __init__(self, seed: int = 0) -> None:
        self._digests = Digests(seed)
        self._residents = Residents()
        self._newcomers: list[Evictable] = []
        self._batch_length = 1
        self._condemned: list[Evictable] = []
        self._ghosts = Ghosts()
        self._scores = all_scores()
        self._shadows = Shadows(self._scores)
        self._score = self._scores[self._shadows.best]
        self._tick = 1
        self._now: i64 = 1 << TICK_SHIFT
        self._levels_after = levels_after(1)
        self._tick_length = 1
        self._left = 1.0  # requests until the next tick
        self._shared: dict[int, int] = {}  # not compiled: one int object for all equal stamps of a tick; these are few
        self._new: i64 = first_use(1, 0)  # the stamp of newcomers until their batch is complete
        self._size_before = -1  # of the last newcomer: the next is often like it
        self._cost_before = 0.0
        self._value_before: i64 = 0
        self._resized = False  # a size changed in place: what it was is not known, so the bytes are counted anew
        self._bytes = 0  # of the residents
        self._full = False

    def __len__(self) -> int:
        return len(self._residents) + len(self._newcomers) + len(self._condemned)

    @property
    def score(self) -> str:
        """Name of the score function that most rows use."""
        return self._score.name

    def on_insert(self, entry: Evictable) -> None:
        """Begin to hold an entry."""
        entry.stamp = self._new
        entry.link = newcomers = self._newcomers
        newcomers.append(entry)
        if len(newcomers) >= self._batch_length:
            self._take_in()

    def _take_in(self) -> None:
        """Give the newcomers their stamps, by what is remembered of them, and let them wait at the door."""
        newcomers = self._newcomers
        self._newcomers = []
        self._left -= len(newcomers)
        if self._left <= 0:
            self._advance()
        now, shared, levels_after_use = self._now, self._shared, self._levels_after
        sample_limit: i64 = self._shadows.limit
        digests = self._digests.of_all(newcomers)
        recalled = self._ghosts.recall(digests, self._tick)
        for at, entry in enumerate(newcomers):
            size = entry.size
            cost_s = entry.cost_s
            if size != self._size_before or cost_s != self._cost_before:
                self._size_before = size
                self._cost_before = cost_s
                self._value_before = value_bits(cost_s, size)
            self._bytes += size
            stamp = now | self._value_before | 1
            digest = digests[at]
            remembered = recalled[at]
            if remembered:
                stamp = return_use(remembered, now | self._value_before, levels_after_use)
            if digest < sample_limit:
                level: i64 = self._follow(digest, size, cost_s)
                if level > stamp & LEVEL_MASK:
                    stamp = stamp & ~LEVEL_MASK | level
                stamp |= SAMPLED
            if COMPILED:
                entry.stamp = stamp
            else:
                entry.stamp = shared.setdefault(stamp, stamp)
        self._residents.take_in(newcomers)

    def on_hits(self, entries: Sequence[Evictable]) -> None:
        """Take note of reads, in order."""
        hits = entries if isinstance(entries, list) else list(entries)
        if len(hits) > self._tick_length:
            for at in range(0, len(hits), self._tick_length):
                self._on_hits_in_tick(hits[at : at + self._tick_length])
        else:
            self._on_hits_in_tick(hits)

    def _on_hits_in_tick(self, entries: list[Evictable]) -> None:
        self._left -= len(entries)
        if self._left <= 0:
            self._advance()
        now = self._now
        shared, levels_after_use = self._shared, self._levels_after
        for entry in entries:
            stamp = entry.stamp
            if stamp < now:
                if stamp < 0:  # it was condemned
                    stamp = ~stamp
                    entry.stamp = stamp
                    if stamp >= now:
                        continue
                ticks = (now - stamp) >> TICK_SHIFT
                ticks = min(ticks, INTERVALS_MAX)
                interval: i64 = INTERVALS[ticks]
                level: i64 = levels_after_use[stamp & LEVEL_MASK]
                used = now | stamp & KEPT_MASK | interval << INTERVAL_SHIFT | level
                if COMPILED:  # two statements: an expression would make an object of it first
                    entry.stamp = used
                else:
                    entry.stamp = shared.setdefault(used, used)
                if stamp & SAMPLED:
                    self._follow_hit(entry)

    def on_update(self, entry: Evictable) -> None:
        """Take note that size, cost or expiry changed in place."""
        entry.stamp = _stamp(entry) & ~VALUE_MASK | value_bits(entry.cost_s, entry.size)
        self._resized = True

    def on_remove(self, entry: Evictable) -> None:
        """Forget an entry that left for another reason than eviction."""
        self._take_out(entry, entry.link)
        entry.stamp = GONE

    def on_rewrite(self, entry: Evictable, grown: int) -> None:
        """A put of a held key, in place: what is known of the key stays."""
        entry.stamp = _stamp(entry) & ~VALUE_MASK | value_bits(entry.cost_s, entry.size)
        if entry.link is not self._newcomers and entry.link is not self._condemned:
            self._bytes += grown

    def admits(self, key: bytes, size: int, cost_s: float, bytes_needed: int) -> bool:
        """Whether a newcomer is worth what must leave for it; one that takes the room of one entry always is."""
        if size * len(self._residents) <= 2 * self._bytes or bytes_needed <= 0:
            return True
        digest = self._digests.of(key)
        tick = self._tick
        now = self._now | value_bits(cost_s, size)
        remembered = self._ghosts.recall(vec[i64]([digest]), tick)[0]
        newcomer = evictable(key, size, cost_s)
        newcomer.stamp = return_use(remembered, now, self._levels_after) if remembered else now | 1
        if self._condemn_below(newcomer, bytes_needed):
            if remembered:
                age, level = remembered >> AGE_SHIFT, remembered & LEVEL_MASK
                self._ghosts.remember(vec[i64]([digest]), vec[i64]([(tick - age) << TICK_SHIFT | level]))
            return True
        self._full = True
        self._ghosts.remember(vec[i64]([digest]), vec[i64]([newcomer.stamp]))
        self._left -= 1
        if self._left <= 0:
            self._advance()
        if digest < self._shadows.limit:
            self._follow(digest, size, cost_s)
        return False

    def pop_victim(self) -> Evictable:
        """Give up one entry and forget it."""
        while True:
            condemned = self._condemned
            while condemned:
                entry = condemned.pop()
                if entry.stamp < 0:
                    entry.stamp = GONE
                    entry.link = None
                    return entry
                entry.link = self._newcomers  # it was used meanwhile
                self._newcomers.append(entry)
            if not len(self._residents):
                self._take_in()
            self._full = True
            score = self._scores[self._shadows.function_at(self._residents.turn())]
            self._condemn(self._residents.worst(score, self._tick, self._batch_length))

    def validate(self) -> None:
        """Check the internals; raises AssertionError with what is wrong. For tests."""
        self._residents.validate()
        self._shadows.validate()
        if not self._resized and self._bytes != sum(entry.size for entry in self._residents):
            raise AssertionError("the bytes do not add up")
        if any(entry.stamp < 0 for entry in (*self._residents, *self._newcomers)):
            raise AssertionError("an entry is condemned and not among the condemned")
        for entries in (self._newcomers, self._condemned):
            if any(entry.link is not entries for entry in entries):
                raise AssertionError("an entry does not link to the list that it stands in")

    def _condemn(self, entries: list[Evictable]) -> None:
        """Let entries that have left the residents leave the policy next, the last one first, unless they are used."""
        condemned = self._condemned
        if condemned:
            condemned += entries
        else:
            condemned = self._condemned = entries
        freed = 0
        stamps = vec[i64](capacity=len(entries))
        for entry in entries:
            stamp = entry.stamp
            stamps = append(stamps, stamp)
            entry.stamp = ~stamp
            entry.link = condemned
            freed += entry.size
        self._ghosts.remember(self._digests.of_all(entries), stamps)
        self._bytes -= freed

    def _condemn_below(self, newcomer: Evictable, bytes_needed: int) -> bool:
        """Condemn entries that are worth less than a newcomer until they free enough; False when they can't."""
        needed = bytes_needed - sum(entry.size for entry in self._condemned if entry.stamp < 0)
        limit = self._score.lowest(vec[i64]([newcomer.stamp]), self._tick, 1)[0] >> PLACE_BITS
        share = needed / max(self._bytes, 1)
        found = self._residents.below(self._score, self._tick, limit, needed, share)
        if found is None:
            return False
        for entry in found:
            entry.link.remove(entry)
        self._residents.removed(len(found))
        self._condemn(found)
        return True

    def _take_out(self, entry: Evictable, row: list[Evictable]) -> None:
        row.remove(entry)
        entry.link = None
        if row is not self._newcomers and row is not self._condemned:
            self._residents.removed(1)
            self._bytes -= entry.size

    def _follow(self, digest: int, size: int, cost_s: float) -> int:
        level = self._shadows.request(digest, size, cost_s, self._bytes if self._full else inf)
        self._score = self._scores[self._shadows.best]
        return level

    def _follow_hit(self, entry: Evictable) -> None:
        digest = self._digests.of(entry.key)
        if digest < self._shadows.limit:
            self._follow(digest, entry.size, entry.cost_s)
        else:  # the sample has shrunk
            entry.stamp &= ~SAMPLED

    def _advance(self) -> None:
        entries = len(self)
        step = entries / TICKS
        self._tick_length = int(step) or 1
        while self._left <= 0:
            self._tick += 1
            self._left += max(step, 0.0625)
        self._now = self._tick << TICK_SHIFT
        self._levels_after = levels_after(self._tick)
        self._shared = {}
        self._new = first_use(self._tick, 0)
        self._ghosts.grow(entries)
        self._batch_length = self._residents.resize(entries)
        if self._resized and not self._tick % TICKS:
            self._bytes = sum(entry.size for entry in self._residents)
            self._resized = False


def _stamp(entry: Evictable) -> i64:
    stamp = entry.stamp
    return stamp if stamp >= 0 else ~stamp
