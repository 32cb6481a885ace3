"""The writing half of L3: takes changes in, writes them in batches in the worker, and says when they are in the file.

With write-behind a change is acknowledged as soon as the slot of its key is marked in the dirty map, and waits
`flush_after_ms` for others of its key; sooner, when half of the queue's bytes are taken. With write-through it is
written at once and acknowledged after the commit.

A full queue: with write-behind the entry is left out of the file (`skipped`), and an older record of its key deleted.
When even these deletes fill a quarter more, the file begins afresh (`overruns`): it may miss, it never lies. With
write-through nothing is left out; the queue is bounded by the number of those who wait for their commits.

Invariants: one batch is under way at a time; the marks of a change are wiped only after its commit: two maps alternate,
and one is wiped when all that had entered before the other took over is settled.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import lmdb

from ..errors import CorruptionError, UnavailableError
from ..handoff import then
from ..types import RemovalCause
from .pending import PendingWrites, Snapshot
from .records import crc32
from .sidefile import MARKED, MARKS_MASK
from .store import FILLED_MAX, RecordStore, digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..clock import Clock
    from ..config import NodeConfig
    from ..entry import Entry
    from ..gate import Marks
    from ..handoff import Handoff
    from ..stats import LevelCounters
    from .recovery import Opened

BATCH_RECORDS_MAX: Final = 1024  # taking them down keeps the owner for 0.5 ms
BATCH_BYTES_MAX: Final = 8 * 1024 * 1024
TXN_BYTES_MAX: Final = 1024 * 1024
RECORD_BYTES: Final = 256  # what a change costs in the file beside its payload
ROOM_TRIES: Final = 10
ENTRY_SHARE_MAX: Final = 0.25  # of the level: a larger one would push out too much, or not fit for fragmentation
LOOK_EVERY: Final = 64  # changes, after which an owner without a loop looks whether a batch is done


@dataclass(slots=True)
class Written:
    """What a batch did to the file: keys that were stored, keys that were evicted for them, and what went wrong."""

    stored: set[bytes] = field(default_factory=set)
    evicted: list[bytes] = field(default_factory=list)
    corrupt: int = 0
    dropped: bool = False

    def evict(self, store: RecordStore, bytes_wanted: int) -> None:
        """Make room, perhaps by what the batch itself has stored just now."""
        keys = store.evict_in_slices(bytes_wanted)
        self.evicted += keys
        self.stored.difference_update(keys)


class Writer:
    """Writes the changes of one L3.

    `set_stored` notes in memory whether the file has a record of a key, `none_stored` that it has none at all.
    `overrun` drops all records, `failed` hears of a disk that fails. `now_seq` gives the number of the latest put or
    invalidation.
    """

    def __init__(
        self,
        config: NodeConfig,
        clock: Clock,
        handoff: Handoff,
        tombs: Marks,
        counters: LevelCounters,
        set_stored: Callable[[bytes, bool], None],
        none_stored: Callable[[], None],
        overrun: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._clock = clock
        self._handoff = handoff
        self._tombs = tombs
        self._counters = counters
        self._set_stored = set_stored
        self._none_stored = none_stored
        self._overrun = overrun
        self._failed = failed
        self.now_seq: Callable[[], int] = lambda: 0
        self.through = config.l3_write_mode.value == "write_through"
        self.pending = PendingWrites(config.l3_queue_bytes_max, config.flush_after_ms)
        self._hurry_bytes = config.l3_queue_bytes_max // 2
        self._overrun_bytes = config.l3_queue_bytes_max + max(config.l3_queue_bytes_max // 4, 1 << 16)
        self._entry_bytes_max = int(config.l3_bytes_max * ENTRY_SHARE_MAX)
        self._txn_bytes_max = min(TXN_BYTES_MAX, config.l3_bytes_max // 32)
        self._opened: Opened | None = None
        self._acks: deque[tuple[int, Future[bool]]] = deque()
        self._marks_at: int | None = None  # the map that is not marked any more and not wiped yet,
        self._marks_end = 0  # how much had entered when the other one took over,
        self._marks_seq = 0  # and the number of the latest put then
        self.skipped = self.overruns = self.corrupt = 0
        self.closed = False
        self.flushed_seq = -1
        """Puts with a version up to this one are in the file, unless they were skipped."""

    def begin(self, opened: Opened, flushed_seq: int) -> None:
        """Write to this file."""
        self._opened = opened
        self.flushed_seq = flushed_seq

    def end(self) -> None:
        """Write no more: forget what waits, and tell those who wait for it."""
        self._opened = None
        self.pending.drop_waiting()
        self.pending.settle()
        self.pending.settled = self.pending.entered
        while self._acks:
            self._acks.popleft()[1].set_result(False)

    def refuse_if_closed(self) -> None:
        """Raise UnavailableError when nothing is written any more because the node is closed."""
        if self.closed:
            raise UnavailableError("the node is closed: a change would be acknowledged and lost")

    # -- in ------------------------------------------------------------------------------------------------------

    def put(self, entry: Entry) -> bool | Future[bool]:
        """Have an entry written; False when it is left out. With write-through gives a future of the commit."""
        opened = self._opened
        if opened is None:
            self.refuse_if_closed()
            return False
        pending = self.pending
        size = entry.size
        if size > self._entry_bytes_max:
            return self._leave_out(entry)
        if self.through:
            pending.add(entry)
            return self._ack()
        if pending.bytes_held + size - entry.queued > pending.bytes_max:
            self._handoff.run_done()
            if pending.bytes_held + size - entry.queued > pending.bytes_max:
                return self._leave_out(entry)
        if pending.add(entry):
            opened.side.marks[crc32(entry.key) & MARKS_MASK] = MARKED
            if not pending.entered % LOOK_EVERY:
                self._handoff.run_done()
        if pending.bytes_held > self._hurry_bytes:
            pending.make_all_due()
            self._start()
        return True

    def _leave_out(self, entry: Entry) -> bool | Future[bool]:
        """Store no record of an entry, and see to it that no older one of its key is served."""
        self.skipped += 1
        key = entry.key
        pending = self.pending
        if self.through or entry.stored or key in pending.waiting or key in pending.batch or key in pending.reading:
            ack = self.delete(key, stored=entry.stored)
            return then(ack, lambda _: False) if ack is not None else False
        assert self._opened is not None
        try:
            with self._opened.store.begin_read() as txn:
                stored = txn.get(digest(key)) is not None
        except lmdb.Error as error:
            self._failed(error)
            return False
        if stored:
            self.delete(key, stored=True)
        return False

    def delete(self, key: bytes, *, stored: bool) -> Future[bool] | None:
        """Have the record of a key deleted; with write-through gives a future that is done when it is committed."""
        opened = self._opened
        if opened is None:
            return None
        fresh = self.pending.delete(key, stored=stored)
        if self.through:
            return self._ack()
        if fresh:
            opened.side.marks[crc32(key) & MARKS_MASK] = MARKED
        if self.pending.bytes_held > self._overrun_bytes:
            self.overruns += 1
            self._overrun()
        return None

    def _ack(self) -> Future[bool]:
        ack: Future[bool] = Future()
        self.pending.make_all_due()
        self._acks.append((self.pending.entered, ack))
        self._start()
        return ack

    def drop_waiting(self) -> Callable[[], None]:
        """Forget what waits, because all records are about to be deleted; call what this gives when they are."""
        end = self.pending.drop_waiting()

        def dropped() -> None:
            self.pending.settled = max(self.pending.settled, end)
            self._settled()

        return dropped

    # -- out -----------------------------------------------------------------------------------------------------

    def tick(self, now_ms: int) -> None:
        """Write what is due."""
        self.pending.tick(now_ms)
        self._start()
        self._turn_marks()

    def flush(self) -> None:
        """Begin to write all that waits."""
        self.pending.make_all_due()
        self._start()

    def _start(self) -> None:
        """Hand what is due to the worker, unless it has a batch."""
        opened = self._opened
        if opened is None:
            return
        batch = self.pending.take(BATCH_RECORDS_MAX, BATCH_BYTES_MAX)
        if batch:
            self._handoff.run(
                lambda: self._commit(opened.store, batch),
                lambda written: self._committed(opened, batch, written),
                self._failed,
            )

    def _commit(self, store: RecordStore, batch: dict[bytes, Snapshot | None]) -> Written:
        """Worker: commit a batch in transactions of a bounded size."""
        written = Written()
        chunk: list[tuple[bytes, Snapshot | None]] = []
        chunk_bytes = 0
        for number, (key, item) in enumerate(batch.items(), 1):
            chunk.append((key, item))
            chunk_bytes += RECORD_BYTES + (len(item.raw) if item is not None else 0)
            if chunk_bytes >= self._txn_bytes_max or len(chunk) >= store.batch_records or number == len(batch):
                self._commit_chunk(store, chunk, chunk_bytes, written)
                chunk, chunk_bytes = [], 0
                self._handoff.worker.run_urgent()
        return written

    def _commit_chunk(
        self, store: RecordStore, chunk: list[tuple[bytes, Snapshot | None]], chunk_bytes: int, written: Written
    ) -> None:
        """Commit a part of a batch, after making room for it."""
        for _ in range(ROOM_TRIES):
            try:
                wanted = store.bytes_used + 2 * chunk_bytes - int(store.bytes_max * FILLED_MAX)
                if wanted > 0:
                    written.evict(store, wanted)
                written.stored |= store.write(lambda txn: self._apply(store, txn, chunk))
            except lmdb.MapFullError:
                # Free pages may be there, but not in one piece for a large value.
                written.evict(store, store.bytes_max // ROOM_TRIES)
            except CorruptionError:
                written.corrupt += 1
                self._drop_all(store, written)
            else:
                return
        self._drop_all(store, written)

    def _drop_all(self, store: RecordStore, written: Written) -> None:
        store.write(store.drop_all)
        written.dropped = True
        written.stored.clear()
        written.evicted.clear()

    def _apply(self, store: RecordStore, txn: Any, chunk: list[tuple[bytes, Snapshot | None]]) -> set[bytes]:
        """Store or delete each item; what has died since it was queued is deleted. Gives the keys that were stored."""
        now_ms = self._clock.now_ms()
        tombs = self._tombs
        stored = set()
        for key, item in chunk:
            if item is not None and item.expires_ms > now_ms:
                group = item.group
                if not tombs.covers(item.version, group.namespace.name, group.tags):
                    store.put(txn, item)
                    stored.add(key)
                    continue
            store.delete(txn, digest(key))
        return stored

    def _committed(self, opened: Opened, batch: dict[bytes, Snapshot | None], written: Written) -> None:
        if self._opened is not opened:
            return  # switched off meanwhile; whoever waited has been told
        counters = self._counters
        counters.puts += len(written.stored)
        counters.removed[RemovalCause.EVICTED] += len(written.evicted)
        self.corrupt += written.corrupt
        if written.dropped:
            self._none_stored()
        for key in written.evicted:
            self._set_stored(key, False)
        for key in batch:
            self._set_stored(key, key in written.stored)
        self.pending.settle()
        self._settled()
        self._start()

    def _settled(self) -> None:
        """Tell those who wait for what is settled now."""
        acks = self._acks
        while acks and acks[0][0] <= self.pending.settled:
            acks.popleft()[1].set_result(True)
        self._turn_marks()

    def _turn_marks(self) -> None:
        """Wipe the map whose changes are all in the file, and let the other one take over where changes wait."""
        pending = self.pending
        opened = self._opened
        if opened is None:
            return
        side = opened.side
        if self._marks_at is not None and pending.settled >= self._marks_end:
            side.wipe(self._marks_at)
            self._marks_at = None
            self.flushed_seq = self._marks_seq
        if pending.idle:
            if self._marks_end != pending.entered:
                self._marks_end = pending.entered
                side.wipe(side.current)
            self.flushed_seq = self.now_seq()
        elif self._marks_at is None:
            self._marks_at = side.swap()
            self._marks_end = pending.entered
            self._marks_seq = self.now_seq()

    def stats(self) -> dict[str, int]:
        """Gauges of the queue, and what was left out of the file."""
        pending = self.pending
        return {
            "queue_bytes": pending.bytes_held,
            "queue_entries": len(pending.waiting) + len(pending.batch),
            "skipped": self.skipped,
            "overruns": self.overruns,
        }
