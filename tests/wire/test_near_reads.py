"""What a near cache is told of a value: which pushes it is older than, also when reading it took a while."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hiredis
import pytest

from stratacache.node.config import NodeConfig
from tests.wire.inprocess import InProcess, Transport
from tests.wire.raw import request

READS = ("SC.GETX", "SC.MGETX", "SC.LEASEX", "SC.MLEASEX")


def replies(transport: Transport) -> list[Any]:
    reader = hiredis.Reader()
    reader.feed(bytes(transport.written))
    transport.written.clear()
    found = []
    while (reply := reader.gets()) is not False:
        found.append(reply)
    return found


def seq_of(name: str, reply: Any) -> int:
    """The number in a reply to one of READS."""
    one = reply[0] if name.startswith("SC.M") else reply
    number: int = (one[1] if "LEASE" in name else one)[5]
    return number


def words(name: str, key: str) -> tuple[str | int, ...]:
    return {"SC.LEASEX": (name, key, 0, 1000), "SC.MLEASEX": (name, 1000, key)}.get(name, (name, key))


def test_a_value_read_from_disk_is_older_than_what_was_pushed_meanwhile(tmp_path: Path) -> None:
    """Read, invalidated and pushed, answered: the reply's number lets the near cache refuse the value."""
    config = NodeConfig(l1_bytes_max=256 * 1024, l2_bytes_max=0, l3_bytes_max=16 << 20, data_dir=tmp_path / "l3")
    node = InProcess(config, posts=True)
    try:
        watcher, heard = node.connect()
        watcher.data_received(request("HELLO", 3) + request("SC.WATCH"))
        writer, written = node.connect()
        for name in READS:
            # Larger than memory may hold: nobody but the disk has it, and nothing of what was read is kept.
            writer.data_received(request("SET", "k", b"x" * 300_000))
            node.loop.run_until(lambda: node.engine.l3 is not None and written.written.endswith(b"+OK\r\n"))
            node.settle()
            reader, answered = node.connect()
            reader.data_received(request(*words(name, "k")))
            if not answered.written:  # it is under way: the invalidation comes between its end and its answer
                node.loop.run_until(lambda reader=reader: bool(reader._later and reader._later.future.done()))
            pushed = node.server.watchers.seq
            assert not answered.written, "nothing was answered before"
            writer.data_received(request("SC.INVALIDATE", "k"))
            node.loop.run_until(lambda answered=answered: bool(answered.written))
            assert node.server.watchers.seq > pushed
            (reply,) = replies(answered)
            assert seq_of(name, reply) <= pushed, f"{name} claims to have read after the invalidation"
        assert heard.written
    finally:
        node.engine.close()


INVALIDATE_K = [b"invalidate", [b"k"]]


@pytest.mark.parametrize("mode", [(), ("BCAST",), ("BCAST", "PREFIX", "k"), ("OPTIN",), ("OPTOUT",)], ids=str)
@pytest.mark.parametrize("read", [("GET", "k"), ("MGET", "none", "k"), ("GETRANGE", "k", 0, 3)], ids=str)
def test_a_tracking_client_is_told_once_more(
    tmp_path: Path, mode: tuple[str, ...], read: tuple[str | int, ...]
) -> None:
    """Read, changed and reported, answered: the report comes again behind the answer, and not when nothing changed."""
    config = NodeConfig(l1_bytes_max=256 * 1024, l2_bytes_max=0, l3_bytes_max=16 << 20, data_dir=tmp_path / "l3")
    node = InProcess(config, posts=True)
    try:
        writer, written = node.connect()
        writer.data_received(request("SET", "k", b"x" * 300_000))  # larger than memory may hold
        node.loop.run_until(lambda: written.written.endswith(b"+OK\r\n"))
        node.settle()
        reader, answered = node.connect()
        reader.data_received(request("HELLO", 3) + request("CLIENT", "TRACKING", "ON", *mode))
        for change in (False, True):
            if mode == ("OPTIN",):
                reader.data_received(request("CLIENT", "CACHING", "YES"))
            answered.written.clear()
            reader.data_received(request(*read))
            assert not answered.written, "nothing was answered before"
            node.loop.run_until(lambda: bool(reader._later and reader._later.future.done()))
            if change:
                writer.data_received(request("DEL", "k"))
                assert replies(answered) == [INVALIDATE_K]
            node.loop.run_until(lambda: bool(answered.written))
            assert replies(answered)[1:] == [INVALIDATE_K] * change
    finally:
        node.engine.close()


@pytest.mark.parametrize("mode", [(), ("BCAST",)], ids=str)
def test_a_tracking_client_is_told_of_what_will_expire_on_disk(tmp_path: Path, mode: tuple[str, ...]) -> None:
    """When it leaves memory, or behind the reply when it never was there; what has no expiry may be kept."""
    config = NodeConfig(
        l1_bytes_max=256 * 1024, l1_entries_max=2, l2_bytes_max=0, l3_bytes_max=16 << 20, data_dir=tmp_path / "l3"
    )
    node = InProcess(config, posts=True)
    try:
        writer, written = node.connect()
        reader, answered = node.connect()
        reader.data_received(request("HELLO", 3) + request("CLIENT", "TRACKING", "ON", *mode))
        for expiry in (("EX", 9), ()):
            for size in (
                10,
                200_000,
                300_000,
            ):  # larger than memory may hold: one is read at once, the other is waited for
                written.written.clear()
                writer.data_received(request("SET", "k", b"x" * size, *expiry))
                node.loop.run_until(lambda: written.written.endswith(b"+OK\r\n"))
                node.settle()
                answered.written.clear()
                reader.data_received(request("GET", "k"))
                node.loop.run_until(lambda: bool(answered.written) and reader.idle)
                value, *pushed = replies(answered)
                assert len(value) == size
                for number in range(3):
                    writer.data_received(request("SET", f"other-{number}", "x"))
                told = [names for _, names in pushed + replies(answered) if b"k" in names]
                assert len(told) == len(expiry[:1]), (expiry, size)
    finally:
        node.engine.close()


def test_hits_that_a_near_cache_reports_do_not_overflow_the_figures() -> None:
    """A client may say any number; the figures of the shard can be had all the same, by all."""
    node = InProcess()
    client, seen = node.connect()
    client.data_received(request("SC.HELLO", 1) + request("SET", "k", "v"))
    seen.written.clear()
    for count, answer in ((0xFFFFFFFF, b"+OK"), (1 << 32, b"-ERR count"), ((1 << 63) - 1, b"-ERR count")):
        client.data_received(request("SC.TOUCHED", "k", count))
        assert bytes(seen.written).startswith(answer)
        seen.written.clear()
    client.data_received(request("SC.STATS"))
    assert bytes(seen.written).startswith(b"$")
    assert node.engine.stats()["near_hits"] == 0xFFFFFFFF
