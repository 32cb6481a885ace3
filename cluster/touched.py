"""The keys that a new owner must not take from the former one any more: a bitmap over their hashes.

Invariants: a key that was added is found for ever (there is no overflow and no removal); one that was not is found with
the share of the bits that are set, and costs a miss then. The size is fixed.
"""

from __future__ import annotations

from typing import Final

from stratacache.client.ring import position

BITS: Final = 1 << 25
"""4 MiB: a million touched keys make one untouched key in 33 look touched."""


class Touched:
    """A set of keys that may only err on the side of holding too many."""

    __slots__ = ("_bits", "_mask")

    def __init__(self, bits: int = 0) -> None:
        bits = bits or BITS
        self._bits = bytearray(bits // 8)
        self._mask = bits - 1

    def add(self, key: bytes) -> None:
        """Note a key."""
        at = position(key) & self._mask  # the low bits: the high ones choose the shard
        self._bits[at >> 3] |= 1 << (at & 7)

    def __contains__(self, key: bytes) -> bool:
        at = position(key) & self._mask
        return bool(self._bits[at >> 3] >> (at & 7) & 1)
