"""L3: the face of the disk towards the engine. Called from the owner's thread; commits run in the worker.

A put or delete enters the queue; a batch of the queue is cut and committed at a time. A read looks at the queue, then
at the batch in flight, then into the file, so it sees the owner's changes in their order. A tag or namespace
invalidation is one durable tombstone: whatever the level finds with a version up to it is dead, and swept in slices
later (upkeep.py).

Invariants: what `find` gives is not older than any acknowledged change of its key, and not covered by any invalidation;
the queue is bounded (a put that finds it full is not stored, but its key is deleted from the file); after a failure
of the disk the level is off, its file is marked as not to be trusted, and the cache goes on without it.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

import lmdb

from ..entry import Entry, new_entry
from ..errors import CorruptionError
from ..gate import MARKS_MAX, Marks
from ..groups import Group, Page
from ..handoff import then
from ..keys import namespace_of
from ..stats import LevelCounters
from ..types import RemovalCause
from .records import Record, crc32, decode_head, read_payload
from .recovery import Opened, close_directory, open_directory
from .sidefile import MARKS_MASK, is_suspect
from .store import FILLED_MAX, FIRST, RecordStore, after, digest
from .upkeep import Upkeep

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..clock import Clock
    from ..config import NodeConfig
    from ..handoff import Handoff

BATCH_BYTES_MAX: Final = 8 * 1024 * 1024
TXN_BYTES_MAX: Final = 1024 * 1024
LOG_EVERY_MS: Final = 60_000
INLINE_BYTES_MAX: Final = 256 * 1024
ITEM_BYTES: Final = 256  # what a queued change costs beside its payload
ROOM_TRIES: Final = 10
PAYLOAD_SHARE_MAX: Final = 0.25  # of the level: a larger value would push out too much, or not fit for fragmentation

Item = tuple[Entry, bytes] | None
"""A queued change: the entry with its payload, or None for a delete."""
_ABSENT: Final = object()
_log = logging.getLogger(__name__)


class _Batch:
    """Changes that are being committed, and who waits for that."""

    __slots__ = ("acks", "bytes", "items", "marks_at", "seq")

    def __init__(
        self, items: dict[bytes, Item], bytes_held: int, acks: list[Future[bool]], marks_at: int, seq: int
    ) -> None:
        self.items = items
        self.bytes = bytes_held
        self.acks = acks
        self.marks_at = marks_at
        self.seq = seq


class DiskLevel:
    """The L3 of a node. `group_of` finds the group of a record."""

    def __init__(
        self,
        config: NodeConfig,
        clock: Clock,
        handoff: Handoff,
        group_of: Callable[[bytes, tuple[bytes, ...], int], Group],
    ) -> None:
        assert config.data_dir is not None
        self._config = config
        self._clock = clock
        self._handoff = handoff
        self._group_of = group_of
        self._through = config.l3_write_mode.value == "write_through"
        self.counters = LevelCounters()
        self.corrupt = self.skipped = 0
        self.off_reason = ""
        self._queue: dict[bytes, Item] = {}
        self._queue_bytes = 0
        self._queued_at_ms = 0
        self._acks: list[Future[bool]] = []
        self._flushing: _Batch | None = None
        self._tombs = Marks()
        self.flushed_seq = -1
        """Puts with a version up to this one are in the file, unless they were skipped."""
        self._logged_at_ms = 0
        self._upkeep = Upkeep(config, handoff, self.counters, self._tombs, self._switch_off, self._drop_everything)
        self._payload_bytes_max = int(config.l3_bytes_max * PAYLOAD_SHARE_MAX)
        self._room_bytes = config.l3_queue_bytes_max  # for the queue; what is being committed is taken off
        self._txn_bytes_max = min(TXN_BYTES_MAX, config.l3_bytes_max // 32)
        self._open: Opened | None = None
        self._closing: Opened | None = None
        self.start_seq = 1
        self.now_seq: Callable[[], int] = lambda: 0
        self._open_directory()

    def _open_directory(self) -> None:
        config = self._config
        assert config.data_dir is not None
        try:
            opened = open_directory(
                config.data_dir, config.l3_bytes_max, write_through=self._through, rebuild=config.l3_rebuild
            )
        except (OSError, lmdb.Error) as error:
            self._log_off(f"{type(error).__name__}: {error}")
            return
        self._open = opened
        self._clock.raise_to(opened.side.clock_ms)
        # Each run of the node has its own range of numbers, so versions grow across restarts without being stored.
        self.start_seq = self.flushed_seq = opened.side.incarnation << 40
        self._upkeep.begin_suspects(opened.suspects, self.start_seq)
        for kind, name, seq in opened.store.load_tombstones():
            self._tombs.of_kind(kind)[name] = seq
            self._upkeep.sweep_later(kind, (name,), seq)

    @property
    def on(self) -> bool:
        """Whether the level is in use."""
        return self._open is not None

    def stored_seq(self) -> int:
        """Version up to which puts are in the file; -1 when the level is off."""
        return self.flushed_seq if self._open is not None else -1

    # -- changes -------------------------------------------------------------------------------------------------

    def put(self, entry: Entry, payload: bytes) -> bool | Future[bool]:
        """Queue a record; False when there is no room. With write-through gives a future of the commit."""
        opened = self._open
        if opened is None:
            return False
        size = len(payload)
        if size > self._payload_bytes_max or self._queue_bytes + size > self._room_bytes:
            self.skipped += 1
            ack = self.delete(entry.key)
            return then(ack, lambda _: False) if ack is not None else False
        key = entry.key
        queue = self._queue
        old = queue.get(key)
        if old is not None:
            self._queue_bytes -= len(old[1]) + ITEM_BYTES
        elif not queue:
            self._queued_at_ms = self._clock.now_ms()
        queue[key] = (entry, payload)
        self._queue_bytes += size + ITEM_BYTES
        if self._through:
            return self._ack()
        opened.side.marks[crc32(key) & MARKS_MASK] = 1
        if self._queue_bytes >= BATCH_BYTES_MAX:
            self._cut()
        return True

    def delete(self, key: bytes) -> Future[bool] | None:
        """Queue the removal of a record; with write-through gives a future that is done when it is committed."""
        opened = self._open
        if opened is None:
            return None
        queue = self._queue
        old = queue.get(key, _ABSENT)
        if isinstance(old, tuple):
            self._queue_bytes -= len(old[1])
        elif old is _ABSENT:
            self._queue_bytes += ITEM_BYTES
            if not queue:
                self._queued_at_ms = self._clock.now_ms()
        queue[key] = None
        if self._through:
            return self._ack()
        opened.side.marks[crc32(key) & MARKS_MASK] = 1
        return None

    def _ack(self) -> Future[bool]:
        ack: Future[bool] = Future()
        self._acks.append(ack)
        self._cut()
        return ack

    def _cut(self) -> None:
        """Hand the queue to the worker, unless a batch is in flight."""
        opened = self._open
        if opened is None or self._flushing is not None or not (self._queue or self._acks):
            return
        marks_at = 0 if self._through else opened.side.swap()
        batch = self._flushing = _Batch(self._queue, self._queue_bytes, self._acks, marks_at, self.now_seq())
        self._room_bytes = self._config.l3_queue_bytes_max - batch.bytes
        self._queue = {}
        self._queue_bytes = 0
        self._acks = []
        self._handoff.run(
            lambda: self._commit(opened, batch), lambda evicted: self._committed(opened, batch, evicted), self._fail
        )

    def _commit(self, opened: Opened, batch: _Batch) -> int:
        """Worker: commit a batch in transactions of a bounded size; gives the number of evicted records."""
        evicted = 0
        chunk: list[tuple[bytes, Item]] = []
        chunk_bytes = 0
        for key, item in batch.items.items():
            chunk.append((key, item))
            chunk_bytes += ITEM_BYTES + (len(item[1]) if item is not None else 0)
            if chunk_bytes >= self._txn_bytes_max or len(chunk) >= opened.store.slice_records:
                evicted += self._commit_chunk(opened.store, chunk, chunk_bytes)
                chunk, chunk_bytes = [], 0
                self._handoff.worker.run_urgent()
        if chunk:
            evicted += self._commit_chunk(opened.store, chunk, chunk_bytes)
        return evicted

    def _commit_chunk(self, store: RecordStore, chunk: list[tuple[bytes, Item]], chunk_bytes: int) -> int:
        """Commit a part of a batch, after making room for it; gives the number of evicted records."""
        evicted = 0
        for _ in range(ROOM_TRIES):
            try:
                wanted = store.bytes_used + 2 * chunk_bytes - int(store.bytes_max * FILLED_MAX)
                if wanted > 0:
                    evicted += store.evict_in_slices(wanted)
                store.write(lambda txn: self._apply(store, txn, chunk))
            except lmdb.MapFullError:
                # Free pages may be there, but not in one piece for a large value.
                evicted += store.evict_in_slices(store.bytes_max // ROOM_TRIES)
            except CorruptionError:
                self.corrupt += 1
                store.write(store.drop_all)
            else:
                return evicted
        store.write(store.drop_all)
        return evicted

    def _apply(self, store: RecordStore, txn: Any, chunk: list[tuple[bytes, Item]]) -> None:
        """Store or delete each item; what has died since it was queued is deleted."""
        now_ms = self._clock.now_ms()
        tombs = self._tombs
        for key, item in chunk:
            if item is not None:
                entry, payload = item
                group = entry.page.group
                if entry.expires_ms > now_ms and not tombs.covers(entry.version, group.namespace.name, group.tags):
                    store.put(txn, entry, payload)
                    self.counters.puts += 1
                    continue
            store.delete(txn, digest(key))

    def _committed(self, opened: Opened, batch: _Batch, evicted: int) -> None:
        if self._open is not opened:
            return  # switched off meanwhile; whoever waited has been told
        if not self._through:
            opened.side.wipe(batch.marks_at)
        self._flushing = None
        self._room_bytes = self._config.l3_queue_bytes_max
        self.flushed_seq = batch.seq
        self.counters.removed[RemovalCause.EVICTED] += evicted
        for ack in batch.acks:
            ack.set_result(True)
        if self._acks or self._queue_bytes >= BATCH_BYTES_MAX:
            self._cut()

    # -- reads ---------------------------------------------------------------------------------------------------

    def find(self, key: bytes, *, wait: bool) -> Entry | Future[Entry | None] | None:
        """Give the live record of a key as an entry that is in no level yet.

        With `wait` a large payload is read at once, otherwise in the worker: then a future is given.
        """
        opened = self._open
        if opened is None:
            return None
        item = self._pending(key)
        if item is None:
            return None
        if isinstance(item, tuple):
            return self._from_queue(*item)
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
            self._drop_corrupt(key, error)
            return None
        except lmdb.Error as error:
            self._switch_off(f"read failed: {error}")
            return None
        return self._read_later(opened, key)

    def holds(self, key: bytes) -> bool:
        """Whether a live record of a key is there, without reading its payload."""
        opened = self._open
        if opened is None:
            return False
        item = self._pending(key)
        if item is None:
            return False
        if isinstance(item, tuple):
            return self._from_queue(*item) is not None
        try:
            with opened.store.begin_read() as txn:
                data = txn.get(digest(key))
                return data is not None and self._alive(key, decode_head(memoryview(data)))
        except (CorruptionError, lmdb.Error):
            return False

    def keys_from(self, start: bytes, count: int) -> Future[tuple[bytes, list[bytes]]] | None:
        """About `count` keys from the mark `start` on, and the next mark (b"": the end); None when the level is off.

        With the first come those that are not in the file yet. Read in the worker.
        """
        opened = self._open
        if opened is None:
            return None
        queued = [] if start else [*self._queue, *(self._flushing.items if self._flushing is not None else ())]
        result: Future[tuple[bytes, list[bytes]]] = Future()

        def read() -> tuple[bytes, list[bytes]]:
            with opened.store.begin_read() as txn:
                names = opened.store.names_from(txn, start or FIRST, count)
                found = [decode_head(memoryview(data)).key for name in names if (data := txn.get(name)) is not None]
            following = after(names[-1]) if len(names) == count else FIRST
            return (b"" if following == FIRST else following), found

        self._handoff.run(read, lambda found: result.set_result((found[0], queued + found[1])), result.set_exception)
        return result

    def _pending(self, key: bytes) -> object:
        """The change of a key that is not in the file yet: an Item, or _ABSENT."""
        item: object = self._queue.get(key, _ABSENT)
        if item is _ABSENT and self._flushing is not None:
            item = self._flushing.items.get(key, _ABSENT)
        return item

    def _from_queue(self, entry: Entry, payload: bytes) -> Entry | None:
        group = entry.page.group
        if entry.expires_ms <= self._clock.now_ms() or self._tombs.covers(
            entry.version, group.namespace.name, group.tags
        ):
            return None
        return self._make(entry, payload, group.namespace.name, group.tags, group.codec)

    def _alive(self, key: bytes, record: Record) -> bool:
        if record.key != key or record.expires_ms <= self._clock.now_ms():
            return False
        suspects = self._upkeep.suspects
        if suspects is not None and record.version < self.start_seq and is_suspect(suspects, key):
            return False
        return not self._tombs.covers(record.version, namespace_of(key), record.tags)

    def _entry(self, record: Record, payload: bytes) -> Entry:
        return self._make(record, payload, namespace_of(record.key), record.tags, record.codec)

    def _make(
        self, source: Entry | Record, payload: bytes, namespace: bytes, tags: tuple[bytes, ...], codec: int
    ) -> Entry:
        """An entry in no level, from a record or a queued entry."""
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

        def read() -> tuple[Record, bytes] | None:
            with opened.store.begin_read() as txn:
                data = txn.get(digest(key))
                if data is None:
                    return None
                record = decode_head(memoryview(data))
                return record, read_payload(memoryview(data), record)

        def done(found: tuple[Record, bytes] | None) -> None:
            alive = found is not None and self._pending(key) is _ABSENT and self._alive(key, found[0])
            result.set_result(self._entry(*found) if found is not None and alive else None)

        def failed(error: BaseException) -> None:
            if isinstance(error, CorruptionError):
                self._drop_corrupt(key, error)
            else:
                self._switch_off(f"read failed: {error}")
            result.set_result(None)

        self._handoff.run(read, done, failed, urgent=True)
        return result

    def _drop_corrupt(self, key: bytes, error: CorruptionError) -> None:
        self.corrupt += 1
        self.counters.removed[RemovalCause.CORRUPT] += 1
        self._log_once(f"a corrupt record was dropped: {error}")
        self.delete(key)

    def _drop_everything(self, error: CorruptionError) -> None:
        """The head of a record is damaged, so its index rows are not known: begin afresh rather than guess."""
        self.corrupt += 1
        self._log_once(f"all records are dropped: {error}")
        opened = self._open
        if opened is not None:
            self._handoff.run(lambda: opened.store.write(opened.store.drop_all), lambda _: None, self._fail)

    # -- invalidations -------------------------------------------------------------------------------------------

    def invalidate(self, kind: bytes, names: tuple[bytes, ...], seq: int) -> Future[int] | None:
        """Make the records with these tags or of these namespaces dead; done when that is durable.

        Gives the number of their index rows: the records that were there, live or expired.
        """
        opened = self._open
        if opened is None:
            return None
        self._tombs.of_kind(kind).update(dict.fromkeys(names, seq))
        if len(self._tombs) > MARKS_MAX:
            return self.clear(seq)
        self._upkeep.sweep_later(kind, names, seq)
        result: Future[int] = Future()

        def job() -> int:
            rows = 0

            def change(txn: Any) -> None:
                nonlocal rows
                opened.store.put_tombstones(txn, kind, names, seq)
                rows = sum(opened.store.count_rows(txn, kind, name) for name in names)

            opened.store.write(change)
            return rows

        self._handoff.run(job, result.set_result, self._failed_with(result, 0), urgent=True)
        return result

    def clear(self, seq: int) -> Future[int] | None:
        """Delete all records; done when that is durable. Gives their number."""
        opened = self._open
        if opened is None:
            return None
        self._tombs.clear()
        self._tombs.clear_seq = seq
        self._upkeep.forget_sweeps()
        self._queue.clear()
        self._queue_bytes = 0
        result: Future[int] = Future()

        def job() -> int:
            count = opened.store.count
            opened.store.write(opened.store.drop_all)
            return count

        def done(count: int) -> None:
            # A batch in flight was committed before and is gone too: jobs run one at a time.
            if self._tombs.clear_seq == seq:
                self._tombs.clear_seq = -1
            result.set_result(count)

        # Not urgent, as batches are not: it must neither overtake one in flight nor be overtaken by the next.
        self._handoff.run(job, done, self._failed_with(result, 0))
        return result

    def _failed_with(self, result: Future[int], value: int) -> Callable[[BaseException], None]:
        def failed(error: BaseException) -> None:
            self._switch_off(str(error))
            result.set_result(value)

        return failed

    def tick(self, now_ms: int) -> None:
        """Flush what is old enough, and start a slice of upkeep."""
        opened = self._open
        if opened is None:
            return
        if self._queue and now_ms - self._queued_at_ms >= self._config.flush_after_ms:
            self._cut()
        if not self._queue and self._flushing is None:
            self.flushed_seq = self.now_seq()
        opened.side.clock_ms = now_ms
        opened.side.save()
        self._upkeep.tick(opened, now_ms, self.flushed_seq)

    # -- failure and end -----------------------------------------------------------------------------------------

    def _fail(self, error: BaseException) -> None:
        self._switch_off(f"{type(error).__name__}: {error}")

    def _switch_off(self, reason: str) -> None:
        """Go on without the disk, and see to it that its content is not believed later."""
        opened = self._open
        if opened is None:
            return
        self._open = None
        self._closing = opened
        opened.side.distrust = True
        opened.side.save()
        self._log_off(reason)
        acks = self._acks + (self._flushing.acks if self._flushing is not None else [])
        self._queue = {}
        self._acks = []
        self._queue_bytes = 0
        self._flushing = None
        for ack in acks:
            if not ack.done():
                ack.set_result(False)

    def _log_off(self, reason: str) -> None:
        self.off_reason = reason
        _log.error("L3 in %s is off, the cache goes on without it: %s", self._config.data_dir, reason)

    def _log_once(self, message: str) -> None:
        now_ms = self._clock.now_ms()
        if now_ms - self._logged_at_ms >= LOG_EVERY_MS:
            self._logged_at_ms = now_ms
            _log.warning("L3 in %s: %s", self._config.data_dir, message)

    def flush(self) -> None:
        """Begin to commit what is queued."""
        self._cut()

    @property
    def idle(self) -> bool:
        """Whether nothing is queued or being committed."""
        return not self._queue and self._flushing is None and not self._upkeep.busy

    def close(self, *, clean: bool) -> None:
        """Close the file after the worker has ended; `clean` says that everything was committed."""
        opened = self._open or self._closing
        self._open = self._closing = None
        if opened is not None:
            assert self._config.data_dir is not None
            opened.side.clock_ms = max(opened.side.clock_ms, self._clock.now_ms())
            close_directory(self._config.data_dir, opened, clean=clean and not opened.side.distrust)

    def stats(self) -> dict[str, Any]:
        """Counters and gauges of the level."""
        opened = self._open
        return self.counters.as_dict() | {
            "on": opened is not None,
            "off_reason": self.off_reason,
            "entries": opened.store.count if opened is not None else 0,
            "bytes_used": opened.store.bytes_used if opened is not None else 0,
            "bytes_max": self._config.l3_bytes_max,
            "queue_bytes": self._queue_bytes,
            "queue_entries": len(self._queue),
            "tombstones": len(self._tombs),
            "corrupt": self.corrupt,
            "skipped": self.skipped,
            "set_aside": opened.set_aside if opened is not None else "",
        }
