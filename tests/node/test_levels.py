"""The three levels together: promotion, demotion, invalidation in every level, restart."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from stratacache.node.clock import ManualClock
from stratacache.node.config import NodeConfig, WriteMode
from stratacache.node.engine import MultiLevelCache
from stratacache.node.entry import ENTRY_BYTES, NEVER_MS, Entry
from stratacache.node.errors import CorruptionError, UnavailableError
from stratacache.node.leases import LeaseReply
from stratacache.node.types import RemovalCause

MIB = 1 << 20
TEXT = b"the same words again and again " * 40


class Node:
    """Starts engines on one directory, one after the other."""

    def __init__(self, directory: Path, clock: ManualClock) -> None:
        self.directory = directory
        self.clock = clock
        self.engine: MultiLevelCache | None = None

    def start(self, **options: object) -> MultiLevelCache:
        self.stop()
        settings: dict[str, object] = {"l1_bytes_max": MIB, "l3_bytes_max": 16 * MIB, "data_dir": self.directory}
        self.engine = MultiLevelCache(NodeConfig(**(settings | options)), clock=self.clock)  # type: ignore[arg-type]
        return self.engine

    def stop(self) -> None:
        if self.engine is not None:
            self.engine.validate()
            self.engine.close()
            self.engine = None


@pytest.fixture
def node(tmp_path: Path, clock: ManualClock) -> Iterator[Node]:
    """A node whose engines are validated and closed."""
    made = Node(tmp_path / "l3", clock)
    yield made
    made.stop()


def payload(engine: MultiLevelCache, key: bytes) -> bytes | None:
    entry = engine.get(key)
    assert not isinstance(entry, Future)
    return entry.payload if entry is not None else None


def settle(engine: MultiLevelCache, deadline_s: float = 10.0) -> None:
    """Flush and tick until the disk has nothing more to do."""
    until = time.monotonic() + deadline_s
    assert engine.l3 is not None
    engine.flush()
    quiet = 0
    while quiet < 3:
        assert time.monotonic() < until, "the disk level does not come to rest"
        engine.flush()
        engine.tick()
        quiet = quiet + 1 if engine.l3.idle else 0
        if not quiet:
            engine._handoff.run_done_for(0.05)


# -- L2 ----------------------------------------------------------------------------------------------------------------


def test_seed_defect_l2_hits_return_compressed_bytes(make_engine: Callable[..., MultiLevelCache]) -> None:
    """Seed defect: a hit in L2 returned compressed bytes."""
    engine = make_engine(l1_entries_max=1, l2_bytes_max=MIB)
    engine.put(b"a", TEXT)
    engine.put(b"b", TEXT)
    assert engine.l2 is not None
    assert engine.l2.table[b"a"].packed
    assert engine.l2.table[b"a"].size < ENTRY_BYTES + 200
    assert payload(engine, b"a") == TEXT
    assert engine.stats()["levels"]["l2_compressed"]["hits"] == 1


def test_seed_defect_promotion_loses_ttl_and_tags(make_engine: Callable[..., MultiLevelCache]) -> None:
    """Seed defect: promotion lost TTL and tags."""
    engine = make_engine(l1_entries_max=1, l2_bytes_max=MIB)
    expires_ms = engine.now_ms() + 5000
    engine.put(b"docs:a", TEXT, expires_ms=expires_ms, tags=(b"t",), cost_s=7.0, codec=2, metadata=b"m")
    version = engine.table[b"docs:a"].version
    engine.put(b"b", TEXT)
    entry = engine.get(b"docs:a")
    assert isinstance(entry, Entry)
    assert entry.level is engine.l1
    assert (entry.expires_ms, entry.tags, entry.cost_s) == (expires_ms, (b"t",), 7.0)
    assert (entry.codec, entry.metadata, entry.version) == (2, b"m", version)
    assert engine.invalidate_tags((b"t",)) == 1


def test_what_does_not_shrink_stays_raw(make_engine: Callable[..., MultiLevelCache]) -> None:
    """An entry that does not get below 0.9 of its size is kept as it is."""
    engine = make_engine(l1_entries_max=1, l2_bytes_max=MIB)
    noise = random.Random(1).randbytes(5000)
    engine.put(b"a", noise)
    engine.put(b"b", b"v")
    assert engine.l2 is not None
    assert not engine.l2.table[b"a"].packed
    assert payload(engine, b"a") == noise


def test_demotion_respects_both_budgets(make_engine: Callable[..., MultiLevelCache]) -> None:
    """L1 evicts into L2, L2 evicts out; bytes stay within both budgets at every step."""
    engine = make_engine(l1_bytes_max=20_000, l2_bytes_max=15_000)
    rng = random.Random(2)
    for number in range(400):
        engine.put(b"k%d" % rng.randrange(80), rng.randbytes(rng.randrange(2000)), tags=(b"t%d" % (number % 3),))
        if number % 3 == 0:
            engine.get(b"k%d" % rng.randrange(80))
        engine.validate()
    stats = engine.stats()["levels"]
    assert stats["l1_memory"]["demotions"] > 0
    assert stats["l2_compressed"]["removed"]["evicted"] > 0


def test_value_larger_than_l1_lives_in_l2(make_engine: Callable[..., MultiLevelCache]) -> None:
    """What L1 can't hold is not refused while another level can hold it."""
    engine = make_engine(l1_bytes_max=4000, l2_bytes_max=MIB)
    big = random.Random(3).randbytes(50_000)
    assert engine.put(b"a", big) is True
    assert payload(engine, b"a") == big
    assert payload(engine, b"a") == big


@pytest.mark.parametrize("how", ["tag", "namespace", "key", "clear"])
def test_seed_defect_tag_and_namespace_invalidation_miss_l2_and_l3(node: Node, how: str) -> None:
    """Seed defect: tag and namespace invalidation missed L2 and L3."""
    engine = node.start(l1_entries_max=1, l2_bytes_max=MIB, l2_entries_max=1)
    for name in (b"docs:disk", b"docs:packed", b"docs:memory"):
        engine.put(name, TEXT, tags=(b"t",))
    engine.put(b"docs:memory", TEXT, tags=(b"t",))
    settle(engine)
    assert engine.l2 is not None
    assert (list(engine.table), list(engine.l2.table)) == ([b"docs:memory"], [b"docs:packed"])
    keys = (b"docs:disk", b"docs:packed", b"docs:memory")
    if how == "tag":
        removed = engine.invalidate_tags((b"t", b"other"))
    elif how == "namespace":
        removed = engine.invalidate_namespace(b"docs")
    elif how == "key":
        removed = engine.invalidate_keys(keys)
    else:
        removed = engine.clear()
    assert removed == 3
    assert [payload(engine, key) for key in keys] == [None] * 3
    engine.put(b"docs:disk", b"new", tags=(b"t",))
    settle(engine)
    again = node.start()
    assert [payload(again, key) for key in keys] == [b"new", None, None]


# -- L3 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", list(WriteMode))
def test_restart_is_warm(node: Node, mode: WriteMode) -> None:
    """Everything that travels with an entry is there after a restart, and versions grow across it."""
    engine = node.start(l3_write_mode=mode)
    expires_ms = engine.now_ms() + 50_000
    long_key = b"docs:" + b"k" * 5000
    engine.put(long_key, TEXT, expires_ms=expires_ms, tags=(b"t", b"u"), cost_s=3.0, codec=2, metadata=b"m")
    engine.put(b"empty", b"")
    version = engine.table[long_key].version
    again = node.start(l3_write_mode=mode)
    entry = again.get(long_key)
    assert isinstance(entry, Entry)
    assert (entry.payload, entry.expires_ms, entry.tags) == (TEXT, expires_ms, (b"t", b"u"))
    assert (entry.cost_s, entry.codec, entry.metadata, entry.version) == (3.0, 2, b"m", version)
    assert payload(again, b"empty") == b""
    again.put(b"new", b"v")
    assert again.table[b"new"].version > version
    stats = again.stats()["levels"]["l3_disk"]
    assert (stats["hits"], stats["promotions"], stats["set_aside"]) == (2, 2, "")


def test_queued_write_is_read_before_it_is_on_disk(node: Node) -> None:
    """What was evicted from memory while it waited for the disk is found in the queue."""
    engine = node.start(l1_entries_max=1)
    engine.put(b"a", b"1")
    engine.put(b"b", b"2")
    assert list(engine.table) == [b"b"]
    assert payload(engine, b"a") == b"1"


@pytest.mark.parametrize("how", ["tag", "namespace", "clear", "key", "expiry"])
def test_queued_write_does_not_survive_what_kills_it(node: Node, how: str) -> None:
    """An entry invalidated or expired while it waits for the disk is not written, nor is what it replaced kept."""
    engine = node.start(l1_entries_max=1)
    engine.put(b"docs:a", b"old", tags=(b"t",))
    settle(engine)
    engine.put(b"docs:a", b"1", tags=(b"t",), expires_ms=engine.now_ms() + 10 if how == "expiry" else NEVER_MS)
    engine.put(b"other", b"2")
    if how == "tag":
        assert engine.invalidate_tags((b"t",)) == 1
    elif how == "namespace":
        assert engine.invalidate_namespace(b"docs") == 1
    elif how == "clear":
        engine.clear()
    elif how == "key":
        assert engine.remove(b"docs:a") is True
    else:
        node.clock.advance(11)
    assert payload(engine, b"docs:a") is None
    again = node.start()
    assert payload(again, b"docs:a") is None
    assert payload(again, b"other") == (None if how == "clear" else b"2")


def test_clock_that_jumps_back_revives_nothing(node: Node) -> None:
    """Across a restart the node's clock never tells an earlier time than it once told."""
    engine = node.start()
    engine.put(b"a", b"1", expires_ms=engine.now_ms() + 1000)
    settle(engine)
    node.clock.advance(2000)
    engine.tick()
    told = engine.now_ms()
    node.stop()
    node.clock = ManualClock(now_ms=node.clock.now_ms() - 1_000_000)
    again = node.start()
    assert again.now_ms() >= told
    assert payload(again, b"a") is None


def test_expired_records_leave_the_disk(node: Node) -> None:
    """Dead records do not hold the disk until somebody reads them."""
    engine = node.start()
    for number in range(1200):
        engine.put(b"k%d" % number, b"v", expires_ms=engine.now_ms() + 50_000 if number % 2 else NEVER_MS)
    settle(engine)
    assert engine.l3 is not None
    assert engine.stats()["levels"]["l3_disk"]["entries"] == 1200
    node.clock.advance(50_001)
    settle(engine)
    stats = engine.stats()["levels"]["l3_disk"]
    assert (stats["entries"], stats["removed"]["expired"]) == (600, 600)


def test_tombstones_are_swept_and_dropped(node: Node) -> None:
    """The records that a tag invalidation killed leave the disk in slices, newer ones with the tag stay."""
    engine = node.start()
    for number in range(1500):
        engine.put(b"k%d" % number, b"v", tags=(b"t",))
    settle(engine)
    assert engine.invalidate_tags((b"t",)) == 1500
    for number in range(700):
        engine.put(b"k%d" % number, b"new", tags=(b"t",))
    settle(engine)
    stats = engine.stats()["levels"]["l3_disk"]
    assert (stats["entries"], stats["tombstones"]) == (700, 0)
    assert payload(engine, b"k1") == b"new"
    assert payload(engine, b"k1400") is None
    again = node.start()
    assert payload(again, b"k699") == b"new"


def test_pending_tombstone_survives_a_restart(node: Node) -> None:
    """An invalidation that was acknowledged but not swept holds after the restart, and the sweep goes on."""
    engine = node.start()
    for number in range(100):
        engine.put(b"k%d" % number, b"v", tags=(b"t",))
    settle(engine)
    assert engine.invalidate_tags((b"t",)) == 100
    again = node.start()
    assert again.stats()["levels"]["l3_disk"]["tombstones"] == 1
    assert payload(again, b"k5") is None
    settle(again)
    stats = again.stats()["levels"]["l3_disk"]
    assert (stats["entries"], stats["tombstones"]) == (0, 0)


def test_disk_budget_holds_and_the_oldest_leave(node: Node) -> None:
    """The file never exceeds the budget; what was put longest ago is evicted."""
    engine = node.start(l3_bytes_max=2 * MIB)
    rng = random.Random(4)
    for number in range(1500):
        engine.put(b"k%d" % number, rng.randbytes(4000))
        if number % 100 == 0:
            settle(engine)
    settle(engine)
    stats = engine.stats()["levels"]["l3_disk"]
    assert (node.directory / "data.mdb").stat().st_size <= 2 * MIB
    assert stats["bytes_used"] <= 2 * MIB
    assert stats["on"]
    assert stats["removed"]["evicted"] > 500
    assert stats["entries"] > 100
    again = node.start(l3_bytes_max=2 * MIB)
    assert payload(again, b"k1499") is not None
    assert payload(again, b"k0") is None


def test_large_values_fit_or_are_skipped(node: Node) -> None:
    """Values of up to a quarter of the level are stored; larger ones are not, and leave nothing older behind."""
    engine = node.start(l3_bytes_max=8 * MIB, l1_bytes_max=64 * MIB)
    rng = random.Random(5)
    for number in range(30):
        engine.put(b"k%d" % (number % 10), rng.randbytes(MIB))
        settle(engine)
    assert engine.stats()["levels"]["l3_disk"]["on"]
    engine.put(b"k9", rng.randbytes(3 * MIB))
    assert engine.stats()["levels"]["l3_disk"]["skipped"] == 1
    again = node.start(l3_bytes_max=8 * MIB, l1_bytes_max=64 * MIB)
    assert payload(again, b"k9") is None


def test_full_queue_refuses_at_once_and_leaves_nothing_older(node: Node) -> None:
    """A put that finds the queue full is not stored on disk, and neither is what it replaced."""
    engine = node.start(l3_queue_bytes_max=20_000)
    engine.put(b"a", b"old")
    settle(engine)
    for number in range(10):
        engine.put(b"k%d" % number, b"x" * 3000)
    engine.put(b"a", b"x" * 10_000)
    assert engine.stats()["levels"]["l3_disk"]["skipped"] > 0
    again = node.start()
    assert payload(again, b"a") is None


def test_second_process_on_the_directory_is_refused(node: Node) -> None:
    """Two nodes on one directory would destroy each other's data."""
    node.start()
    with pytest.raises(UnavailableError, match="in use by another process"):
        MultiLevelCache(NodeConfig(l3_bytes_max=MIB, data_dir=node.directory))


@pytest.mark.parametrize("what", ["garbage", "old format"])
def test_unknown_content_is_refused_or_set_aside(node: Node, what: str) -> None:
    """Data of another program or version is never served: a clear error, or a fresh start by option."""
    node.directory.mkdir()
    (node.directory / "data.mdb").write_bytes(b"garbage" * 1000)
    if what == "old format":
        (node.directory / "format").write_bytes(b"stratacache l3 format 0\n")
    with pytest.raises(CorruptionError, match="l3_rebuild=True"):
        node.start()
    engine = node.start(l3_rebuild=True)
    engine.put(b"a", b"1")
    assert engine.stats()["levels"]["l3_disk"]["set_aside"]
    assert payload(node.start(), b"a") == b"1"


def test_failing_disk_switches_the_level_off_and_the_cache_goes_on(node: Node) -> None:
    """A vanished directory: counted, said, and nothing of it is believed later."""
    engine = node.start()
    engine.put(b"a", b"1")
    settle(engine)
    (node.directory / "data.mdb").unlink()
    for _ in range(5):
        node.clock.advance(1001)
        engine.tick()
    stats = engine.stats()["levels"]["l3_disk"]
    assert not stats["on"]
    assert "vanished" in stats["off_reason"]
    assert engine.put(b"b", b"2") is True
    assert payload(engine, b"a") == b"1"
    assert engine.invalidate_tags((b"t",)) == 0


def test_write_error_distrusts_the_file(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed write the file may lack changes, so the next start does not believe it."""
    engine = node.start()
    engine.put(b"a", b"1")
    settle(engine)
    assert engine.l3 is not None
    assert engine.l3._open is not None

    def disk_full(_change: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine.l3._open.store, "write", disk_full)
    engine.put(b"a", b"2")
    engine.flush()
    assert engine._handoff.run_done_for(5)
    assert "No space left" in engine.stats()["levels"]["l3_disk"]["off_reason"]
    assert payload(engine, b"a") == b"2"
    again = node.start()
    assert payload(again, b"a") is None
    assert "failed in the run before" in again.stats()["levels"]["l3_disk"]["set_aside"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to a read-only directory")
def test_read_only_directory_starts_without_the_level(node: Node) -> None:
    """The cache works from memory."""
    node.directory.mkdir(mode=0o500)
    engine = node.start()
    engine.put(b"a", b"1")
    assert payload(engine, b"a") == b"1"
    assert not engine.stats()["levels"]["l3_disk"]["on"]


def test_directory_that_can_not_be_made_starts_without_the_level(tmp_path: Path, clock: ManualClock) -> None:
    """A file where the directory should be: the level is off, with the reason."""
    (tmp_path / "file").write_text("")
    node = Node(tmp_path / "file" / "l3", clock)
    engine = node.start()
    assert engine.put(b"a", b"1") is True
    assert engine.stats()["levels"]["l3_disk"]["off_reason"]
    node.stop()


def test_data_directory_is_private(node: Node) -> None:
    """Cached prompts are nobody else's business."""
    node.start()
    assert node.directory.stat().st_mode & 0o777 == 0o700
    for name in ("data.mdb", "side", "lock"):
        assert (node.directory / name).stat().st_mode & 0o077 == 0


# -- with a loop: futures ----------------------------------------------------------------------------------------------


class Loop:
    """The owner's loop, run by hand: calls that were posted wait until they are run."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []
        self.arrived = threading.Condition()

    def post(self, call: Callable[[], object]) -> None:
        with self.arrived:
            self.calls.append(call)
            self.arrived.notify()

    def run_until(self, future: Future[object]) -> object:
        until = time.monotonic() + 10
        while not future.done():
            with self.arrived:
                self.arrived.wait_for(lambda: self.calls, timeout=until - time.monotonic())
                assert self.calls, "nothing more is posted, and the future is not done"
                call = self.calls.pop(0)
            call()
        return future.result()


@pytest.fixture
def looped(tmp_path: Path, clock: ManualClock) -> Iterator[tuple[MultiLevelCache, Loop]]:
    """An engine with three levels and a loop."""
    loop = Loop()
    config = NodeConfig(
        l1_bytes_max=4 * MIB,
        l2_bytes_max=4 * MIB,
        l3_bytes_max=16 * MIB,
        data_dir=tmp_path / "l3",
        l3_write_mode=WriteMode.WRITE_THROUGH,
    )
    engine = MultiLevelCache(config, clock=clock, post=loop.post)
    yield engine, loop
    engine.validate()
    engine.close()


def test_write_through_is_acknowledged_after_the_commit(looped: tuple[MultiLevelCache, Loop]) -> None:
    """The future of a put is done when the record is in the file; readers see the value at once."""
    engine, loop = looped
    first = engine.put(b"a", b"1")
    second = engine.put(b"b", b"2")
    assert isinstance(first, Future)
    assert isinstance(second, Future)
    assert payload(engine, b"a") == b"1"
    assert loop.run_until(second) is True
    assert first.result(0) is True
    assert engine.stats()["levels"]["l3_disk"]["entries"] == 2


def test_seed_defect_methods_block_on_the_disk(looped: tuple[MultiLevelCache, Loop]) -> None:
    """A large record comes as a future and is promoted when it arrives."""
    engine, loop = looped
    big = random.Random(6).randbytes(MIB)
    put = engine.put(b"big", big)
    assert isinstance(put, Future)
    loop.run_until(put)
    engine.residents.unlink(engine.table[b"big"], RemovalCause.EVICTED)
    found = engine.get(b"big")
    assert isinstance(found, Future)
    entry = loop.run_until(found)
    assert isinstance(entry, Entry)
    assert entry.payload == big
    assert engine.table[b"big"] is entry


@pytest.mark.parametrize("how", ["key", "tag", "namespace", "clear", "put"])
def test_promotion_in_flight_does_not_survive_an_invalidation(looped: tuple[MultiLevelCache, Loop], how: str) -> None:
    """A value that was being read from disk when it was invalidated is neither served nor promoted."""
    engine, loop = looped
    put = engine.put(b"docs:big", random.Random(7).randbytes(MIB), tags=(b"t",))
    assert isinstance(put, Future)
    loop.run_until(put)
    engine.residents.unlink(engine.table[b"docs:big"], RemovalCause.EVICTED)
    found = engine.get(b"docs:big")
    assert isinstance(found, Future)
    done: object
    if how == "key":
        done = engine.remove(b"docs:big")
    elif how == "tag":
        done = engine.invalidate_tags((b"t",))
    elif how == "namespace":
        done = engine.invalidate_namespace(b"docs")
    elif how == "clear":
        done = engine.clear()
    else:
        done = engine.put(b"docs:big", b"newer")
    assert isinstance(done, Future)
    loop.run_until(done)
    entry = loop.run_until(found)
    if how == "put":
        assert isinstance(entry, Entry)
        assert entry.payload == b"newer"
    else:
        assert entry is None
        assert payload(engine, b"docs:big") is None


def test_large_payload_is_packed_in_the_worker(looped: tuple[MultiLevelCache, Loop]) -> None:
    """Demotion of a large value does not wait for zlib."""
    engine, loop = looped
    big = TEXT * 100
    put = engine.put(b"big", big)
    assert isinstance(put, Future)
    loop.run_until(put)
    for number in range(9):
        last = engine.put(b"k%d" % number, random.Random(number).randbytes(500_000))
    assert isinstance(last, Future)
    loop.run_until(last)
    assert engine.l2 is not None
    until = time.monotonic() + 10
    while not engine.l2.table[b"big"].packed:
        assert time.monotonic() < until
        engine._handoff.run_done_for(0.05)
    assert engine.l2.table[b"big"].size < 20_000
    engine.validate()
    assert payload(engine, b"big") == big


def test_large_tag_is_killed_in_slices_between_other_calls(looped: tuple[MultiLevelCache, Loop]) -> None:
    """While a tag of many entries is killed the loop goes on, and the answer comes when all is dead."""
    engine, loop = looped
    assert engine.l3 is not None
    for number in range(9000):
        engine.put(b"k%d" % number, b"", tags=(b"t",))
    removed = engine.invalidate_tags((b"t",))
    assert isinstance(removed, Future)
    assert not removed.done()
    engine.put(b"k1", b"newer", tags=(b"t",))
    loop.run_until(removed)
    assert payload(engine, b"k1") == b"newer"
    assert payload(engine, b"k2") is None
    assert payload(engine, b"k8999") is None


def test_lease_voided_by_a_tag_known_only_at_the_put(looped: tuple[MultiLevelCache, Loop]) -> None:
    """The fill race is closed with a disk below too."""
    engine, loop = looped
    reply = engine.lease(b"a", 0, 1000)
    assert isinstance(reply, LeaseReply)
    removed = engine.invalidate_tags((b"t",))
    assert isinstance(removed, Future)
    loop.run_until(removed)
    assert engine.put(b"a", b"old", tags=(b"t",), lease=reply.token) is False


def test_seed_defect_memory_disk_and_access_time_never_filled(node: Node) -> None:
    """The figures of memory, disk and access time are real ones."""
    engine = node.start()
    for number in range(100):
        engine.put(b"k%d" % number, TEXT)
        engine.get(b"k%d" % number)
    settle(engine)
    stats = engine.stats()
    assert stats["memory_bytes"] >= 100 * len(TEXT)
    assert stats["disk_bytes"] >= 100 * len(TEXT)
    assert stats["access_times"]["count"] > 0
    assert engine.get_comprehensive_statistics()["l3_disk_usage"] == stats["disk_bytes"]


def test_seed_defect_pickle_read_from_disk(node: Node) -> None:
    """Nothing of the node can unpickle, and a record that is a pickle is only bytes."""
    engine = node.start()
    engine.put(b"a", b"cposix\nsystem\n(S'touch owned'\ntR.")
    assert payload(node.start(), b"a") == b"cposix\nsystem\n(S'touch owned'\ntR."
    sources = Path(__file__).parents[2].joinpath("node").rglob("*.py")
    assert not [path for path in sources if "import pickle" in path.read_text()]
