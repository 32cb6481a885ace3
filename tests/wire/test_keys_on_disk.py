"""Keys that memory has given up are still keys: SCAN, KEYS and DBSIZE know them."""

from __future__ import annotations

from pathlib import Path

from stratacache.node.config import NodeConfig
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
