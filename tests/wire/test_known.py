"""Requests that are recognised without a parser: exactly what the parsers would have read, or nothing."""

from __future__ import annotations

import hiredis
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stratacache.node.resp import known
from stratacache.node.resp.parser import ParserLimits, ProtocolError, RequestParser
from stratacache.node.resp.readloop import TURN_COMMANDS
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
    for name, heads in ((b"GET", known.GET), (b"SC.GET", known.SC_GET)):
        if len(chunk) <= known.READ_BYTES_MAX and chunk.startswith(head := heads[len(chunk)]):
            return [name, chunk[len(head) : -2]]
    key_bytes = known.KEY_BYTES.get(chunk[: known.HEAD_BYTES], 0)
    sets = known.SetReader()
    if key_bytes < 100 or sets.read(chunk, known.HEAD_BYTES, key_bytes) != len(chunk):
        return None
    assert sets.ttl_ms == 0
    return [b"SET", sets.key, sets.value]


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
        assert found == ([name, key] if len(chunk) <= known.READ_BYTES_MAX else None)


@given(key=KEYS, value=VALUES)
@example(key=b"k" * 10, value=b"")
@example(key=b"\r\n" * 20, value=b"\r\n$1\r\n")
@example(key=b"k" * 99, value=b"v" * 1000)
def test_sets_are_recognised(key: bytes, value: bytes) -> None:
    """A plain SET with a key of usual length is recognised, whatever bytes key and value have."""
    assert recognised(request(b"SET", key, value)) == ([b"SET", key, value] if 10 <= len(key) <= 99 else None)


def test_no_bytes_are_taken_for_a_request_by_their_number() -> None:
    """Chunks of every size that are no request at all are not recognised."""
    for size in range(known.READ_BYTES_MAX + 2):
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


def read_exactly(chunk: bytes) -> list[bytes] | None:
    """The only request in a chunk, as the exact parser reads it; None when it holds anything else."""
    parser = RequestParser(ParserLimits())
    parser.feed(chunk)
    try:
        argv = parser.next()
    except ProtocolError:
        return None
    return [bytes(word) for word in argv if isinstance(word, bytes)] if argv and parser.idle else None


@given(words=st.lists(st.one_of(st.binary(max_size=12), st.binary(min_size=95, max_size=105)), min_size=1, max_size=40))
@example(words=[b"v" * 1000])
@example(words=[b"\r\n$1\r\n", b"", b"*1\r\n"])
def test_any_lone_command_is_read(words: list[bytes]) -> None:
    """Whatever its words are made of; only one of many words is left to the parsers."""
    assert known.lone(request(*words)) == (words if len(words) <= known.WORDS_MAX else None)


@settings(max_examples=300)
@given(words=st.lists(st.one_of(st.binary(max_size=12), st.just(b"v" * 100)), min_size=1, max_size=12), data=st.data())
def test_only_a_lone_command_is_read(words: list[bytes], data: st.DataObject) -> None:
    """Of a command with any bytes changed, cut or added, only what the exact parser reads in it is read."""
    chunk = bytearray(request(*words))
    for _ in range(data.draw(st.integers(1, 2))):
        start = data.draw(st.integers(0, len(chunk)))
        end = data.draw(st.integers(start, min(len(chunk), start + 4)))
        chunk[start:end] = data.draw(BITS)
    found = known.lone(bytes(chunk))
    if found is not None:
        assert found == read_exactly(bytes(chunk))


def test_what_is_cut_off_anywhere_is_no_lone_command() -> None:
    """Every beginning of a command, two commands in a row, and counts and lengths that Redis refuses are left alone."""
    whole = request(b"SC.PUT", b"key", b"v" * 120, b"PX", b"600000")
    assert known.lone(whole) == [b"SC.PUT", b"key", b"v" * 120, b"PX", b"600000"]
    for end in range(len(whole)):
        assert known.lone(whole[:end]) is None
    assert known.lone(whole * 2) is None
    rest = b"$4\r\nPING\r\n"
    for count in (b"0", b"-1", b"01", b":", b"1:", b"", b"1 ", b"99", b"100", b"2"):
        assert known.lone(b"*" + count + b"\r\n" + rest) is None, count
    for length in (b"04", b"-4", b"+4", b"4 ", b":", b"", b"5", b"3", b"99999999999999999999999"):
        assert known.lone(b"*1\r\n$" + length + b"\r\nPING\r\n") is None, length


def test_a_set_with_a_time_is_recognised_with_its_time_only() -> None:
    """From the first one that a connection sends on: what stands where the time should is a time, or left alone."""
    start, key_bytes = known.HEAD_BYTES, known.KEY_BYTES[request(b"SET", b"k" * 10, b"v", b"EX", b"1")[:18]]
    for words, ttl_ms in (((b"EX", b"1"), 1000), ((b"PX", b"1"), 1), ((b"EX", b"20"), 20_000)):
        chunk = request(b"SET", b"k" * 10, b"v", *words)
        sets = known.SetReader()
        assert (sets.read(chunk, start, key_bytes), sets.ttl_ms) == (len(chunk), ttl_ms)
    whole = request(b"SET", b"k" * 10, b"v", b"EX", b"1")
    value_end = whole.index(b"$2\r\nEX")
    for wrong in (b"?", b"$", b"", b"$2\r\nXX\r\n$1\r\n1\r\n", b"$2\r\nEX\r\n$1\r\n0\r\n", b"$2\r\nEX\r\n$2\r\n01\r\n"):
        assert known.SetReader().read(whole[:value_end] + wrong, start, key_bytes) == -1, wrong


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
    assert (stats["hits"], stats["misses"], served.server.state.commands) == (3, 2, 7)


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


NAMES = st.sampled_from(
    [*(b"k" * size for size in (9, 10, 50, 99, 100)), b"default:plain-key", b"\r\n" * 7, b"*2\r\n$3\r\nGET\r\n$10"]
)
SHORT = st.one_of(st.binary(max_size=8), st.sampled_from([b"\r\n$1\r\n", b"*2\r\n$3\r\nGET", b"v" * 1000]))
TIMES = st.sampled_from([b"10", b"1", b"0", b"-1", b"01", b"x", b"999999999", b"9999999999"])
COMMANDS = st.one_of(
    st.tuples(st.just(b"GET"), NAMES),
    st.tuples(st.just(b"SET"), NAMES, SHORT),
    st.tuples(st.just(b"SET"), NAMES, SHORT, st.sampled_from([b"EX", b"PX", b"ex", b"NX"]), TIMES),
    st.tuples(st.just(b"TTL"), NAMES),
    st.sampled_from([(b"MULTI",), (b"EXEC",), (b"get", b"k" * 10), (b"CLIENT", b"REPLY", b"SKIP"), (b"PING",)]),
)


@settings(deadline=None)
@given(commands=st.lists(COMMANDS, max_size=12), cuts=st.lists(st.integers(0, 4000), max_size=4))
def test_a_pipeline_is_answered_like_its_commands(commands: list[tuple[bytes, ...]], cuts: list[int]) -> None:
    """Whole, or cut anywhere, or byte by byte through the exact parser: the same replies and the same counters."""
    stream = b"".join(request(*words) for words in commands)
    places = sorted({cut for cut in cuts if 0 < cut < len(stream)})
    cut = [stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True)]
    told = []
    for chunks in ([stream], cut, [bytes([byte]) for byte in stream]):
        served = InProcess()
        replies = served.run([chunk for chunk in chunks if chunk])
        stats = served.engine.stats()
        told.append((replies, stats["hits"], stats["misses"], stats["puts"], served.server.state.commands))
    assert told[0] == told[1] == told[2]


def test_a_pipeline_longer_than_a_turn_lets_others_in() -> None:
    """One turn of the loop executes about TURN_COMMANDS of known commands, in order, and the rest follows."""
    served = InProcess()
    connection, transport = served.connect()
    keys = [b"key:%08d" % number for number in range(2_000)]
    connection.data_received(b"".join(request("SET", key, key) for key in keys))
    assert transport.written.count(b"+OK") <= 2 * TURN_COMMANDS
    served.loop.run()
    assert transport.written.count(b"+OK") == len(keys)
    connection.data_received(b"".join(request("GET", key) for key in keys))
    served.loop.run()
    assert transport.written.endswith(b"".join(b"$12\r\n%b\r\n" % key for key in keys))
