"""Requests that are recognised without a parser: exactly what the parsers would have read, or nothing."""

from __future__ import annotations

import hiredis
from hypothesis import example, given
from hypothesis import strategies as st

from stratacache.node.resp import lone
from tests.wire.inprocess import InProcess
from tests.wire.raw import request

KEYS = st.binary(min_size=1, max_size=300)
VALUES = st.one_of(st.binary(max_size=64), st.binary(min_size=990, max_size=1040))

BITS = st.one_of(st.binary(max_size=4), st.sampled_from([b"\r\n", b"$", b"+1", b"01", b"-1"]))


def parsed(chunk: bytes) -> list[bytes] | None:
    """The only request in a chunk, as hiredis reads it; None when it holds anything else."""
    reader = hiredis.Reader(notEnoughData=None)
    reader.feed(chunk)
    try:
        argv = reader.gets()
    except hiredis.HiredisError:
        return None
    return argv if isinstance(argv, list) and not reader.has_data() else None


def recognised(chunk: bytes) -> list[bytes] | None:
    """What is recognised in a chunk."""
    for name, heads in ((b"GET", lone.GET), (b"SC.GET", lone.SC_GET)):
        if len(chunk) <= lone.READ_BYTES_MAX and chunk.startswith(head := heads[len(chunk)]):
            return [name, chunk[len(head) : -2]]
    pair = lone.parse_set(chunk)
    return [b"SET", *pair] if pair is not None else None


@given(key=KEYS)
@example(key=b"k" * 9)
@example(key=b"k" * 10)
@example(key=b"k" * 99)
@example(key=b"k" * 100)
def test_reads_are_recognised(key: bytes) -> None:
    """Every GET and SC.GET of a key of usual length is recognised, with its key."""
    for name in (b"GET", b"SC.GET"):
        chunk = request(name, key)
        found = recognised(chunk)
        assert found == ([name, key] if len(chunk) <= lone.READ_BYTES_MAX else None)


@given(key=KEYS, value=VALUES)
@example(key=b"k" * 10, value=b"")
@example(key=b"\r\n" * 20, value=b"\r\n$1\r\n")
@example(key=b"k" * 99, value=b"v" * 1000)
def test_sets_are_recognised(key: bytes, value: bytes) -> None:
    """A plain SET with a key of usual length is recognised, whatever bytes key and value have."""
    assert recognised(request(b"SET", key, value)) == ([b"SET", key, value] if 10 <= len(key) <= 99 else None)


def test_no_bytes_are_taken_for_a_request_by_their_number() -> None:
    """Chunks of every size that are no request at all are not recognised."""
    for size in range(lone.READ_BYTES_MAX + 2):
        assert recognised(b"\0" * size) is None
        assert recognised(b"*" * size) is None


@given(key=KEYS, value=VALUES, data=st.data())
def test_nothing_else_is_recognised(key: bytes, value: bytes, data: st.DataObject) -> None:
    """Of a request with any bytes changed, cut or added, only what hiredis reads in it is recognised."""
    chunk = bytearray(request(*data.draw(st.sampled_from(((b"GET", key), (b"SC.GET", key), (b"SET", key, value))))))
    start = data.draw(st.integers(0, min(len(chunk), 60)))
    end = data.draw(st.integers(start, min(len(chunk), start + 4)))
    chunk[start:end] = data.draw(BITS)
    found = recognised(bytes(chunk))
    if found is not None:
        assert found == parsed(bytes(chunk))


def test_the_short_way_counts_like_the_long_one() -> None:
    """Replies, counters and expiry are the same, whether a request comes alone or behind another."""
    served = InProcess()
    connection, transport = served.connect()
    connection.data_received(request("SET", "default:a", "1"))
    connection.data_received(request("GET", "a"))
    connection.data_received(request("SC.GET", "a"))
    connection.data_received(request("GET", "none"))
    connection.data_received(request("SET", "a", "x", "PX", "10"))
    connection.data_received(request("GET", "a"))
    served.clock.advance(10)
    connection.data_received(request("GET", "a"))
    alone = bytes(transport.written)
    assert alone == b"+OK\r\n$1\r\n1\r\n*2\r\n:0\r\n$1\r\n1\r\n$-1\r\n+OK\r\n$1\r\nx\r\n$-1\r\n"
    stats = served.engine.stats()
    assert (stats["hits"], stats["misses"], served.server.commands) == (3, 2, 7)


def test_a_refused_set_is_answered() -> None:
    """A SET past a limit gets its error, and the connection goes on."""
    served = InProcess()
    connection, transport = served.connect()
    connection.data_received(request("SET", "", "1"))
    connection.data_received(request("GET", "a"))
    assert transport.written.startswith(b"-LIMIT key is empty")
    assert transport.written.endswith(b"\r\n$-1\r\n")


def test_no_short_way_for_a_shard_that_may_not_serve() -> None:
    """A shard without its serving lease refuses a lone GET and SET as any other."""
    served = InProcess()
    connection, transport = served.connect()
    served.server.serve_until_ms = served.clock.now_ms()
    connection.data_received(request("SET", "a", "1"))
    connection.data_received(request("GET", "a"))
    assert transport.written == b"-SUSPENDED 0\r\n" * 2
