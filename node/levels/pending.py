"""What waits for the disk: the changed keys, the oldest first, and the batch that is being written.

A key waits once, however often it is put meanwhile: the entry itself is queued, and what is written is its state at the
moment when a batch is taken. So a hot key costs one record for each `after_ms`, and its payload is not held twice while
the entry lies in memory.

Changes are counted as they enter; since they leave in that order, three numbers say how far the work has come: all up
to `due` shall be written now, all up to `taken` are in the file or in the batch, all up to `settled` are in the file.

Invariants: `entry.queued` is not 0 exactly while `waiting` holds that entry; `bytes_held` is the sum of what is charged
for `waiting` and for the batch; a batch is a snapshot, so the worker never reads an entry that the owner may change.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Final, NamedTuple

from .packing import unpack

if TYPE_CHECKING:
    from collections.abc import Collection

    from ..entry import Entry
    from ..groups import Group

DELETE_BYTES: Final = 256
"""Charged for a delete that waits."""


class Snapshot(NamedTuple):
    """The state of an entry when it was taken for writing. `raw` is its zlib form when it is `packed`."""

    key: bytes
    raw: bytes
    packed: bool
    version: int
    expires_ms: int
    cost_s: float
    metadata: bytes
    group: Group

    @property
    def payload(self) -> bytes:
        """The encoded value, as it was put."""
        return unpack(self.raw) if self.packed else self.raw


def snapshot(entry: Entry) -> Snapshot:
    """Take down what is to be written of an entry."""
    return Snapshot(
        entry.key,
        entry.raw if entry.raw is not None else entry.payload,
        entry.packed,
        entry.version,
        entry.expires_ms,
        entry.cost_s,
        entry.metadata,
        entry.page.group,
    )


class PendingWrites:
    """The queue of a disk level. `after_ms`: how long a change waits for others of its key, counted by ticks."""

    def __init__(self, bytes_max: int, after_ms: int) -> None:
        self.bytes_max = bytes_max
        self._after_ms = after_ms
        self.waiting: dict[bytes, Entry | bool] = {}
        """Entries to be written, or for a key to be deleted whether the file has a record of it."""
        self.batch: dict[bytes, Snapshot | None] = {}
        self.bytes_held = 0
        self.doomed = 0
        """Records in the file that are about to be deleted."""
        self._batch_bytes = self._batch_doomed = self._batch_end = 0
        self.entered = self.due = self.taken = self.settled = 0
        self._entered_at: deque[tuple[int, int]] = deque()
        self.reading: Counter[bytes] = Counter()
        """Keys whose records are being read in the worker: what changes them is to be queued when that is done."""
        self.unsettled: Collection[bytes] = ()
        """Keys whose last change is not to reach the file yet; what waits behind such a key waits too."""

    @property
    def idle(self) -> bool:
        """Whether everything is in the file."""
        return self.settled == self.entered

    def add(self, entry: Entry) -> bool:
        """Have an entry written; whether its key did not wait yet."""
        key = entry.key
        fresh = self._replace(key)
        self.waiting[key] = entry
        entry.queued = size = entry.size
        self.bytes_held += size
        return fresh

    def delete(self, key: bytes, *, stored: bool) -> bool:
        """Have the record of a key deleted; whether the key did not wait yet. `stored`: there is one in the file."""
        fresh = self._replace(key)
        doomed = stored or key in self.batch
        self.waiting[key] = doomed
        self.doomed += doomed
        self.bytes_held += DELETE_BYTES
        return fresh

    def _replace(self, key: bytes) -> bool:
        """Make way for a change of a key; whether none waited."""
        old = self.waiting.get(key)
        if old is None:
            self.entered += 1
            return True
        self._release(old)
        return False

    def _release(self, change: Entry | bool) -> None:
        """Take back what was charged for a change that does not wait any more."""
        if isinstance(change, bool):
            self.bytes_held -= DELETE_BYTES
            self.doomed -= change
        else:
            self.bytes_held -= change.queued
            change.queued = 0

    def tick(self, now_ms: int) -> None:
        """Make due what has waited long enough."""
        ages = self._entered_at
        if self.entered > (ages[-1][1] if ages else self.due):
            ages.append((now_ms, self.entered))
        while ages and ages[0][0] <= now_ms - self._after_ms:
            self.due = max(self.due, ages.popleft()[1])

    def make_all_due(self) -> None:
        """Have everything that waits written now."""
        self.due = self.entered

    def take(self, records_max: int, bytes_max: int) -> dict[bytes, Snapshot | None]:
        """Take the oldest changes that are due for writing; empty when there are none, or a batch is under way."""
        waiting = self.waiting
        left = min(records_max, self.due - self.taken)
        if self.batch or left <= 0:
            return {}
        batch = self.batch
        held = doomed = 0
        unsettled = self.unsettled
        for key, change in waiting.items():
            if key in unsettled:
                break
            if isinstance(change, bool):
                held += DELETE_BYTES
                doomed += change
                batch[key] = None
            else:
                held += change.queued
                change.queued = 0
                batch[key] = snapshot(change)
            left -= 1
            if not left or held >= bytes_max:
                break
        for key in batch:
            del waiting[key]
        self._batch_bytes = held
        self._batch_doomed = doomed
        self.taken += len(batch)
        self._batch_end = self.taken
        return batch

    def settle(self) -> None:
        """The batch has been written."""
        self.bytes_held -= self._batch_bytes
        self.doomed -= self._batch_doomed
        self._batch_bytes = self._batch_doomed = 0
        self.settled = max(self.settled, self._batch_end)
        self.batch = {}

    def drop_waiting(self) -> int:
        """Forget what waits, the batch excepted; gives the number up to which it had entered."""
        for change in self.waiting.values():
            self._release(change)
        self.waiting = {}
        self.taken = self.due = self.entered
        self._entered_at.clear()
        return self.entered

    def validate(self) -> None:
        """Check the internals; raises AssertionError with what is wrong."""
        held = self._batch_bytes
        doomed = self._batch_doomed
        for key, change in self.waiting.items():
            if isinstance(change, bool):
                held += DELETE_BYTES
                doomed += change
            else:
                assert change.key == key
                assert change.queued > 0
                held += change.queued
        assert held == self.bytes_held
        assert doomed == self.doomed
        assert self.settled <= self.taken <= self.entered
        assert self.entered - self.taken == len(self.waiting)
