"""What hurries batches along must give what the slow way gives: the reader of SC.MGET's reply, full keys in bulk."""

from __future__ import annotations

import random
import time

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratacache.client.core import fullkeys
from stratacache.client.transport.connection import Connection
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


@pytest.mark.parametrize("key", [5, None, ("a",), 1.5, ["a"]])
def test_what_is_no_key_is_refused(key: object) -> None:
    """A number is not as many zero bytes."""
    assert fullkeys.one_full(key, b"") is None  # type: ignore[arg-type]  # on purpose
    with pytest.raises(UsageError, match=type(key).__name__):
        fullkeys.careful_full(key, "default")
