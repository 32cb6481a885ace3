"""An entry of the memory levels, built so that a million of them are cheap.

Invariants: what many entries share (namespace, tags, codec) stands once, in their Group; `DEAD_MS` in `expires_ms` is
how an entry is killed: every reader compares `expires_ms` with now anyhow, so a killed entry is a miss at once, however
much later it is unlinked. Payload and reply frame are never both kept. An entry changes in place when its key is put
again, or when it moves between levels: who is given one reads what he needs before he calls the engine again, or he
gets a newer value. He never gets a packed one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .levels.packing import unpack
from .policies.base import NEVER_MS, Evictable

if TYPE_CHECKING:
    from .groups import Group, Namespace, Page
    from .levels.memory import MemoryLevel

__all__ = ["COST_UNKNOWN_S", "DEAD_MS", "ENTRY_BYTES", "FRAME_PAYLOAD_BYTES_MAX", "NEVER_MS", "Entry"]

DEAD_MS: Final = 0
"""`expires_ms` of a killed entry."""

COST_UNKNOWN_S: Final = 1.0
"""`cost_s` of an entry of which nobody said what it took; a measured cost is never this round."""

COST_S_MAX: Final = 1e9
"""Largest `cost_s`: 31 years. Policies multiply costs and add them up, and no sum may become infinite."""

ENTRY_BYTES: Final = 352
"""Charged for each entry beside key, payload and metadata: the object, its boxed numbers, the headers of its bytes
objects, its places in the table, the page and the policy. Measured: benchmarks/engine.py, `l1_overhead_bytes`."""

ALLOCATOR_SHIFT: Final = 3
"""An eighth of each payload is charged for what the allocator loses between values of many sizes. Measured: with it,
memory stands 11 % above the budgets after ten minutes at full load (benchmarks/soak.py)."""

FRAME_PAYLOAD_BYTES_MAX: Final = 64 * 1024
"""Up to here the reply frame is kept instead of the payload; larger payloads are sent in pieces, without a copy."""

_SIZES_SHARED: Final = 4096
_SIZES: Final = tuple(range(_SIZES_SHARED))
"""Sizes of small entries share their int objects: 32 bytes less for each entry."""


class Entry(Evictable):
    """One cached value with what travels with it through the levels.

    `key`: canonical full key. `version`: the node-wide sequence number of its put. `metadata`: opaque to the node.
    `packed`: whether `raw` holds the zlib form (L2). `level`: the memory level that holds it, None when it has left.
    `page` and `slot`: its place in its group (groups.py). `queued`: bytes charged while it waits for the disk, 0 when
    it does not. `stored`: whether the disk has a record of its key, perhaps an older one.
    """

    __slots__ = ("frame", "level", "metadata", "packed", "page", "queued", "raw", "slot", "stored", "version")

    raw: bytes | None
    frame: bytes | None
    version: int
    metadata: bytes
    level: MemoryLevel | None
    page: Page
    slot: int
    queued: int
    packed: bool  # the two bools side by side: compiled, they share eight bytes
    stored: bool

    @property
    def payload(self) -> bytes:
        """The encoded value, as it was put. Costs a copy when only the frame is kept, and unpacking in L2."""
        raw = self.raw
        if raw is not None:
            return unpack(raw) if self.packed else raw
        frame = self.frame
        if frame is not None:
            return frame[frame.index(b"\n") + 1 : -2]
        raw = self.raw  # another thread reads what it waited for, and the owner has put the key again just now
        assert raw is not None
        return raw

    @property
    def payload_bytes(self) -> int:
        """Length of the payload (of its packed form in L2)."""
        raw = self.raw
        if raw is not None:
            return len(raw)
        frame = self.frame
        assert frame is not None
        return len(frame) - frame.index(b"\n") - 3

    @property
    def group(self) -> Group:
        """What the entry shares with others."""
        return self.page.group

    @property
    def namespace(self) -> Namespace:
        """Record of the namespace."""
        return self.page.group.namespace

    @property
    def tags(self) -> tuple[bytes, ...]:
        """Tags, without duplicates."""
        return self.page.group.tags

    @property
    def codec(self) -> int:
        """How the client encoded the payload (docs/PROTOCOL.md)."""
        return self.page.group.codec

    def build_frame(self) -> bytes:
        """Give the RESP bulk reply `$n CRLF payload CRLF`; kept for the next read when the payload is small."""
        frame = self.frame
        if frame is not None:
            return frame
        raw = self.raw
        assert raw is not None
        packed = self.packed
        if packed:  # it went to L2 while other keys of the same request were read
            raw = unpack(raw)
        frame = b"$%d\r\n%b\r\n" % (len(raw), raw)
        if len(raw) <= FRAME_PAYLOAD_BYTES_MAX and self.level is not None and not packed:
            self.frame = frame
            self.raw = None
        return frame


def charged_bytes(length: int) -> int:
    """What a payload of this length is charged for in memory, its entry not counted."""
    return length + (length >> ALLOCATOR_SHIFT)


def size_of(key: bytes, payload: bytes, metadata: bytes) -> int:
    """What an entry is charged for in memory."""
    length = len(payload)
    size = len(key) + length + (length >> ALLOCATOR_SHIFT) + len(metadata) + ENTRY_BYTES
    return _SIZES[size] if size < _SIZES_SHARED else size


def new_entry(
    key: bytes,
    payload: bytes,
    version: int,
    expires_ms: int = NEVER_MS,
    cost_s: float = 1.0,
    metadata: bytes = b"",
) -> Entry:
    """Make an entry that is in no level and no group yet; the one way to make one."""
    entry = Entry()
    entry.key = key
    length = len(payload)
    size = len(key) + length + (length >> ALLOCATOR_SHIFT) + len(metadata) + ENTRY_BYTES
    entry.size = _SIZES[size] if size < _SIZES_SHARED else size
    entry.cost_s = cost_s
    entry.expires_ms = expires_ms
    entry.stamp = 0
    entry.order = entry.link = entry.frame = entry.level = None
    entry.raw = payload
    entry.version = version
    entry.metadata = metadata
    entry.packed = entry.stored = False
    entry.queued = 0
    return entry


def unpacked(entry: Entry) -> Entry:
    """The entry, or a copy in no level where its payload is packed."""
    return copy_of(entry, entry.payload) if entry.packed else entry


def copy_of(entry: Entry, payload: bytes) -> Entry:
    """A new entry, in no level yet, with what travels with `entry` and an unpacked payload."""
    copy = new_entry(
        entry.key,
        payload,
        entry.version,
        expires_ms=entry.expires_ms,
        cost_s=entry.cost_s,
        metadata=entry.metadata,
    )
    copy.page = entry.page
    return copy
