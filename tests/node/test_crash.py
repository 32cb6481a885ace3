"""Killed at any moment, and damaged between runs: the node may miss, it never lies."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from stratacache.node.config import NodeConfig, WriteMode
from stratacache.node.engine import MultiLevelCache
from stratacache.node.entry import Entry

from .crash_world import KEYS, Model, config, run_and_kill, value_of

KILLS = 25  # per write mode
FLIPS = 50  # for each of four seeds


@pytest.mark.parametrize(
    ("mode", "queue_bytes", "kills"),
    [
        (WriteMode.WRITE_THROUGH, 64 << 20, KILLS),
        (WriteMode.WRITE_BEHIND, 64 << 20, KILLS),
        (WriteMode.WRITE_BEHIND, 6000, 12),
    ],
    ids=["write-through", "write-behind", "full-queue"],
)
def test_sigkill_at_random_moments(tmp_path: Path, mode: WriteMode, queue_bytes: int, kills: int) -> None:
    """After a kill no corrupt or older value is served, what write-through acknowledged is there, invalidations hold.

    In every other round the node crashes again before anybody has looked, on top of an unfinished recovery. With a
    full queue, most puts are left out of the file.
    """
    rng = random.Random(20)
    model = Model(mode, queue_bytes)
    hits = operations = 0
    for round_number in range(kills):
        operations += run_and_kill(tmp_path, model, round_number, operations, rng.uniform(0.0, 0.15))
        if round_number % 2 == 0:
            continue
        engine = MultiLevelCache(config(tmp_path, mode))
        assert engine.stats()["levels"]["l3_disk"]["set_aside"] == ""
        hits += model.check(engine)
        for _ in range(5):
            engine.tick()
        hits += model.check(engine)
        engine.validate()
        engine.close()
    assert hits > 5, "the test proves little when nearly everything is lost"
    assert operations > 100


def _put_and_die(directory: Path, flush: bool) -> None:
    """Put everything twice, wait until the disk has it, put a few keys once more, and die."""
    engine = MultiLevelCache(NodeConfig(l3_bytes_max=64 << 20, data_dir=directory, flush_after_ms=200))
    for number in range(2):
        for key in KEYS:
            engine.put(key, value_of(key, number))
    if flush:
        engine.flush()
    assert engine.l3 is not None
    until = time.monotonic() + 20
    while not engine.l3.idle and time.monotonic() < until:
        engine._handoff.run_done_for(0.01)
        engine.tick()
    for key in KEYS[:5]:
        engine.put(key, value_of(key, 2))
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("flush", [True, False])
def test_sigkill_loses_only_what_still_waited(tmp_path: Path, flush: bool) -> None:
    """With write-behind, what was flushed, or was older than its time, is there; newer puts may be a miss."""
    child = multiprocessing.get_context("fork").Process(target=_put_and_die, args=(tmp_path, flush))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    engine = MultiLevelCache(config(tmp_path, WriteMode.WRITE_BEHIND))
    assert engine.stats()["levels"]["l3_disk"]["set_aside"] == ""
    for number, key in enumerate(KEYS):
        entry = engine.get(key)
        assert not isinstance(entry, Future)
        if number < 5:
            assert entry is None or entry.payload == value_of(key, 2)
        else:
            assert entry is not None, f"{key!r} is lost"
            assert entry.payload == value_of(key, 1)
    engine.close()


def _read_all(directory: Path, flip: int) -> None:
    """Open, read and check everything, then fill in what is missing."""
    engine = MultiLevelCache(config(directory, WriteMode.WRITE_BEHIND))
    for number, key in enumerate(KEYS):
        entry = engine.get(key)
        if entry is not None:
            assert isinstance(entry, Entry)
            assert entry.payload == value_of(key, number), f"flip {flip}: wrong value for {key!r}"
        else:
            engine.put(key, value_of(key, number), tags=(b"t%d" % (number % 3),))
    engine.close()


@pytest.mark.parametrize("seed", [21, 22, 23, 24])
def test_flipped_bytes_never_give_a_wrong_value(tmp_path: Path, seed: int) -> None:
    """200 times in all a few bytes of the data file are flipped between two runs.

    A damaged value is a counted miss, or the file is set aside. Where the library crashes, the next start works.
    """
    fork = multiprocessing.get_context("fork")
    rng = random.Random(seed)
    crashes = 0

    def run(flip: int) -> int:
        child = fork.Process(target=_read_all, args=(tmp_path, flip))
        child.start()
        child.join(60)
        assert child.exitcode is not None
        return child.exitcode

    assert run(-1) == 0
    data = tmp_path / "data.mdb"
    for flip in range(FLIPS):
        size = data.stat().st_size
        with data.open("r+b") as file:
            for _ in range(1 + flip % 3):
                # Every fourth time among the first pages, where the roots are.
                at = rng.randrange(min(size, 16384) if flip % 4 == 0 else size)
                file.seek(at)
                byte = file.read(1)[0]
                file.seek(at)
                file.write(bytes([byte ^ (1 << rng.randrange(8))]))
        code = run(flip)
        if code < 0:
            crashes += 1
            code = run(flip)
        assert code == 0, f"flip {flip}: the start after a damage ended with {code}"
    assert crashes < FLIPS // 10
