"""The reading half of L3: what waits to be written first, then the file.

Invariants: a record is given only if both checksums and the key are right, it has not expired, no tombstone covers its
version, and no crash has made it a suspect; what waits or is being written hides the record of its key.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Final

import lmdb

from ..entry import DEAD_MS, Entry, new_entry
from ..errors import CorruptionError
from ..groups import Group, Page
from ..keys import namespace_of
from .pending import Snapshot, snapshot
from .records import Record, decode_head, read_payload
from .sidefile import is_suspect
from .store import FIRST, after, digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..clock import Clock
    from ..gate import Marks
    from ..handoff import Handoff
    from ..residents import Residents
    from .pending import PendingWrites
    from .recovery import Opened

INLINE_BYTES_MAX: Final = 256 * 1024
COUNTED_MAX: Final = 2000
"""Changes that wait and are looked up for a count: 5 ms."""

_ABSENT: Final = object()


class Reader:
    """Reads the records of one L3.

    `group_of` finds the group of a record, `suspects` the marks of a crash that are not swept yet. `corrupted` hears of
    a damaged record, `failed` of a disk that fails.
    """

    def __init__(
        self,
        clock: Clock,
        handoff: Handoff,
        residents: Residents,
        tombs: Marks,
        writes: PendingWrites,
        group_of: Callable[[bytes, tuple[bytes, ...], int], Group],
        suspects: Callable[[], bytes | None],
        corrupted: Callable[[bytes, CorruptionError], None],
        failed: Callable[[str], None],
    ) -> None:
        self._clock = clock
        self._handoff = handoff
        self._residents = residents
        self._tombs = tombs
        self._writes = writes
        self._group_of = group_of
        self._suspects = suspects
        self._corrupted = corrupted
        self._failed = failed
        self._opened: Opened | None = None
        self._start_seq = 0

    def begin(self, opened: Opened, start_seq: int) -> None:
        """Read from this file; versions before `start_seq` are of earlier runs."""
        self._opened = opened
        self._start_seq = start_seq

    def end(self) -> None:
        """Read no more."""
        self._opened = None

    def find(self, key: bytes, *, wait: bool) -> Entry | Future[Entry | None] | None:
        """Give the live record of a key as an entry that is in no level yet.

        With `wait` a large payload is read at once, otherwise in the worker: then a future is given.
        """
        opened = self._opened
        if opened is None:
            return None
        item = self._pending(key)
        if item is not _ABSENT:
            return self._from_pending(item)
        try:
            with opened.store.begin_read() as txn:
                data = txn.get(digest(key))
                if data is None:
                    return None
                view = memoryview(data)
                record = decode_head(view)
                if not self._alive(key, record):
                    return None
                if record.payload_len <= INLINE_BYTES_MAX or wait:
                    return self._entry(record, read_payload(view, record))
        except CorruptionError as error:
            self._corrupted(key, error)
            return None
        except lmdb.Error as error:
            self._failed(f"read failed: {error}")
            return None
        return self._read_later(opened, key)

    def holds(self, key: bytes) -> bool:
        """Whether a live record of a key is there, without reading its payload."""
        return self.expires_ms(key) != DEAD_MS

    def expires_ms(self, key: bytes) -> int:
        """When the live record of a key expires; DEAD_MS when there is none."""
        opened = self._opened
        if opened is None:
            return DEAD_MS
        item = self._pending(key)
        if item is not _ABSENT:
            return item.expires_ms if isinstance(item, Entry | Snapshot) and self._lives(item) else DEAD_MS
        try:
            with opened.store.begin_read() as txn:
                data = txn.get(digest(key))
                record = decode_head(memoryview(data)) if data is not None else None
                return record.expires_ms if record is not None and self._alive(key, record) else DEAD_MS
        except (CorruptionError, lmdb.Error):
            return DEAD_MS

    def keys_from(self, start: bytes, count: int) -> Future[tuple[bytes, list[bytes]]] | None:
        """About `count` keys from the mark `start` on, and the next mark (b"": the end); None when the level is off.

        With the first come those that are not in the file yet. Read in the worker.
        """
        opened = self._opened
        if opened is None:
            return None
        writes = self._writes
        queued = [] if start else [*writes.waiting, *writes.batch]
        result: Future[tuple[bytes, list[bytes]]] = Future()

        def read() -> tuple[bytes, list[bytes]]:
            with opened.store.begin_read() as txn:
                names = opened.store.names_from(txn, start or FIRST, count)
                found = [decode_head(memoryview(data)).key for name in names if (data := txn.get(name)) is not None]
            following = after(names[-1]) if len(names) == count else FIRST
            return (b"" if following == FIRST else following), found

        self._handoff.run(read, lambda found: result.set_result((found[0], queued + found[1])), result.set_exception)
        return result

    def pending_keys(self) -> list[bytes]:
        """Live keys that are not in the file yet.

        Those in memory too: one may have come there only after it had left, to where a scan has been already.
        """
        writes = self._writes
        return [key for key in {**writes.batch, **writes.waiting} if self._lives(self._pending(key))]

    def count_beside(self, dead: int) -> int:
        """How many keys the file has, or will have, that are not in memory. `dead` of its records are invalidated.

        What waits is looked up in the file: nobody knows otherwise which of its records are to be replaced.
        While more wait than `COUNTED_MAX` the answer is an estimate.
        """
        opened = self._opened
        if opened is None:
            return 0
        writes, residents = self._writes, self._residents
        try:
            with opened.store.begin_read() as txn:
                count = opened.store.count_in(txn) - dead if self._tombs.clear_seq < 0 else 0
                count -= residents.stored
                if len(writes.waiting) + len(writes.batch) > COUNTED_MAX:
                    return max(0, count - writes.doomed)
                for key in {*writes.batch, *writes.waiting}:
                    entry = residents.find(key)
                    if entry is not None and entry.expires_ms != DEAD_MS:
                        count += entry.stored
                    else:
                        count += self._lives(self._pending(key))
                    data = txn.get(digest(key))
                    if data is not None:
                        record = decode_head(memoryview(data))
                        count -= not self._tombs.covers(record.version, namespace_of(key), record.tags)
                return max(0, count)
        except (CorruptionError, lmdb.Error):
            return 0  # whoever reads the record next sees to it

    def scan(self, start: bytes, limit: int) -> tuple[bytes, list[bytes]]:
        """Live keys of the next `limit` records from the digest `start` on, and the digest that follows (b"": none)."""
        opened = self._opened
        if opened is None:
            return b"", []
        found: list[bytes] = []
        try:
            with opened.store.begin_read() as txn:
                names = opened.store.names_from(txn, start, limit + 1)
                for name in names[:limit]:
                    data = txn.get(name)
                    try:
                        record = decode_head(memoryview(data))
                    except CorruptionError:
                        continue  # a miss for whoever asks for it, and dropped then
                    key = record.key
                    change = self._pending(key)
                    if self._alive(key, record) if change is _ABSENT else self._lives(change):
                        found.append(key)
        except lmdb.Error as error:
            self._failed(f"read failed: {error}")
            return b"", []
        return (names[limit] if len(names) > limit else b""), found

    def _pending(self, key: bytes) -> object:
        """The change of a key that is not in the file yet, or _ABSENT."""
        writes = self._writes
        return writes.waiting.get(key) if key in writes.waiting else writes.batch.get(key, _ABSENT)

    def _from_pending(self, change: object) -> Entry | None:
        """What a change that is not in the file yet makes of its key."""
        if not self._lives(change):
            return None
        item = snapshot(change) if isinstance(change, Entry) else change
        assert isinstance(item, Snapshot)
        group = item.group
        return self._make(item, item.payload, group.namespace.name, group.tags, group.codec)

    def _lives(self, change: object) -> bool:
        """Whether there is an entry in a change that is not in the file yet, and nothing has ended it since."""
        if isinstance(change, Entry):
            group = change.page.group
        elif isinstance(change, Snapshot):
            group = change.group
        else:
            return False
        now_ms = self._clock.now_ms()
        return change.expires_ms > now_ms and not self._tombs.covers(change.version, group.namespace.name, group.tags)

    def _alive(self, key: bytes, record: Record) -> bool:
        if record.key != key or record.expires_ms <= self._clock.now_ms():
            return False
        suspects = self._suspects()
        if suspects is not None and record.version < self._start_seq and is_suspect(suspects, key):
            return False
        return not self._tombs.covers(record.version, namespace_of(key), record.tags)

    def _entry(self, record: Record, payload: bytes) -> Entry:
        entry = self._make(record, payload, namespace_of(record.key), record.tags, record.codec)
        entry.stored = True
        return entry

    def _make(
        self, source: Snapshot | Record, payload: bytes, namespace: bytes, tags: tuple[bytes, ...], codec: int
    ) -> Entry:
        """An entry in no level, from a record or from what is to become one."""
        entry = new_entry(
            source.key,
            payload,
            source.version,
            expires_ms=source.expires_ms,
            cost_s=source.cost_s,
            metadata=source.metadata,
        )
        entry.page = Page(self._group_of(namespace, tags, codec), -1)
        return entry

    def _read_later(self, opened: Opened, key: bytes) -> Future[Entry | None]:
        result: Future[Entry | None] = Future()
        reading = self._writes.reading
        reading[key] += 1

        def over() -> None:
            reading[key] -= 1
            if not reading[key]:
                del reading[key]

        def read() -> tuple[Record, bytes] | None:
            with opened.store.begin_read() as txn:
                data = txn.get(digest(key))
                if data is None:
                    return None
                record = decode_head(memoryview(data))
                return record, read_payload(memoryview(data), record)

        def done(found: tuple[Record, bytes] | None) -> None:
            over()
            alive = found is not None and self._pending(key) is _ABSENT and self._alive(key, found[0])
            result.set_result(self._entry(*found) if found is not None and alive else None)

        def failed(error: BaseException) -> None:
            over()
            if isinstance(error, CorruptionError):
                self._corrupted(key, error)
            else:
                self._failed(f"read failed: {error}")
            result.set_result(None)

        self._handoff.run(read, done, failed, urgent=True)
        return result
