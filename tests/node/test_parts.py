"""The leaves of the node, each alone: clock, histogram, gate, side file, records, worker, hand-off."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratacache.node.clock import NodeClock
from stratacache.node.entry import new_entry
from stratacache.node.errors import CorruptionError, UnavailableError
from stratacache.node.gate import MARKS_MAX, InvalidationGate
from stratacache.node.groups import GroupTable, Page
from stratacache.node.handoff import Handoff, then, then_ask
from stratacache.node.histogram import BUCKETS, Histogram, bucket_of, upper_ns
from stratacache.node.levels.pending import snapshot
from stratacache.node.levels.records import decode_head, encode, read_payload
from stratacache.node.levels.sidefile import MARKS_MASK, SideFile, Stamp, crc32, is_suspect
from stratacache.node.worker import Worker


def test_wall_clock_steps_are_not_seen() -> None:
    """The wall clock is read once; only the counter of elapsed time moves the node's."""
    wall, counter = [1000.0], [0.0]
    clock = NodeClock(lambda: wall[0], lambda: counter[0])
    assert clock.now_ms() == 1_000_000
    wall[0] = 5.0
    counter[0] = 0.25
    assert clock.now_ms() == 1_000_250
    clock.raise_to(2_000_000)
    assert clock.now_ms() == 2_000_000
    clock.raise_to(5)
    counter[0] = 0.5
    assert clock.now_ms() == 2_000_250


@given(st.integers(0, 1 << 40))
def test_buckets_hold_what_they_say(ns: int) -> None:
    """A duration is at most the upper end of its bucket and within an eighth of it."""
    bucket = bucket_of(ns)
    assert 0 <= bucket < BUCKETS
    assert ns <= upper_ns(bucket) <= ns + ns // 8
    assert bucket == 0 or upper_ns(bucket - 1) < ns


@given(st.lists(st.integers(0, 10**9), min_size=1), st.lists(st.integers(0, 10**9)))
def test_histograms_merge_exactly(first: list[int], second: list[int]) -> None:
    """The merge of two histograms is the histogram of both, and its quantiles are those of the values."""
    parts = Histogram(), Histogram()
    whole = Histogram()
    for histogram, values in zip(parts, (first, second), strict=True):
        for ns in values:
            histogram.record(ns)
            whole.record(ns)
    parts[0].merge(parts[1].as_dict())
    assert parts[0].counts == whole.counts
    values = sorted(first + second)
    assert whole.quantile_ns(0.5) >= values[(len(values) - 1) // 2]
    assert Histogram().quantile_ns(0.99) == 0


def test_too_many_marks_refuse_every_open_ticket() -> None:
    """The gate forgets no invalidation: past its bound it refuses rather than guesses."""
    gate = InvalidationGate()
    ticket = gate.open(b"a")
    gate.mark_tags(b"t%d" % number for number in range(MARKS_MAX + 1))
    assert not gate.admits(ticket, b"default", (b"other",))
    later = gate.open(b"a")
    assert gate.admits(later, b"default", (b"t1",))
    gate.close(ticket)
    gate.close(ticket)
    gate.close(later)
    gate.validate()


def test_side_file_keeps_marks_over_a_crash(tmp_path: Path) -> None:
    """What was marked and not wiped is suspect at the next start, and until it is swept."""
    side = SideFile(tmp_path / "side")
    assert side.fresh
    side.incarnation = 7
    side.marks[crc32(b"lost") & MARKS_MASK] = 1
    batch = side.swap()
    side.marks[crc32(b"later") & MARKS_MASK] = 1
    side.wipe(batch)
    side.save()
    again = SideFile(tmp_path / "side")
    assert (again.fresh, again.incarnation) == (False, 7)
    suspects = again.adopt_marks()
    assert suspects is not None
    assert is_suspect(suspects, b"later")
    assert not is_suspect(suspects, b"lost")
    third = SideFile(tmp_path / "side")
    assert third.adopt_marks() == suspects
    third.wipe_suspects()
    assert third.adopt_marks() is None
    for file in (side, again, third):
        file.close()


def test_side_file_believes_only_whole_stamps(tmp_path: Path) -> None:
    """Two stamps alternate; one that was torn is not given."""
    side = SideFile(tmp_path / "side")
    side.stamp(Stamp(4, 100, 2), sync=False)
    side.stamp(Stamp(5, -1, 3), sync=True)
    assert side.stamps() == [Stamp(4, 100, 2), Stamp(5, (1 << 64) - 1, 3)]
    side._map[520] ^= 1
    assert side.stamps() == [Stamp(5, (1 << 64) - 1, 3)]
    side.close()


@given(
    key=st.binary(min_size=1, max_size=300),
    payload=st.binary(max_size=300),
    tags=st.lists(st.binary(min_size=1, max_size=20), unique=True, max_size=4),
    metadata=st.binary(max_size=20),
    flip=st.integers(0, 1 << 30),
)
def test_record_gives_back_what_it_was_made_of_or_nothing(
    key: bytes, payload: bytes, tags: list[bytes], metadata: bytes, flip: int
) -> None:
    """A record round-trips; with any one bit flipped or its end cut off it is refused."""
    groups = GroupTable()
    entry = new_entry(key, payload, 77, 1234, 0.5, metadata)
    entry.page = Page(groups.group(groups.namespace(b"n"), tuple(tags), 3), 0)
    data = encode(snapshot(entry), 55)
    record = decode_head(memoryview(data))
    assert (record.key, record.tags, record.metadata, record.codec) == (key, tuple(tags), metadata, 3)
    assert (record.version, record.age, record.expires_ms, record.cost_s) == (77, 55, 1234, 0.5)
    assert read_payload(memoryview(data), record) == payload
    damaged = bytearray(data)
    damaged[flip % len(data)] ^= 1 << flip % 8
    for wrong in (bytes(damaged), data[: flip % len(data)]):
        with pytest.raises(CorruptionError):
            read_payload(memoryview(wrong), decode_head(memoryview(wrong)))


def test_worker_runs_urgent_jobs_first_and_in_order() -> None:
    """Urgent before normal, otherwise first come first served; nothing after the end."""
    worker = Worker("test")
    ran: list[str] = []
    go = threading.Event()
    worker.submit(lambda: ran.append("begin") or go.wait(5) or None)  # type: ignore[func-returns-value]
    for name in ("a", "b"):
        worker.submit(lambda name=name: ran.append(name))  # type: ignore[misc]
    worker.submit(lambda: ran.append("urgent"), urgent=True)
    go.set()
    assert worker.stop(5)
    assert ran == ["begin", "urgent", "a", "b"]
    with pytest.raises(UnavailableError):
        worker.submit(lambda: None)


def test_a_job_that_raises_keeps_none_from_running(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged with its traceback; those that wait behind it, and those it lets pass, run."""
    worker = Worker("test")
    ran: list[str] = []

    def fails() -> None:
        raise ZeroDivisionError("a bug")

    def lets_pass() -> None:
        worker.submit(fails, urgent=True)
        worker.submit(lambda: ran.append("urgent"), urgent=True)
        worker.run_urgent()

    done = threading.Event()
    for job in (fails, lets_pass, lambda: ran.append("next"), done.set):
        worker.submit(job)
    assert done.wait(5)
    assert worker.stop(5)
    assert ran == ["urgent", "next"]
    assert caplog.text.count("ZeroDivisionError: a bug") == 2


def test_failures_reach_who_waits() -> None:
    """A job that raises fails its future and what hangs on it, and the worker goes on."""
    handoff = Handoff(None)

    def fail() -> int:
        raise OSError("disk")

    failed = handoff.off_thread(fail)
    chained = then_ask(then(failed, lambda value: value + 1), lambda value: value)
    while not chained.done():
        assert handoff.run_done_for(5)
    with pytest.raises(OSError, match="disk"):
        chained.result()
    fine: Future[int] | int = handoff.settle(handoff.off_thread(lambda: 5))
    assert fine == 5
    assert handoff.worker.stop(5)


def test_collector_leaves_entries_alone_in_a_tuned_process() -> None:
    """A serving process never collects the old generation by itself; the process of the tests is not touched."""
    script = (
        "import gc, sys; from stratacache.node.tuning import tune_process; tune_process(); "
        "print(gc.get_threshold()[2], sys.getswitchinterval(), gc.get_freeze_count() > 1000)"
    )
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert output.split() == [str(1 << 30), "0.001", "True"]
    assert gc.get_threshold()[2] < 1000


def test_a_node_may_have_as_many_files_as_clients() -> None:
    """The soft limit is raised to what the connections need, no further, and as far as the hard limit lets it."""
    script = (
        "import resource; from stratacache.node.tuning import allow_connections as allow; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 1000)); files = lambda: resource.getrlimit(7)[0]; "
        "allow(500); first = files(); allow(100); second = files(); allow(5000); print(first, second, files())"
    )
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert output.stdout.split() == ["628", "628", "1000"]
    assert "no more than 872 clients" in output.stderr
