"""Every combination of options, in every order, on every kind of key: answered as by a real redis-server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import pytest

from tests.wire.comparing import is_same
from tests.wire.raw import Raw, request

pytestmark = pytest.mark.server

Words = list[bytes]
TIMES = [b"EX 100", b"PX 100000", b"EXAT 33177117420", b"PXAT 33177117420000", b"EX 0", b"PX x"]
SET = [b"NX", b"XX", b"GET", b"KEEPTTL", *TIMES, b"PERSIST"]
GETEX = [*TIMES, b"PERSIST", b"KEEPTTL", b"NX"]
EXPIRE = [b"NX", b"XX", b"GT", b"LT", b"nx", b"FOO"]
SCAN = [b"MATCH *", b"MATCH n*", b"COUNT 1000", b"COUNT 0", b"COUNT x", b"TYPE string", b"TYPE hash", b"FOO 1"]
DATES = {b"EXPIRE": [b"50", b"500", b"-1", b"x"], b"PEXPIRE": [b"50000", b"500000", b"0"]}
DATES |= {b"EXPIREAT": [b"33177117420", b"1"], b"PEXPIREAT": [b"33177117420000", b"4102444800000", b"1"]}
STATES: list[Words] = [[b"DEL", b"k"], [b"SET", b"k", b"old"], [b"SET", b"k", b"old", b"EX", b"200"]]
"""The key is not there, has no expiry, expires."""


def in_every_order(options: Sequence[bytes], most: int) -> Iterator[Words]:
    """Up to `most` of the options, the same one twice among them."""
    for count in range(most + 1):
        for chosen in product(options, repeat=count):
            yield b" ".join(chosen).split()


def combinations(name: str) -> Iterator[Words]:
    """The commands under test."""
    if name == "SET":
        for options in in_every_order(SET, 3):
            yield [b"SET", b"k", b"new", *options]
    elif name == "GETEX":
        for options in in_every_order(GETEX, 2):
            yield [b"GETEX", b"k", *options]
    elif name == "SCAN":
        for options in in_every_order(SCAN, 2):
            yield [b"SCAN", b"0", *options]
    else:
        for command, dates in DATES.items():
            for date, options in product(dates, in_every_order(EXPIRE, 2)):
                yield [command, b"k", date, *options]


@pytest.mark.parametrize("name", ["SET", "GETEX", "EXPIRE", "SCAN"])
def test_all_combinations_of_options(name: str, node: Raw, redis_server: Raw) -> None:
    """Each changes its key, or refuses, as in Redis: the reply, the value and the time that is left are compared."""
    asked: list[Words] = []
    for words in combinations(name):
        for state in STATES if name != "SCAN" else STATES[1:2]:
            asked += [state, words, [b"GET", b"k"], [b"PTTL", b"k"]]
    wrong = []
    for start in range(0, len(asked), 400):
        some = asked[start : start + 400]
        for client in (node, redis_server):
            client.send(b"".join(request(*words) for words in some))
        for words in some:
            ours, theirs = node.read(), redis_server.read()
            if not is_same(ours, theirs):
                wrong.append(f"{b' '.join(words)!r}: {ours!r}, redis has {theirs!r}")
    assert not wrong, "\n".join(wrong[:20])
