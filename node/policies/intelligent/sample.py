"""What is known of the keys that the shadow caches follow: a record for each, in packed numbers, shared by all of them.

A record is found by the 32-bit hash of its key, and goes by its slot otherwise. Slots do not move unless `shrink` says
so; those of forgotten keys are used again.

Invariants: bit i of a slot's `held` says whether shadow i holds the key; what is held is not forgotten. The index is a
power of two long, at most three quarters of it are taken, and probing is linear. Memory: 17 bytes a key, and 5 to 11
more for the index.
"""

from __future__ import annotations

from typing import Final

from librt.vecs import append, pop, vec
from mypy_extensions import i32, i64, u8

_INDEX_MIN: Final = 64
_SIZE_MAX: Final = 0x7FFFFFFF
"""Larger entries are taken for entries of this size."""


_FREE: Final = 0x80
"""In `held`: there is no record in this slot."""
HOLDERS_MAX: Final = 7


class Sample:
    """A table from hashes of keys to stamps, sizes and who holds them."""

    __slots__ = ("_digests", "_free", "_index", "_mask", "held", "sizes", "stamps")

    def __init__(self) -> None:
        self._digests = vec[i32]()
        self._free = vec[i32]()
        self._index = vec[i32]([0] * _INDEX_MIN)  # slot + 1; 0: nothing
        self._mask: i64 = _INDEX_MIN - 1
        self.stamps = vec[i64]()
        """By slot: as stamps.py says, in the shadows' own ticks."""
        self.sizes = vec[i32]()
        self.held = vec[u8]()

    def __len__(self) -> int:
        return len(self._digests) - len(self._free)

    def find(self, digest: i64) -> i64:
        """The slot of a key; -1 where it is not known."""
        index, digests, mask = self._index, self._digests, self._mask
        wanted = _signed(digest)
        at = digest & mask
        while index[at]:
            slot = i64(index[at]) - 1
            if digests[slot] == wanted:
                return slot
            at = at + 1 & mask
        return -1

    def add(self, digest: i64, stamp: i64, size: i64) -> i64:
        """Make a record of a key that is not known; gives its slot."""
        if len(self._free):
            self._free, last = pop(self._free)
            slot = i64(last)
            self._digests[slot] = _signed(digest)
            self.stamps[slot] = stamp
            self.held[slot] = 0
        else:
            slot = len(self._digests)
            self._append(digest, stamp)
        if 4 * len(self._digests) > 3 * len(self._index):
            self._index_anew(2 * len(self._index))
        else:
            self._enter(digest, slot)
        self.resize(slot, size)
        return slot

    def resize(self, slot: i64, size: i64) -> None:
        """Note the size of a key that nobody holds."""
        self.sizes[slot] = i32(min(size, _SIZE_MAX))

    def forget(self) -> None:
        """Forget the older half of the keys that nobody holds."""
        stamps, held = self.stamps, self.held
        gone = sorted([(stamps[slot], slot) for slot in range(len(stamps)) if not held[slot]])
        for _, slot in gone[: len(gone) // 2 + 1]:
            held[slot] = _FREE
            self._free = append(self._free, i32(slot))
        self._index_anew(len(self._index))

    def shrink(self, limit: i64) -> vec[i64]:
        """Keep the keys with hashes below a limit only; gives the new slots by the old ones, -1 for who is gone."""
        digests, stamps, sizes, held = self._digests, self.stamps, self.sizes, self.held
        self._digests, self.stamps, self.sizes = vec[i32](), vec[i64](), vec[i32]()
        self.held = vec[u8]()
        self._free = vec[i32]()
        moved = vec[i64](capacity=len(digests))
        for slot in range(len(digests)):
            digest = i64(digests[slot]) & 0xFFFFFFFF
            if digest < limit and held[slot] != _FREE:
                moved = append(moved, len(self._digests))
                self._append(digest, stamps[slot])
                self.sizes[-1] = sizes[slot]
                self.held[-1] = held[slot]
            else:
                moved = append(moved, -1)
        self._index_anew(len(self._index))
        return moved

    def validate(self) -> None:
        """Check the invariants; raises AssertionError with what is wrong."""
        for slot, digest in enumerate(self._digests):
            if self.held[slot] != _FREE and self.find(i64(digest) & 0xFFFFFFFF) != slot:
                raise AssertionError(f"the key in slot {slot} is not found by its hash")
        entered = sum([1 for place in self._index if place])
        if entered != len(self):
            raise AssertionError(f"the index has {entered} keys, and {len(self)} are known")

    def _append(self, digest: i64, stamp: i64) -> None:
        self._digests = append(self._digests, _signed(digest))
        self.stamps = append(self.stamps, stamp)
        self.sizes = append(self.sizes, 0)
        self.held = append(self.held, 0)

    def _index_anew(self, length: int) -> None:
        self._index = vec[i32]([0] * length)
        self._mask = length - 1
        for slot in range(len(self._digests)):
            if self.held[slot] != _FREE:
                self._enter(i64(self._digests[slot]), slot)

    def _enter(self, digest: i64, slot: i64) -> None:
        index, mask = self._index, self._mask
        at = digest & mask
        while index[at]:
            at = at + 1 & mask
        index[at] = i32(slot + 1)


def _signed(digest: i64) -> i32:
    return i32(digest - (digest >> 31 << 32))
