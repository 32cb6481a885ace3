"""Keys that memory has given up are still keys: SCAN, KEYS and DBSIZE know them."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from stratacache.node.config import NodeConfig, WriteMode
from tests.wire.inprocess import InProcess
from tests.wire.raw import request


def test_keys_on_disk_are_listed_and_counted(tmp_path: Path) -> None:
    """With room for 20 in memory, all 700 are there until they are deleted."""
    config = NodeConfig(l1_bytes_max=1 << 20, l1_entries_max=20, l3_bytes_max=16 << 20, data_dir=tmp_path / "l3")
    node = InProcess(config, posts=True)
    try:
        node.run([request(b"SET", b"k%d" % number, b"v") for number in range(700)])
        node.settle()
        assert node.run([request(b"DBSIZE")])[0] == b":700\r\n"
        listed, _ = node.run([request(b"KEYS", b"*")])
        assert listed.startswith(b"*700\r\n")
        assert node.run([request(b"KEYS", b"k69?")])[0].startswith(b"*10\r\n")
        cursor, keys, steps = b"0", set[bytes](), 0
        while cursor != b"0" or not steps:
            reply = node.run([request(b"SCAN", cursor, b"COUNT", b"50")])[0].split(b"\r\n")
            cursor, steps = reply[2], steps + 1
            keys.update(reply[5::2])
        assert {b"k%d" % number for number in range(700)} <= keys
        assert steps > 10
        node.run([request(b"DEL", *[b"k%d" % number for number in range(600)])])
        assert node.run([request(b"DBSIZE")])[0] == b":100\r\n"
    finally:
        node.engine.close()


@pytest.mark.parametrize("l1_bytes_max", [64 << 20, 200_000, 20_000], ids=["all", "half", "little"])
@pytest.mark.parametrize("mode", WriteMode)
def test_dbsize_counts_what_the_disk_has_not_written_yet(mode: WriteMode, l1_bytes_max: int, tmp_path: Path) -> None:
    """Right behind every change of a pipeline, whether it is in memory, waits, is being written, or is in the file."""
    rng = Random(1)
    config = NodeConfig(
        l1_bytes_max=l1_bytes_max,
        l2_bytes_max=0,
        l3_bytes_max=64 << 20,
        l3_write_mode=mode,
        flush_after_ms=50,
        data_dir=tmp_path / "l3",
    )
    node = InProcess(config, posts=True)
    connection, transport = node.connect()
    expected: set[bytes] = set()
    try:
        for _ in range(500 if mode is WriteMode.WRITE_BEHIND else 25):  # there each step waits for the file
            transport.written.clear()
            for _ in range(rng.choice([1, 1, 5])):
                key = b"k%d" % rng.randrange(100)
                if rng.random() < 0.6:
                    connection.data_received(request("SET", key, b"v" * rng.choice([10, 5000])))
                    expected.add(key)
                elif rng.random() < 0.03:
                    connection.data_received(request("FLUSHALL"))
                    expected.clear()
                else:
                    connection.data_received(request("DEL", key))
                    expected.discard(key)
            connection.data_received(request("ECHO", "behind") + request("DBSIZE"))
            node.loop.run_until(lambda: b"behind" in transport.written and transport.written[-1:] == b"\n")
            node.loop.run_until(lambda: connection.idle)
            assert transport.written.endswith(b"\r\nbehind\r\n:%d\r\n" % len(expected))
            if rng.random() < 0.1:
                node.clock.advance(100)
                node.engine.tick()
    finally:
        node.engine.close()
