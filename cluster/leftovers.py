"""The former owner's side of a handoff: what it held of keys that other shards own now, until it is rid of it.

It serves none of it to anybody. The new owner takes single keys, and gets the rest in batches, those in memory first
and hottest first. What nobody has fetched when the time is over is dropped.

Invariants: what is given away, or dropped, is gone from every level here; `left` is 0 only when no entry of a key that
this shard does not own is in any level; nothing here takes longer than a few milliseconds at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from stratacache.cluster.travelling import pack_entry
from stratacache.node.entry import Entry

if TYPE_CHECKING:
    from stratacache.cluster.ownership import Ownership
    from stratacache.node.engine import MultiLevelCache

LOOKS_A_STEP: Final = 3_000
DROPS_A_STEP: Final = 300
BATCH_KEYS_MAX: Final = 200
BATCH_BYTES_MAX: Final = 256 * 1024
DISK_KEYS: Final = 1_000
QUEUED_ENOUGH: Final = 2_000


class Leftovers:
    """Everything that one shard holds and does not own since a change of the ring. Call `step` every 20 ms or so."""

    def __init__(self, engine: MultiLevelCache, ownership: Ownership, *, until_ms: int) -> None:
        self._engine = engine
        self._ownership = ownership
        self._until_ms = until_ms
        self._unseen: list[bytes] | None = None  # in memory, the hottest last
        self._mark: bytes | None = b""  # where to go on in L3; None: it has been walked
        self._walking: Future[tuple[bytes, list[bytes]]] | None = None
        self._queues: dict[str, deque[bytes]] = {}
        self._last_look = False
        self.left = 1
        self.given = 0
        self.dropped = 0

    # -- giving --------------------------------------------------------------------------------------------------

    def take(self, keys: Sequence[bytes], done: Callable[[list[bytes | None]], None]) -> None:
        """Give the entries of single keys away; `done` gets a blob for each, None for what is not here."""
        mine = [key for key in keys if not self._ownership.owns(key)]
        self._give(mine, lambda blobs: done([blobs.get(key) for key in keys]))

    def batch(self, taker: str, done: Callable[[list[bytes] | None], None]) -> bool:
        """Give the next entries for a new owner away; `done` gets key and blob in turn, None when nothing is left.

        False when it is not known yet what there is: `done` is not called then.
        """
        queue = self._queues.get(taker)
        if queue:
            keys: list[bytes] = []
            size = 0
            while queue and len(keys) < BATCH_KEYS_MAX and size < BATCH_BYTES_MAX:
                key = queue.popleft()
                entry = self._engine.residents.find(key)
                size += entry.size if entry is not None else 1024
                keys.append(key)
            self._give(keys, lambda blobs: done([part for pair in blobs.items() for part in pair]))
            return True
        if self.left:
            return False
        done(None)
        return True

    def _give(self, keys: Sequence[bytes], done: Callable[[dict[bytes, bytes]], None]) -> None:
        """Take entries out of every level; `done` gets the blobs of those that were alive."""
        blobs: dict[bytes, bytes] = {}
        waiting = 1

        def arrived(key: bytes, entry: Entry | None) -> None:
            nonlocal waiting
            if entry is not None:
                blobs[key] = pack_entry(entry, self._engine.now_ms())
            waiting -= 1
            if not waiting:
                finish()

        def finish() -> None:
            self._engine.moving.drop(list(keys))
            self.given += len(blobs)
            done(blobs)

        for key in keys:
            entry: Any = self._engine.peek(key)
            waiting += 1
            if isinstance(entry, Future):
                entry.add_done_callback(partial(_with_result, arrived, key))
            else:
                arrived(key, entry)
        waiting -= 1
        if not waiting:
            finish()

    # -- finding and dropping ------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Look for more, or drop what is left when the time is over; whether all is gone."""
        if not self.left:
            return True
        over = self._engine.now_ms() >= self._until_ms
        if over:
            self._drop_some()
        if self._unseen is None:
            self._unseen = self._engine.moving.hottest_first()
            self._unseen.reverse()
        if self._unseen:
            some, self._unseen = self._unseen[-LOOKS_A_STEP:], self._unseen[:-LOOKS_A_STEP]
            self._sort(reversed(some))
        elif self._mark is not None:
            if sum(map(len, self._queues.values())) < QUEUED_ENOUGH:
                self._walk()
        elif not any(self._queues.values()):
            self._finish()
        return not self.left

    def drop_all(self, done: Callable[[], None]) -> None:
        """Drop everything at once, however long that takes; `done` when it is gone."""
        self._until_ms = 0
        while not self.step():
            if self._walking is not None:
                self._walking.add_done_callback(lambda _: self.drop_all(done))
                return
        done()

    def _sort(self, keys: Any) -> None:
        primary, own = self._ownership.primary, self._ownership.shard
        for key in keys:
            owner = primary(key)
            if owner != own:
                self._queues.setdefault(owner, deque()).append(key)
        self.left = 1 + sum(map(len, self._queues.values()))

    def _walk(self) -> None:
        """The next keys on disk."""
        if self._walking is not None or self._mark is None:
            return
        walking = self._engine.moving.on_disk(self._mark, DISK_KEYS)
        if walking is None:
            self._mark = None
            return
        self._walking = walking
        walking.add_done_callback(self._walked)

    def _walked(self, walking: Future[tuple[bytes, list[bytes]]]) -> None:
        self._walking = None
        if walking.exception() is not None:
            # What can't be listed can't be told apart: better nothing than a stale entry.
            self._engine.clear()
            self._mark = None
            return
        mark, keys = walking.result()
        self._mark = mark or None
        self._sort(keys)

    def _drop_some(self) -> None:
        for queue in self._queues.values():
            some = [queue.popleft() for _ in range(min(len(queue), DROPS_A_STEP))]
            if some:
                self._engine.moving.drop(some)
                self.dropped += len(some)
        self.left = 1 + sum(map(len, self._queues.values()))

    def _finish(self) -> None:
        """Look through memory once more: a read that was under way when the key moved may have promoted it since."""
        if self._last_look:
            self.left = 0
            return
        self._last_look = True
        self._unseen = None


def _with_result(arrived: Callable[[bytes, Entry | None], None], key: bytes, future: Future[Entry | None]) -> None:
    arrived(key, future.result())
