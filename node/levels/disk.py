"""L3: the face of the disk towards the engine. Called from the owner's thread; commits run in the worker.

Changes go through `writer.py`, reads through `reader.py`. A read looks at what waits, then at the batch in flight, then
into the file, so it sees the owner's changes in their order. A tag or namespace invalidation is one durable tombstone:
whatever the level finds with a version up to it is dead, and swept in slices later (upkeep.py).

Invariants: what `find` gives is not older than any acknowledged change of its key, and not covered by any invalidation;
after a failure of the disk the level is off, its file is marked as not to be trusted, and the cache goes on without it
(one that could not even be opened is set aside as soon as that is possible); after `close` no change is acknowledged.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

import lmdb

from ..entry import Entry
from ..errors import CorruptionError
from ..gate import MARKS_MAX, Marks
from ..groups import Group
from ..handoff import perf_ns
from ..stats import LevelCounters
from ..types import RemovalCause
from .reader import Reader
from .recovery import Opened, close_directory, distrust_directory, open_directory
from .store import Covered
from .upkeep import LOOK_EVERY_MS, Upkeep
from .writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from ..clock import Clock
    from ..config import NodeConfig
    from ..handoff import Handoff
    from ..residents import Residents
    from .pending import Snapshot

LOG_EVERY_MS: Final = 60_000
_log = logging.getLogger(__name__)


class DiskLevel:
    """The L3 of a node. `group_of` finds the group of a record, `now_seq` the number of the latest change."""

    def __init__(
        self,
        config: NodeConfig,
        clock: Clock,
        handoff: Handoff,
        residents: Residents,
        group_of: Callable[[bytes, tuple[bytes, ...], int], Group],
    ) -> None:
        assert config.data_dir is not None
        self._config = config
        self._clock = clock
        self._handoff = handoff
        self._residents = residents
        self.counters = LevelCounters()
        self.corrupt = 0
        self.off_reason = ""
        self._tombs = Marks()
        self._logged_at_ms = 0
        self._writer = Writer(
            config,
            clock,
            handoff,
            self._tombs,
            self.counters,
            residents.set_stored,
            residents.none_stored,
            self._begin_afresh,
            self._fail,
        )
        self.behind = not self._writer.through
        self._upkeep = Upkeep(config, handoff, self.counters, self._tombs, self._switch_off, self._drop_everything)
        self._reader = Reader(
            clock,
            handoff,
            residents,
            self._tombs,
            self._writer.pending,
            group_of,
            lambda: self._upkeep.suspects,
            self._drop_corrupt,
            self._switch_off,
        )
        self._open: Opened | None = None
        self._closing: Opened | None = None
        self._outdated = False  # what this run could not open may be opened, and believed, by a later one
        self._looked_at_ms = 0
        self.start_seq = 1
        self._open_directory()

    def _open_directory(self) -> None:
        config = self._config
        assert config.data_dir is not None
        try:
            opened = open_directory(
                config.data_dir, config.l3_bytes_max, write_through=not self.behind, rebuild=config.l3_rebuild
            )
        except (OSError, lmdb.Error) as error:
            self._log_off(f"{type(error).__name__}: {error}")
            self._outdated = not distrust_directory(config.data_dir)
            return
        self._open = opened
        self._clock.raise_to(opened.side.clock_ms)
        # Each run of the node has its own range of numbers, so versions grow across restarts without being stored.
        self.start_seq = opened.side.incarnation << 40
        self._writer.begin(opened, self.start_seq)
        self._reader.begin(opened, self.start_seq)
        self._upkeep.begin_suspects(opened.suspects, self.start_seq)
        for kind, name, seq in opened.store.load_tombstones():
            self._tombs.of_kind(kind)[name] = seq
            with opened.store.env.begin() as txn:
                self._upkeep.sweep_later(kind, (name,), seq)
                self._upkeep.note_dead(kind, name, opened.store.count_rows(txn, kind, name))

    @property
    def on(self) -> bool:
        """Whether the level is in use."""
        return self._open is not None

    def takes_changes(self) -> bool:
        """As `on`; raises UnavailableError after `close`: a change that is acknowledged then would be lost."""
        if self._open is None:
            self._writer.refuse_if_closed()
        return self._open is not None

    def count_by(self, now_seq: Callable[[], int]) -> None:
        """Learn from the gate the number of the latest put or invalidation."""
        self._writer.now_seq = now_seq

    def wait_for(self, unsettled: Collection[bytes]) -> None:
        """Write no change of a key while it is among these, nor what came after it."""
        self._writer.pending.unsettled = unsettled

    # -- changes -------------------------------------------------------------------------------------------------

    def put(self, entry: Entry) -> bool | Future[bool]:
        """Have an entry written; False when it is left out. With write-through gives a future of the commit."""
        return self._writer.put(entry)

    def delete(self, key: bytes, *, stored: bool) -> Future[bool] | None:
        """Have a record deleted, if there is one; with write-through gives a future that is done when it is.

        `stored`: whether the file is known to have one.
        """
        return self._writer.delete(key, stored=stored)

    # -- reads ---------------------------------------------------------------------------------------------------

    def find(self, key: bytes, *, wait: bool) -> Entry | Future[Entry | None] | None:
        """Give the live record of a key as an entry that is in no level yet.

        With `wait` a large payload is read at once, otherwise in the worker: then a future is given.
        """
        return self._reader.find(key, wait=wait)

    def holds(self, key: bytes) -> bool:
        """Whether a live record of a key is there, without reading its payload."""
        return self._reader.holds(key)

    def expires_ms(self, key: bytes) -> int:
        """When the live record of a key expires; DEAD_MS when there is none."""
        return self._reader.expires_ms(key)

    def keys_from(self, start: bytes, count: int) -> Future[tuple[bytes, list[bytes]]] | None:
        """About `count` keys from the mark `start` on, and the next mark (b"": the end); None when the level is off.

        With the first come those that are not in the file yet. Read in the worker.
        """
        return self._reader.keys_from(start, count)

    def pending_keys(self) -> list[bytes]:
        """Live keys that are neither in memory nor in the file yet."""
        return self._reader.pending_keys()

    def scan(self, start: bytes, limit: int) -> tuple[bytes, list[bytes]]:
        """Live keys of the next `limit` records from the digest `start` on, and the digest that follows (b"": none)."""
        return self._reader.scan(start, limit)

    def count_beside(self) -> int:
        """How many live keys there are on disk, or on their way there, that are not in memory."""
        return self._reader.count_beside(self._upkeep.dead_records)

    def count_expiring(self) -> int:
        """How many records have an expiry."""
        return self._open.store.count_expiring() if self._open is not None else 0

    def _drop_corrupt(self, key: bytes, error: CorruptionError) -> None:
        self.corrupt += 1
        self.counters.removed[RemovalCause.CORRUPT] += 1
        self._log_once(f"a corrupt record was dropped: {error}")
        self.delete(key, stored=True)

    def _drop_everything(self, error: CorruptionError) -> None:
        """The head of a record is damaged, so its index rows are not known: begin afresh rather than guess."""
        self.corrupt += 1
        self._log_once(f"all records are dropped: {error}")
        opened = self._open
        if opened is not None:
            self._residents.none_stored()
            self._handoff.run(lambda: opened.store.write(opened.store.drop_all), lambda _: None, self._fail)

    def _begin_afresh(self) -> None:
        """More changes wait than the queue may hold: drop all records rather than forget which of them are old."""
        self._log_once("changes come faster than the disk takes them: all records are dropped")
        self._residents.none_stored()
        self.clear(self._writer.now_seq() + 1)

    # -- invalidations -------------------------------------------------------------------------------------------

    @property
    def writing(self) -> Mapping[bytes, Snapshot | None]:
        """The batch under way: what the worker commits just now, and the owner does not know to be in the file."""
        return self._writer.pending.batch or {}  # one that is empty is filled later

    def invalidate(self, kind: bytes, names: tuple[bytes, ...], seq: int) -> Future[Covered] | None:
        """Make the records with these tags or of these namespaces dead; done when that is durable.

        Gives the records that were there, live or not.
        """
        opened = self._open if self.takes_changes() else None
        if opened is None:
            return None
        self._tombs.of_kind(kind).update(dict.fromkeys(names, seq))
        if len(self._tombs) > MARKS_MAX:
            return self.clear(seq)
        self._upkeep.sweep_later(kind, names, seq)
        result: Future[Covered] = Future()
        writing = self.writing

        def change(txn: Any) -> tuple[dict[bytes, int], Covered]:
            store = opened.store
            store.put_tombstones(txn, kind, names, seq)
            counts = {name: store.count_rows(txn, kind, name) for name in names}
            return counts, store.covered(txn, kind, counts, writing)

        def done(found: tuple[dict[bytes, int], Covered]) -> None:
            counts, covered = found
            for name, count in counts.items():
                self._upkeep.note_dead(kind, name, count)
            result.set_result(covered)

        self._handoff.run(lambda: opened.store.write(change), done, self._failed_with(result), urgent=True)
        return result

    def clear(self, seq: int) -> Future[Covered] | None:
        """Delete all records; done when that is durable. Gives what was there."""
        opened = self._open if self.takes_changes() else None
        if opened is None:
            return None
        self._tombs.clear()
        self._tombs.clear_seq = seq
        self._upkeep.forget_sweeps()
        dropped = self._writer.drop_waiting()
        result: Future[Covered] = Future()
        writing = self.writing

        def job() -> Covered:
            covered = opened.store.covered_by_all(writing)
            opened.store.write(opened.store.drop_all)
            return covered

        def done(covered: Covered) -> None:
            # A batch in flight was committed before and is gone too: jobs run one at a time.
            if self._tombs.clear_seq == seq:
                self._tombs.clear_seq = -1
            dropped()
            result.set_result(covered)

        # Not urgent, as batches are not: it must neither overtake one in flight nor be overtaken by the next.
        self._handoff.run(job, done, self._failed_with(result))
        return result

    def _failed_with(self, result: Future[Covered]) -> Callable[[BaseException], None]:
        def failed(error: BaseException) -> None:
            self._switch_off(str(error))
            result.set_result(Covered(0, set()))

        return failed

    def tick(self, now_ms: int) -> None:
        """Write what is old enough, and start a slice of upkeep."""
        opened = self._open
        if opened is None:
            if self._outdated and now_ms - self._looked_at_ms >= LOOK_EVERY_MS:
                self._looked_at_ms = now_ms
                self._set_outdated_aside()
            return
        self._writer.tick(now_ms)
        opened.side.clock_ms = now_ms
        opened.side.save_clock()
        self._upkeep.tick(opened, now_ms, self._writer.flushed_seq)

    # -- failure and end -----------------------------------------------------------------------------------------

    def _set_outdated_aside(self) -> None:
        """Keep later runs from believing what this one could not open and has not kept up."""
        assert self._config.data_dir is not None
        self._outdated = not distrust_directory(self._config.data_dir)

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
        self._residents.none_stored()
        self._writer.end()
        self._reader.end()

    def _log_off(self, reason: str) -> None:
        self.off_reason = reason
        _log.error("L3 in %s is off, the cache goes on without it: %s", self._config.data_dir, reason)

    def _log_once(self, message: str) -> None:
        now_ms = self._clock.now_ms()
        if now_ms - self._logged_at_ms >= LOG_EVERY_MS:
            self._logged_at_ms = now_ms
            _log.warning("L3 in %s: %s", self._config.data_dir, message)

    def flush(self) -> None:
        """Begin to write what waits."""
        self._writer.flush()

    @property
    def idle(self) -> bool:
        """Whether nothing waits or is being committed."""
        return self._writer.pending.idle and not self._upkeep.busy

    def write_out(self, deadline_s: float) -> bool:
        """Write what waits, and wait for it; whether nothing is left when the deadline comes."""
        until_ns = perf_ns() + int(deadline_s * 1e9)
        while not self.idle and perf_ns() < until_ns:
            self.flush()
            self._handoff.run_done_for(0.05)
        return self.idle

    def close(self, *, clean: bool) -> None:
        """Close the file after the worker has ended; `clean` says that everything was committed."""
        opened = self._open or self._closing
        self._open = self._closing = None
        self._writer.closed = True
        clean = clean and self._writer.pending.idle  # what came after all was written is not
        self._writer.end()
        self._reader.end()
        if self._outdated:
            self._set_outdated_aside()
        if opened is not None:
            assert self._config.data_dir is not None
            opened.side.clock_ms = max(opened.side.clock_ms, self._clock.now_ms())
            close_directory(self._config.data_dir, opened, clean=clean and not opened.side.distrust)

    def stats(self) -> dict[str, Any]:
        """Counters and gauges of the level."""
        opened = self._open
        return (
            self.counters.as_dict()
            | self._writer.stats()
            | {
                "on": opened is not None,
                "off_reason": self.off_reason,
                "entries": opened.store.count if opened is not None else 0,
                "bytes_used": opened.store.bytes_used if opened is not None else 0,
                "bytes_max": self._config.l3_bytes_max,
                "tombstones": len(self._tombs),
                "corrupt": self.corrupt + self._writer.corrupt,
                "set_aside": opened.set_aside if opened is not None else "",
            }
        )

    def validate(self) -> None:
        """Check the internals; raises AssertionError with what is wrong."""
        self._writer.pending.validate()
