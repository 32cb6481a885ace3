"""What hurries batches along must give what the slow way gives: the reader of SC.MGET's reply, full keys in bulk."""

from __future__ import annotations

import random
import socket
import threading
import time

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratacache.client.core import fullkeys
from stratacache.client.transport.connection import Connection
from stratacache.client.transport.wire import pack, pack_mget
from stratacache.client.view import ShardInfo
from stratacache.node.errors import CacheError, UsageError
from stratacache.node.keys import full_key

SHARD = ShardInfo(id="s", host="127.0.0.1", port=1)


class Dribble:
    """A socket that brings a given stream in pieces of given sizes, and then ends."""

    def __init__(self, stream: bytes, pieces: list[int]) -> None:
        self._stream = stream
        self._pieces = pieces
        self._turn = 0
        self.left = len(stream)

    def recv_into(self, room: bytearray, nbytes: int = 0) -> int:
        size = min(self._pieces[self._turn % len(self._pieces)], nbytes or len(room), self.left)
        begin = len(self._stream) - self.left
        room[:size] = self._stream[begin : begin + size]
        self.left -= size
        self._turn += 1
        return size


def reply_of(payloads: list[bytes | None], codecs: bytes) -> bytes:
    parts = [b"*%d\r\n$%d\r\n%b\r\n" % (len(payloads) + 1, len(codecs), codecs)]
    parts += [b"$-1\r\n" if each is None else b"$%d\r\n%b\r\n" % (len(each), each) for each in payloads]
    return b"".join(parts)


@settings(deadline=None, max_examples=100)
@given(
    length=st.sampled_from([0, 99, 100, 101, 999, 1000, 6144]),
    count=st.integers(1, 60),
    odd=st.dictionaries(st.integers(0, 59), st.sampled_from([None, 0, 7, 100, 999, 1001, 6143, 70_000]), max_size=3),
    pieces=st.lists(st.integers(1, 300_000), min_size=1, max_size=6),
    seed=st.integers(0, 2**32),
)
def test_a_batch_is_read_as_the_parser_reads_it(
    length: int, count: int, odd: dict[int, int | None], pieces: list[int], seed: int
) -> None:
    """Payloads of one length, with any others and misses among them, in whatever pieces they come."""
    rng = random.Random(seed)
    sizes = [odd.get(index, length) for index in range(count)]
    # Payloads that look like headers: what is inside of one must never be taken for the next.
    fakes = [b"$%d\r\n" % length, b"\r\n", rng.randbytes(5)]
    payloads = [None if size is None else (b"".join(rng.choices(fakes, k=size // 2 + 1)))[:size] for size in sizes]
    payloads = [
        each if each is None or size is None else each.ljust(size) for each, size in zip(payloads, sizes, strict=True)
    ]
    stream = reply_of(payloads, rng.randbytes(count))
    if len(stream) > 100_000:
        pieces = [piece * 100 for piece in pieces]
    parser = hiredis.Reader()
    parser.feed(stream)
    sock = Dribble(stream, pieces)
    connection = Connection(SHARD, sock, tls=False)  # type: ignore[arg-type]  # all that it needs of a socket
    assert connection.receive_values(time.monotonic() + 60) == parser.gets()
    assert sock.left == 0, "all was read, and no more was asked for"


@pytest.mark.parametrize("stream", [b"-MOVED 3 a\r\n", b"*1\r\n$0\r\n\r\n", b"*-1\r\n"])
def test_other_replies_are_read_too(stream: bytes) -> None:
    """An error, and replies that no batch has."""
    parser = hiredis.Reader()
    parser.feed(stream)
    read = Connection(SHARD, Dribble(stream, [3]), tls=False).receive_values(time.monotonic() + 60)  # type: ignore[arg-type]
    assert repr(read) == repr(parser.gets())


def test_a_stream_that_ends_or_goes_on_is_an_error() -> None:
    """A reply cut short is no reply; bytes behind it mean that the two sides are out of step."""
    whole = reply_of([b"x" * 200] * 9, bytes(9))
    for stream in (whole[:-1], whole[:700], whole[:5], b"", whole + b"+OK\r\n"):
        with pytest.raises(EOFError):
            Connection(SHARD, Dribble(stream, [5000]), tls=False).receive_values(time.monotonic() + 60)  # type: ignore[arg-type]
    with pytest.raises(TimeoutError):
        Connection(SHARD, Dribble(whole, [50]), tls=False).receive_values(0.0)  # type: ignore[arg-type]


KEYS = st.one_of(
    st.text(max_size=12),
    st.text(alphabet="a:\n\ud800é", max_size=6),
    st.binary(max_size=6),
    st.text(alphabet="ab:", min_size=240, max_size=270),
    st.sampled_from(["", ":", "a" * 256 + ":b", "x" * 65_535, "x" * 65_536, "x" * 65_537, "default:a"]),
)


@given(st.lists(KEYS, min_size=1, max_size=6), st.sampled_from(["default", "docs", "n" * 255]))
def test_full_keys_in_bulk_are_those_of_one(keys: list[str | bytes], namespace: str) -> None:
    """Whatever the shortcuts take upon themselves, they give what `full_key` gives, and refuse what it refuses."""
    prefix = fullkeys.prefix_of(namespace)
    expected: list[bytes | None] = []
    for key in keys:
        try:
            expected.append(full_key(namespace, key))
        except (CacheError, UnicodeEncodeError):
            expected.append(None)
            with pytest.raises(CacheError):
                fullkeys.careful_full(key, namespace)
        else:
            assert fullkeys.careful_full(key, namespace) == expected[-1]
        assert fullkeys.one_full(key, prefix) in (None, expected[-1])
    assert fullkeys.all_full(keys, prefix) in (None, expected)
    if len(namespace) < 200:
        hashed = [f"embed:{number:032x}" for number in range(5)]
        assert fullkeys.all_full(hashed, prefix) == [full_key(namespace, key) for key in hashed]


def requested(keys: list[bytes]) -> bytes:
    """SC.MGET of full keys, in one piece."""
    return b"".join(pack([(b"SC.MGET", *keys)]))


@given(st.lists(KEYS, min_size=1, max_size=6), st.sampled_from(["default", "docs", "n" * 255]))
def test_a_batch_straight_from_text_asks_for_the_full_keys(keys: list[str | bytes], namespace: str) -> None:
    """What is put together from text is byte for byte what the full keys give; what is unusual is left alone."""
    request = pack_mget(keys, fullkeys.prefix_of(namespace))
    if request is not None:
        assert request == requested([full_key(namespace, key) for key in keys])
    if len(namespace) < 200:
        for usual in ([f"embed:{number:032x}" for number in range(5)], ["a", "bc", "a" * 9]):
            assert pack_mget(usual, fullkeys.prefix_of(namespace)) == requested([full_key(namespace, k) for k in usual])


def test_batches_of_puts_are_the_same_in_pieces() -> None:
    """Whether payloads are handed on as they lie, or as lists of buffers, the bytes are those of the protocol."""
    tail = (b"PXS", 2, 1000, 2000, b"COST", b"0.5", b"TAGS", 1, b"t", b"META", b"m")
    command = (b"SC.MPUT", b"\0\2", b"a", b"x" * 5000, b"b", b"", *tail)
    words = [word if isinstance(word, bytes) else b"%d" % word for word in command]
    expected = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
    parts = pack([command])
    assert b"".join(parts) == expected
    assert any(part is command[3] for part in parts), "the payload was copied"
    listed = (b"SC.MPUT", b"\0\2", b"a", [b"x" * 4000, b"x" * 1000], b"b", [b""], *tail)
    assert b"".join(pack([listed])) == expected
    assert b"".join(pack([(b"PING",), command, (b"PING",)])) == b"*1\r\n$4\r\nPING\r\n%b*1\r\n$4\r\nPING\r\n" % expected


def test_many_pieces_are_sent_whole_over_a_narrow_socket() -> None:
    """The kernel takes them in bites, of any length, and in more than one system call."""
    rng = random.Random(5)
    near, far = socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    buffers = [rng.randbytes(rng.choice([0, 1, 9, 700, 6144])) for _ in range(3000)]
    expected = b"".join(buffers)
    got = bytearray()
    reader = threading.Thread(target=lambda: [got.extend(bite) for bite in iter(lambda: far.recv(5000), b"")])
    reader.start()
    connection = Connection(SHARD, near, tls=False)
    connection.set_timeout(10.0)
    connection.send(buffers)
    connection.close()
    reader.join(10.0)
    far.close()
    assert got == expected


def test_a_batch_that_nobody_answers_ends_with_its_deadline() -> None:
    """Waiting for the answer to much that was sent is bounded as any other waiting."""
    near, far = socket.socketpair()
    connection = Connection(SHARD, near, tls=False)
    connection.set_timeout(0.05)
    connection.send([b"x", b"y"])
    with pytest.raises(TimeoutError):
        connection.receive(1, time.monotonic() + 5.0)
    connection.close()
    far.close()


@pytest.mark.parametrize("key", [5, None, ("a",), 1.5, ["a"]])
def test_what_is_no_key_is_refused(key: object) -> None:
    """A number is not as many zero bytes."""
    assert fullkeys.one_full(key, b"") is None  # type: ignore[arg-type]  # on purpose
    with pytest.raises(UsageError, match=type(key).__name__):
        fullkeys.careful_full(key, "default")
