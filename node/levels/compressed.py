"""L2: memory that holds entries in zlib form.

Invariants: an entry is packed only where that makes it smaller than 0.9 of its payload, so unpacking is never in vain;
what leaves this level upwards is unpacked: nobody outside ever sees a packed payload.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from zlib_ng import zlib_ng

from ..entry import charged_bytes
from ..handoff import then
from .memory import MemoryLevel

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..entry import Entry
    from ..handoff import Handoff

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


def pack_off_thread(
    handoff: Handoff, done: Callable[[Entry, bytes, bytes | None], None]
) -> Callable[[Entry, bytes], None]:
    """A function that packs the payload of an entry in the worker; `done` then gets both, and what `pack` gave."""

    def pack_later(entry: Entry, payload: bytes) -> None:
        packing = handoff.off_thread(lambda: pack(payload))
        then(packing, lambda packed: done(entry, payload, packed))

    return pack_later


class CompressedLevel(MemoryLevel):
    """A memory level whose entries are packed where that pays."""

    def take_packed(self, entry: Entry, packed: bytes) -> None:
        """Exchange the payload of an entry that is about to be inserted for its packed form."""
        entry.size += charged_bytes(len(packed)) - charged_bytes(entry.payload_bytes)
        entry.raw = packed
        entry.frame = None
        entry.packed = True

    def shrink(self, entry: Entry, packed: bytes) -> None:
        """Exchange the payload of an entry that is held for its packed form."""
        self.bytes_used -= entry.size
        self.take_packed(entry, packed)
        self.bytes_used += entry.size
        self.policy.on_update(entry)
