"""What the server does for keys that come and go: SC.TAKE, SC.DRAIN, SC.PULL, and commands that wait for an entry."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, cast

import hiredis

from stratacache.node.engine import MultiLevelCache
from stratacache.node.entry import Entry
from stratacache.node.resp.replies import CommandError
from tests.wire.inprocess import InProcess
from tests.wire.raw import request


class Departures:
    """Gives what the test says."""

    def __init__(self, batches: list[list[bytes] | None]) -> None:
        self.batches = batches
        self.taken: list[tuple[int, str, bytes, Sequence[bytes]]] = []

    def take(self, epoch: int, taker: str, incarnation: bytes, keys: Sequence[bytes]) -> Future[list[bytes | None]]:
        if epoch != 7:
            raise CommandError("ERR this shard knows nothing of that handoff")
        self.taken.append((epoch, taker, incarnation, keys))
        return done([b"blob" if key == b"here" else None for key in keys])

    def drain(self, epoch: int, taker: str, incarnation: bytes) -> Future[list[bytes] | None] | None:
        return done(self.batches.pop(0)) if self.batches else None


class Arrivals:
    """Entries that come when the test says so."""

    def __init__(self) -> None:
        self.waiting: dict[bytes, Future[None]] = {}
        self.touched: list[bytes] = []

    def settle(self, keys: Sequence[bytes]) -> Future[None] | None:
        return next((self.waiting[key] for key in keys if key in self.waiting), None)

    def touch(self, key: bytes) -> None:
        self.touched.append(key)


def done(value: Any) -> Future[Any]:
    """A future that is done."""
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def test_a_former_owner_answers_native_shards_only() -> None:
    """And may do so without a serving lease; what it refuses is an error reply."""
    node = InProcess()
    departures = node.server.departures = Departures([])
    node.server.serve_until_ms = 0
    client, seen = node.connect()
    client.data_received(request("SC.TAKE", 7, "shard-1", 1, "here"))
    assert seen.written.startswith(b"-ERR")
    client.data_received(request("SC.HELLO", 1))
    seen.written.clear()
    client.data_received(request("SC.TAKE", 7, "shard-1", 1, "default:here", "gone"))
    node.loop.run()
    assert seen.written == b"*2\r\n$4\r\nblob\r\n$-1\r\n"
    assert departures.taken == [(7, "shard-1", b"1", [b"here", b"gone"])]
    seen.written.clear()
    client.data_received(request("SC.TAKE", 8, "shard-1", 1, "here"))
    assert seen.written.startswith(b"-ERR this shard knows nothing")


def test_a_batch_the_end_and_not_yet_are_told_apart() -> None:
    """Not yet is no nil: that would look like an answer that never came."""
    node = InProcess()
    node.server.departures = Departures([[b"k", b"blob"], [], None])
    client, seen = node.connect()
    client.data_received(request("SC.HELLO", 1))
    for expected in (b"*3\r\n:1\r\n$1\r\nk\r\n$4\r\nblob\r\n", b"*1\r\n:1\r\n", b"*1\r\n:0\r\n", b"*0\r\n"):
        seen.written.clear()
        client.data_received(request("SC.DRAIN", 7, "shard-1", 1))
        node.loop.run()
        assert seen.written == expected


def test_a_put_without_a_condition_does_not_wait() -> None:
    """It touches its key; one with a condition looks at what is there."""
    node = InProcess()
    arrivals = node.server.arrivals = Arrivals()
    client, seen = node.connect()
    arrivals.waiting[b"k"] = Future()
    client.data_received(request("SC.PUT", "k", "v", "TAGS", 1, "t"))
    assert seen.written == b"+OK\r\n"
    assert arrivals.touched == [b"k"]
    seen.written.clear()
    client.data_received(request("SET", "k", "v", "NX"))
    assert seen.written == b"", "it waits"
    assert arrivals.touched == [b"k"]


def test_nobody_gets_in_between_while_a_transaction_waits_for_entries() -> None:
    """They are waited for before its first command runs."""
    node = InProcess()
    arrivals = node.server.arrivals = Arrivals()
    arrivals.waiting[b"b"] = Future()
    client, seen = node.connect()
    client.data_received(request("MULTI") + request("SET", "a", "1") + request("GET", "b"))
    seen.written.clear()
    client.data_received(request("EXEC"))
    assert seen.written == b""
    assert node.server.engine.get(b"a") is None
    arrivals.waiting.pop(b"b").set_result(None)
    node.loop.run()
    assert seen.written == b"*2\r\n+OK\r\n$-1\r\n"


class Copies:
    """Holds values of 400 KB, those on disk behind futures that the test completes."""

    def __init__(self, engine: MultiLevelCache) -> None:
        self._engine = engine
        self.reading: dict[bytes, Future[Entry | None]] = {}

    def held(self, key: bytes) -> Entry | Future[Entry | None] | None:
        if key.startswith(b"disk"):
            return self.reading.setdefault(key, Future())
        return self.memory(key)

    def memory(self, key: bytes) -> Entry | None:
        found = self._engine.peek(key)
        assert not isinstance(found, Future)
        return found


def test_another_owner_is_given_the_first_entries_as_far_as_they_go_into_one_answer() -> None:
    """However many it asks for: no more than one too many is read and held at a time."""
    node = InProcess()
    copies = Copies(node.engine)
    node.server.copies = cast("Any", copies)
    keys = ["m0", "disk1", "none", "disk3", "m4", "disk5"]
    for key in keys:
        if key != "none":
            node.engine.put(key.encode(), key.encode() * (400_000 // len(key)))
    client, seen = node.connect()
    client.data_received(request("SC.HELLO", 1))
    seen.written.clear()
    client.data_received(request("SC.PULL", *keys))
    for key in (b"disk1", b"disk3"):
        assert list(copies.reading) == [key]
        copies.reading.pop(key).set_result(copies.memory(key))
        node.loop.run()
    assert not copies.reading
    reader = hiredis.Reader()
    reader.feed(bytes(seen.written))
    entries = cast("list[Any]", reader.gets())
    assert [entry and entry[1][:5] for entry in entries] == [b"m0m0m", b"disk1", None, b"disk3"]
