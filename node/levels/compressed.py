"""L2: memory that holds entries in zlib form.

Invariants: an entry is packed only where that makes it smaller than 0.9 of its payload, so unpacking is never in vain;
what leaves this level upwards is unpacked: nobody outside ever sees a packed payload, also not who was given an entry
while it lay in L1 (`Entry.payload` and `build_frame` unpack it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..entry import charged_bytes
from ..handoff import then
from .memory import MemoryLevel
from .packing import pack

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..entry import Entry
    from ..handoff import Handoff


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
