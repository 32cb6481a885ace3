"""What L3 does in the background, a slice at a time: it deletes what is dead already for every reader.

Invariants: nothing here changes what a reader sees; a slice is one short transaction, and one is under way at a time; a
tombstone is dropped only after all that it covers is gone, including what was queued before it.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Final

import lmdb

from ..errors import CorruptionError
from ..types import RemovalCause
from .sidefile import is_suspect
from .store import FIRST, after

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..config import NodeConfig
    from ..gate import Marks
    from ..handoff import Handoff
    from ..stats import LevelCounters
    from .recovery import Opened

LOOK_EVERY_MS: Final = 1000
SLICES_A_TICK: Final = 4


class Upkeep:
    """Sweeps tombstones, suspects and expired records of an L3, and sees whether its file is still there."""

    def __init__(
        self,
        config: NodeConfig,
        handoff: Handoff,
        counters: LevelCounters,
        tombs: Marks,
        switch_off: Callable[[str], None],
        corrupted: Callable[[CorruptionError], None],
    ) -> None:
        self._config = config
        self._handoff = handoff
        self._counters = counters
        self._tombs = tombs
        self._switch_off = switch_off
        self._corrupted = corrupted
        self._sweeps: deque[tuple[bytes, bytes, int]] = deque()
        self._unswept: Counter[tuple[bytes, bytes]] = Counter()  # how often each is among the sweeps
        self._looked_at_ms = 0
        self._dead: dict[tuple[bytes, bytes], int] = {}
        self.suspects: bytes | None = None
        self._suspect_at = self._sweep_at = FIRST
        self._start_seq = 0
        self.busy = False
        self._slices_left = 0
        self._next: Callable[[], None] = lambda: None

    def sweep_later(self, kind: bytes, names: tuple[bytes, ...], seq: int) -> None:
        """Take note of a tombstone."""
        self._sweeps.extend((kind, name, seq) for name in names)
        self._unswept.update((kind, name) for name in names)

    def note_dead(self, kind: bytes, name: bytes, count: int) -> None:
        """Take note of how many records a tombstone covers, if it is not swept yet."""
        if (kind, name) in self._unswept:
            self._dead[kind, name] = count

    @property
    def dead_records(self) -> int:
        """How many records are dead but not swept yet; those that several tombstones cover count for each."""
        return sum(self._dead.values())

    def forget_sweeps(self) -> None:
        """All records and tombstones are gone."""
        self._sweeps.clear()
        self._unswept.clear()
        self._dead.clear()
        self._sweep_at = FIRST

    def begin_suspects(self, suspects: bytes | None, start_seq: int) -> None:
        """Take note of the marks that a crash has left; they are about versions before `start_seq`."""
        self.suspects = suspects
        self._start_seq = start_seq

    def tick(self, opened: Opened, now_ms: int, flushed_seq: int) -> None:
        """Start the next slices, unless one is under way. All changes up to `flushed_seq` are in the file."""
        if not self.busy:
            self._slices_left = SLICES_A_TICK
            self._next = lambda: self._begin(opened, now_ms, flushed_seq)
            self._next()

    def _begin(self, opened: Opened, now_ms: int, flushed_seq: int) -> None:
        if self.suspects is not None:
            self._sweep_suspects(opened, self.suspects)
        elif self._sweeps and self._sweeps[0][2] <= flushed_seq:
            self._sweep(opened, *self._sweeps[0])
        elif now_ms - self._looked_at_ms >= LOOK_EVERY_MS:
            self._looked_at_ms = now_ms
            self._look_after(opened, now_ms)

    def _sweep(self, opened: Opened, kind: bytes, name: bytes, seq: int) -> None:
        """Delete a slice of the records that a tombstone covers; at the end, the tombstone."""
        store = opened.store

        def job() -> tuple[int, list[bytes]]:
            removed = 0
            rows: list[bytes] = []

            def change(txn: Any) -> None:
                nonlocal removed
                rows.extend(store.rows(txn, kind, name, self._sweep_at, store.slice_records))
                for row in rows:
                    removed += store.delete_where(txn, row, lambda record: record.version <= seq)
                if len(rows) < store.slice_records:
                    store.drop_tombstone(txn, kind, name, seq)

            store.write(change)
            return removed, rows

        def done(found: tuple[int, list[bytes]]) -> None:
            removed, rows = found
            self._counters.removed[RemovalCause.INVALIDATED] += removed
            if (kind, name) in self._dead:
                self._dead[kind, name] = max(0, self._dead[kind, name] - removed)
            if not self._sweeps or self._sweeps[0] != (kind, name, seq):
                return  # everything was cleared meanwhile
            if len(rows) == store.slice_records:
                self._sweep_at = after(rows[-1])
                return
            self._sweep_at = FIRST
            self._sweeps.popleft()
            self._unswept[kind, name] -= 1
            if not self._unswept[kind, name]:
                del self._unswept[kind, name]
                self._dead.pop((kind, name), None)
            marks = self._tombs.of_kind(kind)
            if marks.get(name) == seq:
                del marks[name]

        self._start(job, done)

    def _sweep_suspects(self, opened: Opened, suspects: bytes) -> None:
        """Delete a slice of the records that may be older than a change which a crash has lost."""
        store = opened.store
        start_seq = self._start_seq

        def job() -> list[bytes]:
            names: list[bytes] = []

            def change(txn: Any) -> None:
                names.extend(store.names_from(txn, self._suspect_at, 4 * store.slice_records))
                for name in names:
                    store.delete_where(
                        txn, name, lambda record: record.version < start_seq and is_suspect(suspects, record.key)
                    )

            store.write(change)
            return names

        def done(names: list[bytes]) -> None:
            if len(names) == 4 * store.slice_records:
                self._suspect_at = after(names[-1])
                return
            self.suspects = None
            opened.side.wipe_suspects()

        self._start(job, done)

    def _look_after(self, opened: Opened, now_ms: int) -> None:
        """Delete a slice of expired records, and see whether the file is still there."""
        assert self._config.data_dir is not None
        if not (self._config.data_dir / "data.mdb").exists():
            self._switch_off("its file has vanished")
            return
        store = opened.store

        def job() -> int:
            removed = 0

            def change(txn: Any) -> None:
                nonlocal removed
                rows = store.expired_rows(txn, now_ms, store.slice_records)
                for _, name in rows:
                    removed += store.delete_where(txn, name, lambda record: record.expires_ms <= now_ms)

            with store.env.begin(buffers=True) as txn:
                due = store.expired_rows(txn, now_ms, 1)
            if due:
                store.write(change)
            return removed

        def done(removed: int) -> None:
            self._counters.removed[RemovalCause.EXPIRED] += removed
            if removed:
                self._looked_at_ms = 0  # go on with the next slice at the next tick

        self._start(job, done)

    def _start(self, job: Callable[[], Any], done: Callable[[Any], None]) -> None:
        def finished(result: Any) -> None:
            self.busy = False
            done(result)
            self._slices_left -= 1
            if self._slices_left > 0 and not self._handoff.worker.stopped:
                self._next()

        def failed(error: BaseException) -> None:
            self.busy = False
            if isinstance(error, lmdb.MapFullError):
                return  # the next flush makes room; nothing of what a slice does is urgent
            if isinstance(error, CorruptionError):
                self._corrupted(error)
                return
            self._switch_off(f"{type(error).__name__}: {error}")

        self.busy = True
        self._handoff.run(job, finished, failed)
