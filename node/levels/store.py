"""The LMDB file of L3: records, and their indexes by tag, namespace, expiry and age in the same transaction.

Keys of the database are 16-byte BLAKE2b digests of the full keys, which so may have any length; the full key stands
in the record and is compared on every read.

Invariants: an index row without its record, or of another version, is harmless and dropped when met; records and
their rows change in one transaction; `versions` and `count` describe the committed records, and the stamp of the next
transaction is stored before it is committed. Writes come from one thread.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import lmdb

from ..entry import NEVER_MS
from ..errors import CorruptionError
from ..gate import TAG
from ..keys import namespace_of
from .records import Record, decode_head, encode
from .sidefile import SideFile, Stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from ..groups import Group
    from .pending import Snapshot

T = TypeVar("T")

FILLED_MAX: Final = 0.75  # of the map: copy-on-write and fragmentation of large values need the rest
SLICE_RECORDS_MAX: Final = 128
BATCH_RECORDS_MAX: Final = 256  # LMDB keeps the memory of the pages that its largest transaction changed: 3 MB
PAGES_A_RECORD: Final = 160
"""A transaction changes at most one record for so many pages of the map. Each record may copy a leaf page of each of
five trees, and pages that a transaction frees can be used from the next but one on: so three of them fill a tenth."""
COMPARED_MAX: Final = 20_000
"""Index rows of several tags that are compared, to count each record once: 7 ms of the worker."""


class Covered(NamedTuple):
    """What an invalidation covers in the file: how many records, and those that the batch under way writes too."""

    records: int
    keys: set[bytes]


def digest(name: bytes) -> bytes:
    """The 16 bytes under which a key or tag stands."""
    return blake2b(name, digest_size=16).digest()


FIRST: Final = bytes(16)


def after(name: bytes) -> bytes:
    """The digest that follows; FIRST after the last."""
    return ((int.from_bytes(name, "big") + 1) % (1 << 128)).to_bytes(16, "big")


def number(value: int) -> bytes:
    """A number so that bytes sort as numbers do."""
    return value.to_bytes(8, "big")


class RecordStore:
    """An open LMDB file of records. `bytes_max` bounds the file itself."""

    def __init__(self, path: Path, bytes_max: int, *, sync: bool, side: SideFile | None) -> None:
        self.bytes_max = bytes_max // 4096 * 4096
        self._side = side
        self._sync = sync
        read_only = side is None
        self.env: Any = lmdb.open(
            str(path),
            map_size=self.bytes_max,
            subdir=False,
            max_dbs=8,
            max_readers=16,
            mode=0o600,
            sync=sync,
            readahead=False,
            meminit=False,
            readonly=read_only,
            lock=not read_only,
        )
        open_db = self.env.open_db
        create = not read_only
        self.records = open_db(b"records", create=create)
        self.tags = open_db(b"tags", create=create, dupsort=True, dupfixed=True)
        self.namespaces = open_db(b"namespaces", create=create, dupsort=True, dupfixed=True)
        self.expiry = open_db(b"expiry", create=create, dupsort=True, dupfixed=True)
        self.ages = open_db(b"ages", create=create)
        self.tombstones = open_db(b"tombstones", create=create)
        self._data = (self.records, self.tags, self.namespaces, self.expiry, self.ages)
        self.page_bytes = self.env.stat()["psize"]
        records = max(self.bytes_max // self.page_bytes // PAGES_A_RECORD, 4)
        self.slice_records = min(records, SLICE_RECORDS_MAX)
        """How many records a slice of upkeep changes,"""
        self.batch_records = min(records, BATCH_RECORDS_MAX)
        """and a transaction of the writer: fewer transactions cost less, but urgent work waits for each of them."""
        self.versions = 0
        self.count = 0
        self.bytes_used = 0

    @property
    def last_txn(self) -> int:
        """Number of the last committed transaction."""
        return int(self.env.info()["last_txnid"])

    def begin_read(self) -> Any:
        """A read transaction: a context manager, with `get(digest)` for records. Buffers die with it."""
        return self.env.begin(db=self.records, buffers=True)

    def count_in(self, txn: Any) -> int:
        """How many records a transaction sees."""
        return int(txn.stat(self.records)["entries"])

    def write(self, change: Callable[[Any], T]) -> T:
        """Run a change in one write transaction, with its stamp; on an error nothing has happened."""
        versions, count = self.versions, self.count
        try:
            with self.env.begin(write=True, buffers=True) as txn:
                result = change(txn)
                if self._side is not None:
                    self._side.stamp(Stamp(txn.id(), self.versions, self.count), sync=self._sync)
                self.bytes_used = self._measure(txn)
        except BaseException:
            self.versions, self.count = versions, count
            raise
        return result

    def _measure(self, txn: Any) -> int:
        pages = 0
        for db in self._data:
            stat = txn.stat(db)
            pages += stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return int(pages * self.page_bytes)

    # -- changes, inside a transaction ---------------------------------------------------------------------------

    def put(self, txn: Any, entry: Snapshot) -> None:
        """Store a record with its index rows, in place of the one before; rows that stay the same are not touched.

        Raises CorruptionError when the head of the one before is damaged.
        """
        name = digest(entry.key)
        data = txn.get(name, db=self.records)
        group = entry.group
        age = entry.version
        tags: tuple[bytes, ...] = ()
        expires_ms = NEVER_MS
        if data is None:
            txn.put(number(age), name, db=self.ages)
            txn.put(b"n" + group.namespace.name, name, db=self.namespaces)
            self.count += 1
        else:
            old = decode_head(memoryview(data))
            age, tags, expires_ms = old.age, old.tags, old.expires_ms
            self.versions -= old.version
        txn.put(name, encode(entry, age), db=self.records)
        if tags != group.tags:
            for tag in tags:
                txn.delete(digest(tag), name, db=self.tags)
            for tag in group.tags:
                txn.put(digest(tag), name, db=self.tags)
        if expires_ms != entry.expires_ms:
            if expires_ms != NEVER_MS:
                txn.delete(number(expires_ms), name, db=self.expiry)
            if entry.expires_ms != NEVER_MS:
                txn.put(number(entry.expires_ms), name, db=self.expiry)
        self.versions += entry.version

    def delete(self, txn: Any, name: bytes) -> bool:
        """Delete a record with its index rows; False when there is none. Raises CorruptionError for a damaged head."""
        data = txn.get(name, db=self.records)
        if data is None:
            return False
        record = decode_head(memoryview(data))
        for tag in record.tags:
            txn.delete(digest(tag), name, db=self.tags)
        txn.delete(b"n" + namespace_of(record.key), name, db=self.namespaces)
        if record.expires_ms != NEVER_MS:
            txn.delete(number(record.expires_ms), name, db=self.expiry)
        txn.delete(number(record.age), db=self.ages)
        txn.delete(name, db=self.records)
        self.versions -= record.version
        self.count -= 1
        return True

    def delete_where(self, txn: Any, name: bytes, unwanted: Callable[[Record], bool]) -> bool:
        """Delete a record if its head says so."""
        data = txn.get(name, db=self.records)
        return data is not None and unwanted(decode_head(memoryview(data))) and self.delete(txn, name)

    def evict_in_slices(self, bytes_wanted: int) -> list[bytes]:
        """Delete the records that came first, in small transactions, until about so much is free.

        Gives their keys.
        """
        evicted: list[bytes] = []
        freed = 0
        limit = self.slice_records

        def change(txn: Any) -> None:
            nonlocal freed
            keys, size = self._evict(txn, bytes_wanted - freed, limit)
            evicted.extend(keys)
            freed += size

        while freed < bytes_wanted and self.count:
            before = freed
            try:
                self.write(change)
            except lmdb.MapFullError:
                if limit == 1:
                    break
                limit = 1
                continue
            if freed == before:
                break
        return evicted

    def _evict(self, txn: Any, bytes_wanted: int, records_max: int) -> tuple[list[bytes], int]:
        keys: list[bytes] = []
        freed = 0
        with txn.cursor(db=self.ages) as cursor:
            while freed < bytes_wanted and len(keys) < records_max and cursor.first():
                name = bytes(cursor.value())
                data = txn.get(name, db=self.records)
                head = decode_head(memoryview(data)) if data is not None else None
                if head is None or head.age != int.from_bytes(cursor.key(), "big"):
                    cursor.delete()
                    continue
                freed += len(data) + 256
                self.delete(txn, name)
                keys.append(head.key)
        return keys, freed

    def drop_all(self, txn: Any) -> None:
        """Delete everything."""
        for db in (*self._data, self.tombstones):
            txn.drop(db, delete=False)
        self.versions = self.count = 0

    # -- slices of upkeep, inside a transaction ------------------------------------------------------------------

    def rows(self, txn: Any, kind: bytes, name: bytes, start: bytes, limit: int) -> list[bytes]:
        """Up to `limit` records, from the digest `start` on, that carry a tag or belong to a namespace."""
        db, key = self._index(kind, name)
        found: list[bytes] = []
        with txn.cursor(db=db) as cursor:
            if cursor.set_range_dup(key, start):
                for row in cursor.iternext_dup():
                    found.append(bytes(row))
                    if len(found) == limit:
                        break
        return found

    def count_rows(self, txn: Any, kind: bytes, name: bytes) -> int:
        """How many records carry a tag or belong to a namespace."""
        db, key = self._index(kind, name)
        with txn.cursor(db=db) as cursor:
            return int(cursor.count()) if cursor.set_key(key) else 0

    def _index(self, kind: bytes, name: bytes) -> tuple[Any, bytes]:
        return (self.tags, digest(name)) if kind == TAG else (self.namespaces, b"n" + name)

    def covered(
        self, txn: Any, kind: bytes, counts: dict[bytes, int], writing: Mapping[bytes, Snapshot | None]
    ) -> Covered:
        """Which records carry any of the tags, or belong to the namespace, with these `counts` of `count_rows`.

        `writing`: the batch under way, of which anything may be in the file already.
        """

        def concerns(group: Group) -> bool:
            return not counts.keys().isdisjoint(group.tags) if kind == TAG else group.namespace.name in counts

        records = sum(counts.values())
        keys = [key for key, item in writing.items() if item is None or concerns(item.group)]
        if len(counts) == 1:
            db, index = self._index(kind, *counts)
            with txn.cursor(db=db) as cursor:
                return Covered(records, {key for key in keys if cursor.set_key_dup(index, digest(key))})
        if records > COMPARED_MAX:
            return Covered(records, self._held(txn, keys))
        rows = {row for name in counts for row in self.rows(txn, kind, name, FIRST, counts[name])}
        return Covered(len(rows), {key for key in keys if digest(key) in rows})

    def _held(self, txn: Any, keys: Iterable[bytes]) -> set[bytes]:
        return {key for key in keys if txn.get(digest(key), db=self.records) is not None}

    def covered_by_all(self, writing: Iterable[bytes]) -> Covered:
        """As `covered`, for an invalidation of everything."""
        with self.begin_read() as txn:
            return Covered(self.count_in(txn), self._held(txn, writing))

    def count_expiring(self) -> int:
        """How many records have an expiry."""
        with self.env.begin() as txn:
            return int(txn.stat(self.expiry)["entries"])

    def expired_rows(self, txn: Any, now_ms: int, limit: int) -> list[tuple[bytes, bytes]]:
        """Up to `limit` (expiry, record) rows that are due."""
        found: list[tuple[bytes, bytes]] = []
        with txn.cursor(db=self.expiry) as cursor:
            for key, name in cursor.iternext(keys=True, values=True):
                if int.from_bytes(key, "big") > now_ms or len(found) == limit:
                    break
                found.append((bytes(key), bytes(name)))
        return found

    def names_from(self, txn: Any, start: bytes, limit: int) -> list[bytes]:
        """Up to `limit` records from the digest `start` on."""
        found: list[bytes] = []
        with txn.cursor(db=self.records) as cursor:
            if cursor.set_range(start):
                for key in cursor.iternext(keys=True, values=False):
                    found.append(bytes(key))
                    if len(found) == limit:
                        break
        return found

    def walk(self, txn: Any) -> Iterator[tuple[bytes, Record]]:
        """All records by digest."""
        with txn.cursor(db=self.records) as cursor:
            for name, data in cursor:
                yield bytes(name), decode_head(memoryview(data))

    def check(self) -> tuple[Stamp, int]:
        """Walk everything; gives the stamp that the records add up to and the number of index rows.

        Raises CorruptionError for what does not hold together; LMDB itself may crash on a damaged page.
        """
        rows = 0
        with self.env.begin(buffers=True) as txn:
            versions = count = wanted = 0
            for name, record in self.walk(txn):
                if digest(record.key) != name:
                    raise CorruptionError("a record stands under the digest of another key")
                versions += record.version
                count += 1
                wanted += 2 + len(record.tags) + (record.expires_ms != NEVER_MS)
            for db in (self.tags, self.namespaces, self.expiry, self.ages):
                with txn.cursor(db=db) as cursor:
                    rows += sum(1 for _ in cursor)
            if rows < wanted:
                raise CorruptionError(f"{wanted} index rows were expected, {rows} are there")
        self.load_tombstones()
        return Stamp(self.last_txn, versions, count), rows

    def load_tombstones(self) -> list[tuple[bytes, bytes, int]]:
        """The (kind, name, seq) of invalidations whose records have not been swept yet."""
        with self.env.begin() as txn, txn.cursor(db=self.tombstones) as cursor:
            return [(value[8:9], value[9:], int.from_bytes(value[:8], "big")) for _, value in cursor]

    def put_tombstones(self, txn: Any, kind: bytes, names: Iterable[bytes], seq: int) -> None:
        """Store an invalidation of tags or a namespace."""
        for name in names:
            txn.put(kind + digest(name), number(seq) + kind + name, db=self.tombstones)

    def drop_tombstone(self, txn: Any, kind: bytes, name: bytes, seq: int) -> None:
        """Forget an invalidation whose records have been swept, unless it was repeated meanwhile."""
        value = txn.get(kind + digest(name), db=self.tombstones)
        if value is not None and int.from_bytes(value[:8], "big") == seq:
            txn.delete(kind + digest(name), db=self.tombstones)

    def close(self, *, sync: bool) -> None:
        """Close the file, after flushing it to the disk when asked to."""
        if sync:
            self.env.sync(True)
        self.env.close()
