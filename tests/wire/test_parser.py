"""The two parsers agree, whatever the chunks, and garbage neither crashes them nor makes them grow."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import HealthCheck, example, given, settings

from stratacache.node.config import NodeConfig
from stratacache.node.resp.parser import ParserLimits, ProtocolError, RequestParser, is_harmless, split_inline
from tests.wire.inprocess import InProcess
from tests.wire.parsing import PROPERTIES, garbage_does_no_harm, pairs_for_a_list, replies_do_not_depend_on_the_chunks
from tests.wire.raw import request

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(**PROPERTIES[0][1])
@example(data=request("SET", "a", "*1000000000\r\n") + request("GET", "a"), places=[])
@example(data=request("SET", "a", b"x" * 5000) + request("GET", "a"), places=[20, 3000])  # between two arguments
@example(data=b"*1\r\n$6\r\n\0\0\0\0\0\0\0\0*", places=[])  # a lone type byte
@example(data=request("PING") + b"*2\r\n%1\r\n", places=[])
@example(data=pairs_for_a_list(request("SET", "a", "1"), b"GET", b"a"), places=[])
@example(data=pairs_for_a_list(request("PING"), b"SET", b"a", b"1"), places=[])
@example(data=request("PING") + b">2\r\n$3\r\nGET\r\n$1\r\na\r\n", places=[])
@example(data=request("PING") + b"|1\r\n$1\r\na\r\n$1\r\nb\r\n" + request("GET", "a"), places=[])
@example(data=request("PING") + b"~1\r\n$4\r\nPING\r\n", places=[])
@example(data=b"*2\r\n+GET\r\n$1\r\na\r\n", places=[])
@example(data=b"*2\r\n=7\r\ntxt:GET\r\n$1\r\na\r\n", places=[])
def test_replies_do_not_depend_on_the_chunks(data: bytes, places: list[int]) -> None:
    """The same bytes get the same replies, whole, cut anywhere, or one by one: so both parsers read alike."""
    replies_do_not_depend_on_the_chunks(data, places)


@quick
@given(**PROPERTIES[1][1])
@example(data=b"*1\r\n" * 3000)
@example(data=b"*1\r\n%1\r\n*1\r\n$1\r\na\r\n:1\r\n")
@example(data=b"*2\r\n$3\r\nGET\r\n*1\r\n$1\r\na\r\n")
def test_garbage_does_no_harm(data: bytes) -> None:
    """Whatever is sent, the connection answers or is closed, and the next one is served."""
    garbage_does_no_harm(data)


@pytest.mark.parametrize(
    "header",
    [b"*1000000000\r\n", b"*1\r\n$500000000\r\n", b"*1\r\n*1000000000\r\n", b"*2\r\n$1\r\na\r\n~1000000000\r\n"],
)
def test_a_header_allocates_nothing(header: bytes) -> None:
    """A declared length costs no memory before its bytes have come."""
    node = InProcess()
    tracemalloc.start()
    try:
        node.run([header])
        node.run([request("PING") + header])
        node.run([header[:3], header[3:]])
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


def test_harmless_chunks_are_those_without_huge_headers() -> None:
    """hiredis sees whole requests only; a huge header anywhere sends the chunk to the exact parser."""
    assert is_harmless(request("GET", "a"))
    assert not is_harmless(b"PING\r\n")
    assert not is_harmless(b"*10000000\r\n")
    assert not is_harmless(request("GET", "a") + b"*10000000\r\n")
    assert not is_harmless(b"*1\r\n~10000000\r\n")
    assert not is_harmless(b"*1\r\n+PING\r\n")
    assert is_harmless(request("SET", "a", "a table\n|1|2\n+ a list\n(and more)"))


def test_oversized_argument_is_swallowed_and_the_stream_goes_on() -> None:
    """An argument past the limit is refused by name, without being kept, and the next command is answered."""
    node = InProcess(value_bytes_max=1000, query_bytes_max=5000)
    data = request("SET", "a", b"x" * 1001) + request("SET", "a", b"x" * 1000) + request("STRLEN", "a")
    for chunks in ([data], [data[:500], data[500:]]):
        answered, closed = node.run(chunks)
        first, rest = answered.split(b"\r\n", 1)
        assert first.startswith(b"-LIMIT")
        assert b"1000" in first
        assert (rest, closed) == (b"+OK\r\n:1000\r\n", False)


def test_a_command_over_the_query_limit_closes_the_connection() -> None:
    """Arguments that are each allowed, but too many together, are not gathered."""
    node = InProcess(value_bytes_max=1000, query_bytes_max=5000)
    chunks = [b"*100\r\n"] + [b"$1000\r\n" + b"x" * 1000 + b"\r\n"] * 99
    answered, closed = node.run(chunks)
    assert closed
    assert b"query buffer limit of 5000" in answered


def test_half_a_command_waits() -> None:
    """What has come is held, and answered when the rest is there."""
    parser = RequestParser(ParserLimits())
    data = request("SET", "k", b"v" * 10_000)
    for byte in data[:-1]:
        parser.feed(bytes([byte]))
        assert parser.next() is None
    assert parser.bytes_held < 11_000
    parser.feed(data[-1:])
    assert parser.next() == [b"SET", b"k", b"v" * 10_000]
    assert parser.idle


def test_a_change_of_mode_holds_for_the_rest_of_the_chunk() -> None:
    """MULTI, AUTH and SC.HELLO rule over what stands behind them in the same packet."""
    node = InProcess()
    answered, _ = node.run([request("SET", "a", 1) + request("MULTI") + request("SET", "a", 2) + request("GET", "a")])
    assert answered == b"+OK\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n"
    assert node.run([request("GET", "a")])[0] == b"$1\r\n1\r\n"
    whole = request("MULTI") + request("SET", "a", 3) + request("EXEC") + request("SET", "b", 4) + request("GET", "a")
    assert node.run([whole])[0] == b"+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n+OK\r\n$1\r\n3\r\n"


def test_a_value_that_fits_nowhere_is_refused() -> None:
    """SET answers -OOM, SC.PUT nil; what was there is gone, and the connection goes on."""
    node = InProcess(node=NodeConfig(l1_bytes_max=10_000))
    big = b"x" * 20_000
    answered, _ = node.run([request("SET", "a", 1) + request("SET", "a", big) + request("GET", "a") + request("PING")])
    assert answered.startswith(b"+OK\r\n-OOM the value is larger")
    assert answered.endswith(b"\r\n$-1\r\n+PONG\r\n")
    assert node.run([request("SC.PUT", "a", big)])[0] == b"$-1\r\n"


def test_before_auth_requests_are_held_small() -> None:
    """A stranger can't make the node hold more than Redis would."""
    parser = RequestParser(ParserLimits(), trusted=False)
    parser.feed(b"*11\r\n")
    with pytest.raises(ProtocolError, match="unauthenticated multibulk length"):
        parser.next()
    parser = RequestParser(ParserLimits(), trusted=False)
    parser.feed(b"*2\r\n$16385\r\n")
    with pytest.raises(ProtocolError, match="unauthenticated bulk length"):
        parser.next()


@pytest.mark.parametrize(
    ("line", "split"),
    [
        (b"a b", [b"a", b"b"]),
        (b"\"a\\n\\x00\\\"\" 'it\\'s'", [b'a\n\x00"', b"it's"]),
        (b'a"b"', [b"ab"]),
        (b'"a"b', None),
        (b'"a', None),
        (b"", []),
    ],
)
def test_inline_splitting(line: bytes, split: list[bytes] | None) -> None:
    """Quotes and escapes follow Redis."""
    assert split_inline(line) == split
