"""What holds of the parser for every input, with the inputs that try it."""

from __future__ import annotations

import itertools
from types import FunctionType
from typing import Any, cast

from hypothesis import strategies as st

from stratacache.node.resp.table import COMMANDS
from tests.wire.inprocess import InProcess
from tests.wire.raw import request

words = st.binary(max_size=40) | st.sampled_from(
    [b"a", b"b", b"0", b"1", b"*1000000000", b"$5\r\n", b"\r\n", b"EX", b"NX"]
)
names = st.sampled_from(
    sorted(set(COMMANDS) - {b"QUIT", b"INFO", b"TIME", b"COMMAND", b"CLIENT", b"HELLO", b"SC.STATS"})
)
commands = st.builds(lambda name, arguments: request(name, *arguments), names, st.lists(words, max_size=6))
streams = st.lists(commands, max_size=8).map(b"".join)
pieces = st.sampled_from(
    [b"*", b"$", b"\r\n", b"-1", b"0", b"1", b"3", b"GET", b"SET", b"x", b":", b"+", b"%", b"~", b">", b"#t", b"_"]
)
numbers = st.sampled_from([b"1000000000", b"99999999999999999999", b"-5", b"1048577", b"2147483648", b"+1", b"01", b""])
garbage = st.lists(pieces | numbers | commands | st.binary(max_size=20), max_size=25).map(b"".join)
TYPES = b"$*+-:_,#!=(~%>|"


def mistype(data: bytes, place: int, kind: int) -> bytes:
    """A request in which one header is of another type."""
    headers = [at for at in range(len(data)) if at == 0 or (data[at - 2 : at] == b"\r\n" and data[at] in TYPES)]
    at = headers[place % len(headers)]
    return data[:at] + bytes([TYPES[kind % len(TYPES)]]) + data[at + 1 :]


def pairs_for_a_list(head: bytes, *arguments: bytes) -> bytes:
    """A map from 0, 1, ... to the words of a request, which can be had by these numbers as from a list."""
    items = [b":%d\r\n$%d\r\n%b\r\n" % (number, len(word), word) for number, word in enumerate(arguments)]
    return head + b"%%%d\r\n" % len(items) + b"".join(items)


mistyped = st.builds(mistype, commands, st.integers(0, 20), st.integers(0, len(TYPES) - 1))
mixed = st.lists(commands | mistyped, max_size=6).map(b"".join)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(ends)]


def replies_do_not_depend_on_the_chunks(data: bytes, places: list[int]) -> None:
    whole = InProcess().run([data])
    assert InProcess().run(cut(data, places)) == whole
    assert InProcess().run([bytes([byte]) for byte in data]) == whole


def garbage_does_no_harm(data: bytes) -> None:
    node = InProcess()
    node.run([data])
    assert node.run([request("PING")]) == (b"+PONG\r\n", False)
    node.engine.validate()
    assert not node.server.connections


PROPERTIES: list[tuple[FunctionType, dict[str, st.SearchStrategy[Any]]]] = [
    (
        cast("FunctionType", replies_do_not_depend_on_the_chunks),
        {"data": streams | mixed | garbage, "places": st.lists(st.integers(0, 10_000), max_size=8)},
    ),
    (cast("FunctionType", garbage_does_no_harm), {"data": garbage}),
]
