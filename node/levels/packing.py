"""The zlib form of a payload, which L2 holds in its place where that is smaller.

Invariant: `unpack(pack(payload)) == payload`; both give bytes of their own size, without a hole of zlib's behind them.
"""

from __future__ import annotations

from typing import Final

from zlib_ng import zlib_ng

PACKED_RATIO_MAX: Final = 0.9
PACK_BYTES_MIN: Final = 64  # below, the header of the zlib stream eats what is gained
ZLIB_BLOCK_BYTES: Final = 16 * 1024
ZLIB_LEVEL: Final = 1  # measured on JSON and embeddings: level 6 gains 3-5 % more for four times the time


def pack(payload: bytes) -> bytes | None:
    """Give the zlib form, or None when it is not worth it. Releases the GIL for large payloads."""
    if len(payload) < PACK_BYTES_MIN:
        return None
    packed: bytes = zlib_ng.compress(payload, ZLIB_LEVEL)
    return _tight(packed) if len(packed) < PACKED_RATIO_MAX * len(payload) else None


def unpack(packed: bytes) -> bytes:
    """Give the payload of a zlib form that `pack` made."""
    payload: bytes = zlib_ng.decompress(packed)
    return _tight(payload)


def _tight(data: bytes) -> bytes:
    """A copy of its own size: what zlib gives is the shrunk head of a 16 KiB block, and leaves a hole behind it."""
    return data if len(data) > ZLIB_BLOCK_BYTES else bytes(memoryview(data))
