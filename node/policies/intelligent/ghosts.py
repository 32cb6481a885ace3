"""Last use and level of uses of keys that have left, in a table of 4 bytes a slot: no key, no list, no sweep.

Invariants: a key may be in one of the two slots of a pair; a newcomer takes the empty one, else that of the key that is
worth much less (older, used less), else either. (Were it always the older one, no key of a loop that is longer than the
table would be remembered when it comes back: LRU's weakness.) There are 2 to 4 slots for each entry held, never fewer
than 64. A false match needs 13 equal bits of hash in the same pair: about 1 in 4,000, and does no more than misjudge
one key.

Slot: hash bits 19-31, 13 bits | worth, 12 bits, wrapping | level, 5 bits. Worth is the last tick plus 8 for each level.
The two slots of a pair are one number of 60 bits, so that a key is looked up with one access. The table doubles by
copying itself: the index uses one bit of the hash more, and the copy in the wrong half is overwritten like any other.
Old slots need no ageing: ticks are compared when a key comes back (`stamps.MEMORY_TICKS`).
"""

from __future__ import annotations

from typing import Final

from librt.vecs import append, extend, vec
from mypy_extensions import i64

from .stamps import AGE_SHIFT, LEVEL_MASK, LEVEL_MAX, TICK_SHIFT, TICKS

_PAIRS_MIN: Final = 32
LEVEL_TICKS: Final = TICKS // 2
"""So many ticks longer is a key worth remembering for each level: n requests for a doubling of its uses."""
_SLOT_BITS: Final = 30
_SLOT_MASK: Final = (1 << _SLOT_BITS) - 1
_TAG_SHIFT: Final = 17
_TAG_UNIT: Final = 1 << _TAG_SHIFT
_HASH_SHIFT: Final = 19
_WORTH_SHIFT: Final = 5
_WORTH_MASK: Final = 0xFFF
_WORTH_IN_SLOT: Final = _WORTH_MASK << _WORTH_SHIFT
_LATER: Final = 0x800 << _WORTH_SHIFT
_LEVEL_IN_SLOT: Final = (1 << _WORTH_SHIFT) - 1
_MUCH_LESS: Final = 4 * TICKS
_DIE_SHIFT: Final = 8
"""Of hash times tick the bit that decides: a loop's keys have other ticks in each round."""
_AHEAD_MAX: Final = LEVEL_TICKS * LEVEL_MAX


class Ghosts:
    """Remembers about three times as many keys as entries are held."""

    __slots__ = ("_mask", "_pairs")

    def __init__(self) -> None:
        self._pairs = vec[i64]([0] * _PAIRS_MIN)
        self._mask: i64 = _PAIRS_MIN - 1

    def __len__(self) -> int:
        return 2 * len(self._pairs)

    def remember(self, digests: vec[i64], stamps: vec[i64]) -> None:
        """Keep last use and level of keys that leave, by the 32-bit hashes of the keys."""
        pairs, mask = self._pairs, self._mask
        level_ticks: i64 = LEVEL_TICKS
        much_less: i64 = _MUCH_LESS << _WORTH_SHIFT
        at: i64 = 0
        while at < len(digests):
            digest = digests[at]
            stamp = stamps[at]
            at += 1
            place = digest & mask
            pair = pairs[place]
            level = stamp & LEVEL_MASK
            worth = (stamp >> TICK_SHIFT) + level_ticks * level & _WORTH_MASK
            new = digest >> _HASH_SHIFT << _TAG_SHIFT | worth << _WORTH_SHIFT | level
            low = pair & _SLOT_MASK
            high = pair >> _SLOT_BITS
            if low ^ new < _TAG_UNIT or not low:
                high_goes = False
            elif high ^ new < _TAG_UNIT or not high:
                high_goes = True
            else:
                ahead = (low - high) & _WORTH_IN_SLOT
                high_goes = ahead < _LATER
                if not high_goes:
                    ahead = (high - low) & _WORTH_IN_SLOT
                if ahead < much_less and (digest >> _HASH_SHIFT | 1) * (stamp >> TICK_SHIFT) >> _DIE_SHIFT & 1:
                    high_goes = not high_goes
            found = high if high_goes else low
            if (new - found) & _WORTH_IN_SLOT < _LATER or not found:
                pairs[place] = new << _SLOT_BITS | low if high_goes else high << _SLOT_BITS | new

    def recall(self, digests: vec[i64], tick: i64) -> vec[i64]:
        """Ticks since the last use and level (see AGE_SHIFT) of keys that come back, and forget them; 0: not known."""
        pairs, mask = self._pairs, self._mask
        level_ticks: i64 = LEVEL_TICKS
        ahead_max: i64 = _AHEAD_MAX
        recalled = vec[i64](capacity=len(digests))
        for digest in digests:
            place = digest & mask
            pair = pairs[place]
            tag = digest >> _HASH_SHIFT << _TAG_SHIFT
            found = pair & _SLOT_MASK
            rest = pair & ~_SLOT_MASK
            known = found != 0 and found ^ tag < _TAG_UNIT
            if not known:
                rest = found
                found = pair >> _SLOT_BITS
                known = found != 0 and found ^ tag < _TAG_UNIT
            if known:
                pairs[place] = rest
                level = found & _LEVEL_IN_SLOT
                # The worth is ahead of its tick; ticks are counted back from as far ahead as it may be.
                age = (tick + ahead_max - (found >> _WORTH_SHIFT) & _WORTH_MASK) - ahead_max + level_ticks * level
                recalled = append(recalled, age << AGE_SHIFT | level)
            else:
                recalled = append(recalled, 0)
        return recalled

    def grow(self, entries: int) -> None:
        """Have room for what a cache of so many entries must remember."""
        while len(self._pairs) < entries:
            self._pairs = extend(vec[i64](self._pairs, capacity=2 * len(self._pairs)), self._pairs)
            self._mask = len(self._pairs) - 1
