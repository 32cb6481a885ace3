"""Last use and level of uses of keys that have left, in a table of 4 bytes a slot: no key, no list, no sweep.

Invariants: a key may be in one of two neighbouring slots; a newcomer takes the empty one, else that of the key that is
worth less (older, used less). There are 2.7 to 5.3 slots for each entry held, never fewer than 64. A false match needs
12 equal bits of hash in the same pair of slots: about 1 in 2,000, and does no more than misjudge one key.

Slot: hash bits 20-31 | worth, 12 bits, wrapping | level, 8 bits. Worth is the last tick plus 8 for each level. The
table doubles by copying itself: the index uses one bit of the hash more, and the copy in the wrong half is overwritten
like any other. Old slots need no ageing: ticks are compared when a key comes back (`stamps.MEMORY_TICKS`).
"""

from __future__ import annotations

from array import array
from typing import Final

from mypy_extensions import i64

from .stamps import AGE_SHIFT, LEVEL_MASK, LEVEL_MAX, TICK_SHIFT, TICKS

_SLOTS_MIN: Final = 64
LEVEL_TICKS: Final = TICKS // 2
"""So many ticks longer is a key worth remembering for each level: n requests for a doubling of its uses."""
_TAG_UNIT: Final = 1 << 20
_TAG_MASK: Final = 0xFFF00000
_AHEAD_MAX: Final = LEVEL_TICKS * LEVEL_MAX
_WORTH_MASK: Final = 0xFFF << 8
_LATER: Final = 0x800 << 8


class Ghosts:
    """Remembers about four times as many keys as entries are held."""

    __slots__ = ("_mask", "_slots")

    def __init__(self) -> None:
        self._slots = array("I", bytes(4 * _SLOTS_MIN))
        self._mask = _SLOTS_MIN - 1

    def __len__(self) -> int:
        return len(self._slots)

    def remember(self, digests: list[int], stamps: list[int]) -> None:
        """Keep last use and level of keys that leave, by the 32-bit hashes of the keys."""
        slots = self._slots
        mask: i64 = self._mask
        for number, stamp in enumerate(stamps):
            digest: i64 = digests[number]
            at = digest & mask
            found: i64 = slots[at]
            if found and found ^ digest >= _TAG_UNIT:
                other: i64 = slots[at ^ 1]
                if not other or (found - other) & _WORTH_MASK < _LATER:
                    at ^= 1
                    found = other
            bits: i64 = stamp
            level = bits & LEVEL_MASK
            new = digest & _TAG_MASK | ((bits >> TICK_SHIFT) + LEVEL_TICKS * level & 0xFFF) << 8 | level
            if (new - found) & _WORTH_MASK < _LATER or not found:
                slots[at] = new

    def recall(self, digests: list[int], tick: int) -> list[int]:
        """Ticks since the last use and level (see AGE_SHIFT) of keys that come back, and forget them; 0: not known."""
        slots = self._slots
        mask: i64 = self._mask
        recalled: list[int] = []
        for value in digests:
            digest: i64 = value
            at = digest & mask
            found: i64 = slots[at]
            if found ^ digest >= _TAG_UNIT:
                at ^= 1
                found = slots[at]
            if found ^ digest < _TAG_UNIT and found:
                slots[at] = 0
                level = found & LEVEL_MASK
                # The worth is ahead of its tick; ticks are counted back from as far ahead as it may be.
                age = (tick + _AHEAD_MAX - (found >> 8) & 0xFFF) - _AHEAD_MAX + LEVEL_TICKS * level
                recalled.append(age << AGE_SHIFT | level)
            else:
                recalled.append(0)
        return recalled

    def grow(self, entries: int) -> None:
        """Have room for what a cache of so many entries must remember."""
        while len(self._slots) * 3 < entries * 8:
            self._slots += self._slots
            self._mask = len(self._slots) - 1
