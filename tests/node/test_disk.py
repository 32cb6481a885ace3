"""L3: warm after a restart, bounded, never believed when it should not be."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from stratacache.node.clock import ManualClock
from stratacache.node.config import NodeConfig, WriteMode
from stratacache.node.engine import MultiLevelCache
from stratacache.node.entry import NEVER_MS, Entry
from stratacache.node.errors import CorruptionError, UnavailableError

from .disk_world import MIB, TEXT, Node, payload, settle


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
    assert len(engine) == len(set(listed(engine, 100)))
    again = node.start(l3_bytes_max=2 * MIB)
    assert payload(again, b"k1499") is not None
    assert payload(again, b"k0") is None


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


def listed(engine: MultiLevelCache, count: int) -> list[bytes]:
    """The keys that a scan lists, in steps of about `count`."""
    keys: list[bytes] = []
    cursor = -1
    while cursor:
        cursor, some = engine.scan(max(cursor, 0), count)
        keys += some
    return keys


@pytest.mark.parametrize("count", [1, 100])
def test_keys_that_are_only_on_disk_are_listed_and_counted(node: Node, count: int) -> None:
    """A scan and `len` know what lies in memory, what waits for the disk, and what is only there; nothing dead."""
    engine = node.start(l1_entries_max=50)
    for number in range(600):
        engine.put(b"k%d" % number, b"v", tags=(b"t%d" % (number % 3),))
        if number == 500:
            settle(engine)
    everything = {b"k%d" % number for number in range(600)}
    assert set(listed(engine, count)) == everything
    settle(engine)
    assert len(engine) == 600
    assert set(listed(engine, count)) == everything
    assert engine.invalidate_tags((b"t0",)) == 200
    assert engine.remove(b"k1") is True
    alive = {b"k%d" % number for number in range(600) if number % 3} - {b"k1"}
    assert set(listed(engine, count)) == alive
    assert len(engine) == 399
    again = node.start(l1_entries_max=50)
    assert len(again) == 399
    assert payload(again, b"k2") == b"v"
    again.put(b"k4", b"new")
    again.put(b"fresh", b"new")
    assert set(listed(again, count)) == alive | {b"fresh"}
    settle(again)
    assert len(again) == 400
    again.clear()
    assert (listed(again, count), len(again)) == ([], 0)


def test_scan_lists_a_key_that_changes_its_tags(node: Node) -> None:
    """A put with other tags moves a key only to where the scan has not been."""
    engine = node.start(l3_bytes_max=0, data_dir=None)
    engine.put(b"first", b"v", tags=(b"new",))
    for number in range(600):
        engine.put(b"k%d" % number, b"v", tags=(b"old",))
    cursor, keys = engine.scan(0, 1)
    assert keys == [b"first"]
    for number in range(600):
        engine.put(b"k%d" % number, b"v", tags=(b"new",))
    while cursor:
        cursor, some = engine.scan(cursor, 1)
        keys += some
    assert {b"k%d" % number for number in range(600)} <= set(keys)


@pytest.mark.parametrize("come_back", [payload, lambda engine, key: engine.put(key, b"new", tags=(b"other",))])
def test_scan_lists_a_key_that_comes_back_before_it_is_on_disk(
    node: Node, come_back: Callable[[MultiLevelCache, bytes], object]
) -> None:
    """Out of memory, waiting for the disk, and read or put again to where the scan has been already."""
    engine = node.start(l1_entries_max=2, l2_bytes_max=0)
    for number in range(5):
        engine.put(b"k%d" % number, b"v", tags=(b"t%d" % number,))
    cursor, keys = engine.scan(0, 1)
    missing = b"k0"
    assert keys
    assert missing not in keys
    engine.remove(keys[0])  # makes room on the page that has been listed
    come_back(engine, missing)
    while cursor:
        cursor, some = engine.scan(cursor, 1)
        keys += some
    assert set(keys) == {b"k%d" % number for number in range(5)}


def test_scan_passes_records_by_that_expired_or_are_damaged(node: Node) -> None:
    """What can't be read, or is over, is not listed."""
    engine = node.start()
    for number in range(100):
        engine.put(b"k%d" % number, b"v", expires_ms=engine.now_ms() + (50 if number % 2 else 5000))
    settle(engine)
    node.clock.advance(60)
    again = node.start()
    assert sorted(listed(again, 1)) == sorted(b"k%d" % number for number in range(0, 100, 2))
