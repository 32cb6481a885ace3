"""Checksums of keys: the same numbers as zlib's CRC-32, computed here where that is cheaper.

A call of zlib from compiled code costs four times what it computes of a key of usual length.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

from librt.strings import read_i32_le
from librt.vecs import append, vec
from mypy_extensions import i32, i64

from ..base import Evictable
from .stamps import COMPILED

_HERE_MAX: Final = 64 if COMPILED else -1
"""Keys that are longer are worth the call of zlib."""

_ONES: Final = 0xFFFFFFFF
_TABLE: Final = [crc32(bytes([byte, *bytes(later)]), _ONES) ^ _ONES for later in range(4) for byte in range(256)]
"""What a byte does to the checksum when so many bytes of the same word come after it."""


class Digests:
    """32-bit hashes of keys, different ones for each seed."""

    __slots__ = ("_begin", "_seed", "_table")

    def __init__(self, seed: int) -> None:
        self._seed = seed & _ONES
        self._begin: i64 = self._seed ^ _ONES
        self._table = vec[i32]([number - (number >> 31 << 32) for number in _TABLE])

    def of(self, key: bytes) -> i64:
        """The hash of a key."""
        if len(key) <= _HERE_MAX:
            return self.computed(key)
        return crc32(key, self._seed)

    def computed(self, key: bytes) -> i64:
        """The same without zlib."""
        table = self._table
        length: i64 = len(key)
        crc = self._begin
        at: i64 = 0
        while at + 4 <= length:  # four bytes at a time (Kounavis and Berry, 2005)
            crc ^= i64(read_i32_le(key, at)) & 0xFFFFFFFF
            low = i64(table[(crc & 0xFF) + 768]) ^ i64(table[(crc >> 8 & 0xFF) + 512])
            crc = (low ^ i64(table[(crc >> 16 & 0xFF) + 256]) ^ i64(table[crc >> 24])) & 0xFFFFFFFF
            at += 4
        while at < length:
            crc = (crc >> 8 ^ i64(table[crc & 0xFF ^ key[at]])) & 0xFFFFFFFF
            at += 1
        return crc ^ 0xFFFFFFFF

    def of_all(self, entries: list[Evictable]) -> vec[i64]:
        """The hashes of the keys of these entries."""
        keys = [entry.key for entry in entries]  # several are fetched at a time so (see read_stamps)
        digests = vec[i64](capacity=len(keys))
        here_max: i64 = _HERE_MAX
        for key in keys:
            digests = append(digests, self.computed(key) if len(key) <= here_max else self.of(key))
        return digests
