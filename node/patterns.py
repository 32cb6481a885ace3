"""Access patterns: which keys come again at regular intervals, and when the next access is due.

A leaf: it imports nothing of the node, reads no clock, and is fed with keys and times. Of each key it keeps how often
it was read and the last eight seconds in which it was read, its visits; intervals are those between visits. So two
observers of one key merge exactly: counts add up, visits are united, and the result is what one observer of both
would hold, in whatever order they are merged. A key that changes its habit is known by its new one after eight visits.

Invariants: at most `keys_max` keys and `bytes_max` bytes are held, whatever is read; a key that was visited once or
twice never pushes out one that is known better as long as such keys take a quarter of the places; a key with fewer
than three visits is never regular; a time before the last visit counts and moves nothing.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Generic, TypeVar

ACCESSES_MIN: Final = 3
VARIATION_MAX: Final = 0.5
VISITS_KEPT: Final = 8
ROW_BYTES: Final = 384
"""What one key costs at most beside its own bytes: visits and count (40), places in tables that turn over, headers of
objects. Measured: tests/intelligence/test_patterns.py."""
KEY_BYTES_MAX: Final = 512
"""Longer keys are not followed."""
BYTES_MAX: Final = 16 << 20
KEYS_MAX: Final = 24_576
_NEW_SHARE: Final = 4  # keys of one or two visits may take a quarter of the places when others need them

K = TypeVar("K", str, bytes)


@dataclass(frozen=True, slots=True)
class Pattern:
    """What is known of one key: how often it was read, and its last visits (seconds, ascending, up to eight)."""

    count: int
    visits_s: tuple[int, ...]

    @property
    def last_ms(self) -> int:
        """When it was read last, to the second."""
        return self.visits_s[-1] * 1000

    @property
    def mean_ms(self) -> float:
        """Mean of the intervals between the visits that are kept; 0 with fewer than two."""
        intervals = len(self.visits_s) - 1
        return 1000 * (self.visits_s[-1] - self.visits_s[0]) / intervals if intervals > 0 else 0.0

    @property
    def variance_ms2(self) -> float:
        """Variance of those intervals in square milliseconds."""
        visits = self.visits_s
        if len(visits) < 2:
            return 0.0
        mean_s = (visits[-1] - visits[0]) / (len(visits) - 1)
        squares = sum((later - earlier - mean_s) ** 2 for earlier, later in pairwise(visits))
        return 1e6 * squares / (len(visits) - 1)

    @property
    def regular(self) -> bool:
        """Whether the intervals vary by half of their mean at most, over three visits or more."""
        if len(self.visits_s) < ACCESSES_MIN:
            return False
        deviation: float = self.variance_ms2**0.5
        return deviation <= VARIATION_MAX * self.mean_ms

    @property
    def next_ms(self) -> int:
        """When the next visit is due, if the pattern goes on."""
        return self.last_ms + round(self.mean_ms)


def merged(parts: Iterable[Pattern]) -> Pattern:
    """The pattern of a key that several have observed: what one observer of all its accesses would know."""
    known = list(parts)
    visits = set[int]().union(*[part.visits_s for part in known])
    return Pattern(sum([part.count for part in known]), tuple(sorted(visits)[-VISITS_KEPT:]))


@dataclass(frozen=True, slots=True)
class Slice(Generic[K]):
    """Patterns in columns, for a reader that takes many: `visits` holds eight numbers a key, 0 where there is none."""

    keys: list[K]
    counts: array[int]
    visits: array[int]


class AccessPatterns(Generic[K]):
    """The patterns of up to `keys_max` keys in up to `bytes_max` bytes. Noting an access is O(1)."""

    def __init__(self, keys_max: int = KEYS_MAX, bytes_max: int = BYTES_MAX) -> None:
        self.keys_max = keys_max
        self.bytes_max = bytes_max
        self.bytes_used = 0
        self._new: OrderedDict[K, int] = OrderedDict()  # key -> row; least recently visited first
        self._known: OrderedDict[K, int] = OrderedDict()  # three visits and more
        self._changed_new: dict[K, None] = {}
        self._changed_known: dict[K, None] = {}
        self._counts = array("Q")
        self._visits = array("I")
        self._free: list[int] = []

    def note(self, key: K, now_s: int, times: int = 1) -> None:
        """Take note of `times` accesses in this second (above 0)."""
        row = self._known.get(key)
        if row is not None:
            self._counts[row] += times
            if self._visit(row * VISITS_KEPT, now_s):
                self._known.move_to_end(key)
                self._changed_known[key] = None
            return
        row = self._new.get(key)
        if row is None:
            self._enter(key, now_s, times)
            return
        self._counts[row] += times
        start = row * VISITS_KEPT
        if not self._visit(start, now_s):
            return
        if self._visits[start + VISITS_KEPT - ACCESSES_MIN]:
            self._known[key] = self._new.pop(key)
            self._changed_new.pop(key, None)
            self._changed_known[key] = None
        else:
            self._new.move_to_end(key)
            self._changed_new[key] = None

    def _visit(self, start: int, now_s: int) -> bool:
        visits = self._visits
        end = start + VISITS_KEPT - 1
        if now_s <= visits[end]:
            return False
        visits[start:end] = visits[start + 1 : end + 1]
        visits[end] = now_s
        return True

    def _enter(self, key: K, now_s: int, times: int) -> None:
        size = len(key)
        if size > KEY_BYTES_MAX or now_s <= 0:
            return
        self.bytes_used += ROW_BYTES + size
        if self._free:
            row = self._free.pop()
        else:
            row = len(self._counts)
            self._counts.append(0)
            self._visits.extend((0,) * VISITS_KEPT)
        self._counts[row] = times
        start = row * VISITS_KEPT
        for at in range(start, start + VISITS_KEPT - 1):
            self._visits[at] = 0
        self._visits[start + VISITS_KEPT - 1] = now_s
        self._new[key] = row
        self._changed_new[key] = None
        while len(self) > self.keys_max or self.bytes_used > self.bytes_max:
            self._forget_one()

    def _forget_one(self) -> None:
        if self._known and len(self._new) <= len(self) // _NEW_SHARE:
            key, row = self._known.popitem(last=False)
            self._changed_known.pop(key, None)
        else:
            key, row = self._new.popitem(last=False)
            self._changed_new.pop(key, None)
        self._free.append(row)
        self.bytes_used -= ROW_BYTES + len(key)

    def read(self, key: K, now_ms: int) -> Pattern | None:
        """Take note of one access, and give what is known then; None where the key is not followed."""
        self.note(key, now_ms // 1000)
        return self.get(key)

    def get(self, key: K) -> Pattern | None:
        """What is known of a key."""
        row = self._known.get(key)
        if row is None:
            row = self._new.get(key)
        return None if row is None else self._pattern(row)

    def _pattern(self, row: int) -> Pattern:
        visits = self._visits[row * VISITS_KEPT : (row + 1) * VISITS_KEPT]
        return Pattern(self._counts[row], tuple(visit for visit in visits if visit))

    def upcoming(self, now_ms: int, horizon_ms: int) -> Iterator[tuple[K, Pattern]]:
        """The regular keys whose next visit is due within the horizon, or has been for no longer than that."""
        for key, row in self._known.items():
            pattern = self._pattern(row)
            if pattern.regular and abs(pattern.next_ms - now_ms) <= horizon_ms:
                yield key, pattern

    def known(self, count_max: int) -> Iterator[tuple[K, Pattern]]:
        """Keys of three visits and more, the most recently visited first."""
        for _, key in zip(range(count_max), reversed(self._known), strict=False):
            yield key, self._pattern(self._known[key])

    def take_changed(self, count_max: int) -> Slice[K]:
        """What changed since it was taken last, up to `count_max` keys; those of three visits and more come first."""
        keys: list[K] = []
        for changed in (self._changed_known, self._changed_new):
            taken = [key for _, key in zip(range(count_max - len(keys)), changed, strict=False)]
            if len(taken) == len(changed):
                changed.clear()
            else:
                for key in taken:
                    del changed[key]
            keys += taken
        counts, visits = array("Q"), array("I")
        for key in keys:
            row = self._known.get(key)
            if row is None:
                row = self._new[key]
            counts.append(self._counts[row])
            visits += self._visits[row * VISITS_KEPT : (row + 1) * VISITS_KEPT]
        return Slice(keys, counts, visits)

    def mark(self, key: K) -> None:
        """Count a key as changed: there is news of its entry."""
        if key in self._known:
            self._changed_known[key] = None
        elif key in self._new:
            self._changed_new[key] = None

    def forget_taken(self) -> None:
        """Count everything as changed: for a reader that begins anew."""
        self._changed_known = dict.fromkeys(self._known)
        self._changed_new = dict.fromkeys(self._new)

    def __len__(self) -> int:
        return len(self._new) + len(self._known)

    def validate(self) -> None:
        """Check the internals; raises AssertionError with what is wrong. For tests."""
        assert not self._new.keys() & self._known.keys()
        assert len(self) <= self.keys_max
        assert self.bytes_used == sum(ROW_BYTES + len(key) for keys in (self._new, self._known) for key in keys)
        assert self.bytes_used <= self.bytes_max
        assert self._changed_new.keys() <= self._new.keys()
        assert self._changed_known.keys() <= self._known.keys()
        rows = sorted([*self._new.values(), *self._known.values(), *self._free])
        assert rows == list(range(len(self._counts)))
