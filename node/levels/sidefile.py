"""The side file of L3: what must survive SIGKILL without waiting for a commit.

It is a mapped file: a store into it is a store into the kernel's page cache, which outlives the process (not the
machine: see `boot_id`). It holds
- the dirty maps: before a write-behind put or delete is acknowledged, the slot of its key is marked. After a crash,
  a record whose slot is marked may be older than an acknowledged change, and is dropped (a miss, never the old value).
  Two maps alternate, so that one can be wiped when the batch that it belongs to is committed. Slots are shared by keys:
  over-dropping is safe;
- the suspects: marks of an earlier crash, until the sweep has dropped their records;
- the stamps: number of the last transaction, with the sum of the versions and the count of the records after it; two,
  because a crash may fall between a stamp and its commit. A database that matches neither was damaged or rolled back;
- the head: the high-water mark of the clock, the number of incarnations, and whether the content may be trusted at all;
  two again, of which the newer whole one counts, so that neither a kill in the middle of a store nor damage makes it
  an older incarnation, whose numbers are below the versions of what is there.

Invariants: a mark is set before its change is acknowledged and wiped only after the commit that holds the change; the
two heads differ in their clock and number only.
"""

from __future__ import annotations

import mmap
import os
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from .records import crc32

if TYPE_CHECKING:
    from pathlib import Path

SLOTS: Final = 1 << 18
MARKS_MASK: Final = SLOTS - 1
MARKED: Final = 0xFF
"""What stands in the slot of a marked key: it takes eight damaged bits to lose it."""
_MAGIC: Final = b"strata-1"
_HEAD: Final = Struct("<8sIIQQ40s")  # magic, distrust, write_behind, incarnation, clock_ms, boot id
_HEAD_END: Final = Struct("<QI")  # number of the store, crc
_HEAD_BYTES: Final = _HEAD.size + _HEAD_END.size
_HEADS_AT: Final = (0, 256)
_STAMP: Final = Struct("<QQQI")  # transaction, sum of versions, count of records, crc
_STAMP_BODY: Final = Struct("<QQQ")
_STAMPS_AT: Final = 512
_MAPS_AT: Final = 4096
_BYTES: Final = _MAPS_AT + 3 * SLOTS
_SUM_MASK: Final = (1 << 64) - 1


class Stamp:
    """State of the records after a transaction: `versions` is the sum of all versions modulo 2**64."""

    __slots__ = ("count", "txn", "versions")

    def __init__(self, txn: int, versions: int, count: int) -> None:
        self.txn = txn
        self.versions = versions & _SUM_MASK
        self.count = count

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stamp) and (self.txn, self.versions, self.count) == (
            other.txn,
            other.versions,
            other.count,
        )

    __hash__ = None  # type: ignore[assignment]


class SideFile:
    """The mapped side file, made when it is missing. `fresh` says that it was, or that it was no side file."""

    def __init__(self, path: Path) -> None:
        self.fresh = not path.exists() or path.stat().st_size != _BYTES
        if self.fresh:
            # Written, not left sparse: a store into a hole of a full disk would kill the process.
            path.write_bytes(bytes(_BYTES))
            path.chmod(0o600)
        self._file = path.open("r+b")
        self._map = mmap.mmap(self._file.fileno(), _BYTES)
        head = self._newest_head()
        if head is None:
            self.fresh = True
            head = _MAGIC, 0, 0, 0, 0, b"", 0
            self._map[:] = bytes(_BYTES)
        _, distrust, behind, self.incarnation, self.clock_ms, boot, self._stores = head
        self.distrust = bool(distrust)
        self.write_behind = bool(behind)
        self.boot_id: bytes = boot.rstrip(b"\0")
        self.current = 0
        """Offset of the present dirty map."""
        whole = memoryview(self._map)
        self._views = [whole[_MAPS_AT + at : _MAPS_AT + at + SLOTS] for at in (0, SLOTS)]
        self.marks = self._views[0]
        """Slots of the present dirty map. To mark a key: `marks[crc32(key) & MARKS_MASK] = MARKED`."""
        whole.release()

    def _newest_head(self) -> tuple[Any, ...] | None:
        """The head that was stored last and is whole, its number included; None when there is none."""
        found = []
        for at in _HEADS_AT:
            data = self._map[at : at + _HEAD_BYTES]
            fields, (stores, crc) = _HEAD.unpack_from(data), _HEAD_END.unpack_from(data, _HEAD.size)
            if fields[0] == _MAGIC and crc == crc32(data[:-4]):
                found.append((*fields, stores))
        if not found and not any(self._map[_HEAD.size : _STAMPS_AT]):  # as it was before heads had a checksum
            fields = _HEAD.unpack_from(self._map)
            return (*fields, 0) if fields[0] == _MAGIC else None
        return max(found, key=lambda head: int(head[-1]), default=None)

    def save_clock(self) -> None:
        """Store the head in place of the older one; what has changed besides the clock is to be stored with `save`."""
        self._stores += 1
        body = _HEAD.pack(
            _MAGIC, self.distrust, self.write_behind, self.incarnation, self.clock_ms, self.boot_id
        ) + self._stores.to_bytes(8, "little")
        at = _HEADS_AT[self._stores & 1]
        self._map[at : at + _HEAD_BYTES] = body + crc32(body).to_bytes(4, "little")

    def save(self) -> None:
        """Store the head in both places."""
        self.save_clock()
        self.save_clock()

    def stamps(self) -> list[Stamp]:
        """The stamps whose checksum is right."""
        found = []
        for index in (0, 1):
            at = _STAMPS_AT + index * _STAMP.size
            *values, crc = _STAMP.unpack_from(self._map, at)
            if crc == crc32(_STAMP_BODY.pack(*values)):
                found.append(Stamp(*values))
        return found

    def stamp(self, stamp: Stamp, *, sync: bool) -> None:
        """Store what the records will be after the transaction that is about to be committed."""
        body = _STAMP_BODY.pack(stamp.txn, stamp.versions, stamp.count)
        at = _STAMPS_AT + (stamp.txn & 1) * _STAMP.size
        self._map[at : at + _STAMP.size] = body + crc32(body).to_bytes(4, "little")
        if sync:
            self._map.flush(0, _MAPS_AT)

    def swap(self) -> int:
        """Let later marks go to the other map; gives the offset of the present one, to be wiped after the commit."""
        used = self.current
        self.current = SLOTS - used
        self.marks = self._views[self.current // SLOTS]
        return used

    def wipe(self, offset: int) -> None:
        """Forget the marks of a map whose batch is committed."""
        at = _MAPS_AT + offset
        self._map[at : at + SLOTS] = bytes(SLOTS)

    def adopt_marks(self) -> bytes | None:
        """Turn the marks of the run before into suspects and give them all; None when there are none."""
        first, second, old = (
            int.from_bytes(self._map[_MAPS_AT + index * SLOTS : _MAPS_AT + (index + 1) * SLOTS], "little")
            for index in range(3)
        )
        suspects = (first | second | old).to_bytes(SLOTS, "little")
        at = _MAPS_AT + 2 * SLOTS
        self._map[at : at + SLOTS] = suspects
        self.wipe_changes()
        return suspects if first or second or old else None

    def wipe_changes(self) -> None:
        """Forget the marks of both maps: all is committed."""
        self.wipe(0)
        self.wipe(SLOTS)

    def wipe_all(self) -> None:
        """Forget all marks, suspects and stamps: the records are gone."""
        self._map[_STAMPS_AT:] = bytes(_BYTES - _STAMPS_AT)

    def wipe_suspects(self) -> None:
        """Forget the suspects: their records are gone."""
        self.wipe(2 * SLOTS)

    def close(self) -> None:
        """Flush and unmap."""
        for view in self._views:
            view.release()
        self._map.flush()
        self._map.close()
        self._file.close()


def is_suspect(suspects: bytes, key: bytes) -> bool:
    """Whether the slot of a key is marked."""
    return suspects[crc32(key) & MARKS_MASK] != 0


def read_boot_id() -> bytes:
    """A name for this run of the machine; empty where there is none, which counts as another run each time."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:  # noqa: PTH123 - no path of ours
            return file.read(40).strip()
    except OSError:
        return b""


def fsync_directory(path: Path) -> None:
    """Make renames and new files in a directory durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
