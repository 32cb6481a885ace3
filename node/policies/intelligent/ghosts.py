"""Last use and count of keys that have left, in a table of 4 bytes a slot: no key, no list, no sweep.

Invariants: a key may be in one of two neighbouring slots; a newcomer takes the empty one, else that of the key that is
worth less (older, used less). There are 2.7 to 5.3 slots for each entry held, never fewer than 64. A false match needs
12 equal bits of hash in the same pair of slots: about 1 in 2,000, and does no more than misjudge one key.

Slot: hash bits 20-31 | last tick, 12 bits, wrapping | count, 8 bits. The table doubles by copying itself: the index
uses one bit of the hash more, and the copy in the wrong half is overwritten like any other. Old slots need no ageing:
ticks are compared when a key comes back (`stamps.MEMORY_TICKS`).
"""

from __future__ import annotations

from array import array
from typing import Final

from .stamps import TICK_SHIFT, TICKS

_TICKS: Final = 4096
_SLOTS_MIN: Final = 64


class Ghosts:
    """Remembers about four times as many keys as entries are held."""

    __slots__ = ("_mask", "_slots")

    def __init__(self) -> None:
        self._slots = array("I", bytes(4 * _SLOTS_MIN))
        self._mask = _SLOTS_MIN - 2

    def __len__(self) -> int:
        return len(self._slots)

    def remember(self, digest: int, stamp: int) -> None:
        """Keep last use and count of a key that leaves, by the 32-bit hash of the key."""
        slots = self._slots
        at = digest & self._mask
        tick = stamp >> TICK_SHIFT
        first, second = slots[at], slots[at + 1]
        if first and (not second or _worth(second, tick) < _worth(first, tick)):
            at += 1
        slots[at] = digest & 0xFFF00000 | (tick & 0xFFF) << 8 | stamp & 255

    def recall(self, digest: int, tick: int) -> tuple[int, int]:
        """(last tick, count) of a key that comes back, and forget it; count 0 when it is not remembered."""
        slots = self._slots
        at = digest & self._mask
        found = slots[at]
        if (found ^ digest) >> 20 or not found:
            at += 1
            found = slots[at]
            if (found ^ digest) >> 20 or not found:
                return 0, 0
        slots[at] = 0
        return tick - ((tick - (found >> 8)) & 0xFFF), found & 255

    def grow(self, entries: int) -> None:
        """Have room for what a cache of so many entries must remember."""
        while len(self._slots) * 3 < entries * 8:
            self._slots += self._slots
            self._mask = (len(self._slots) - 1) & ~1


def _worth(slot: int, tick: int) -> int:
    return TICKS * (slot & 255).bit_length() - ((tick - (slot >> 8)) & 0xFFF)
