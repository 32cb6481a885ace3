"""Counters: numbers kept as decimal text; a counter keeps its expiry, tags and cost when it changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stratacache.node.keys import canonical
from stratacache.node.resp import long_double
from stratacache.node.resp.arguments import INT64_MAX, INT64_MIN, WRONG_TYPE, integer_of
from stratacache.node.resp.commands.entries import change, put_like
from stratacache.node.resp.commands.strings import TEXT_CODECS, write
from stratacache.node.resp.dispatch import stored
from stratacache.node.resp.long_double import LongDouble
from stratacache.node.resp.replies import CommandError, bulk, integer
from stratacache.node.resp.table import Flag, Reply, command

if TYPE_CHECKING:
    from stratacache.node.entry import Entry
    from stratacache.node.resp.connection import Connection


def add(connection: Connection, raw: bytes, amount: int) -> Reply:
    """Add to the counter under a key, 0 when it does not exist."""
    key = canonical(raw)

    def count(entry: Entry | None) -> Reply:
        if entry is not None and entry.codec not in TEXT_CODECS:
            raise CommandError(WRONG_TYPE)
        value = (0 if entry is None else integer_of(entry.payload)) + amount
        if not INT64_MIN <= value <= INT64_MAX:
            raise CommandError("ERR increment or decrement would overflow")
        text = b"%d" % value
        done = write(connection, key, text) if entry is None else put_like(connection, entry, text)
        return stored(done, integer(value))

    return change(connection, key, count)


@command("incr", 2, Flag.WRITE, (1, 1, 1))
def incr(connection: Connection, argv: list[bytes]) -> Reply:
    """Add one to the integer under a key."""
    return add(connection, argv[1], 1)


@command("decr", 2, Flag.WRITE, (1, 1, 1))
def decr(connection: Connection, argv: list[bytes]) -> Reply:
    """Subtract one from the integer under a key."""
    return add(connection, argv[1], -1)


@command("incrby", 3, Flag.WRITE, (1, 1, 1))
def incrby(connection: Connection, argv: list[bytes]) -> Reply:
    """Add to the integer under a key."""
    return add(connection, argv[1], integer_of(argv[2]))


@command("decrby", 3, Flag.WRITE, (1, 1, 1))
def decrby(connection: Connection, argv: list[bytes]) -> Reply:
    """Subtract from the integer under a key."""
    amount = integer_of(argv[2])
    if amount == INT64_MIN:
        raise CommandError("ERR decrement would overflow")
    return add(connection, argv[1], -amount)


def _number(payload: bytes) -> LongDouble:
    value = long_double.read(payload)
    if value is None:
        raise CommandError("ERR value is not a valid float")
    return value


@command("incrbyfloat", 3, Flag.WRITE, (1, 1, 1))
def incrbyfloat(connection: Connection, argv: list[bytes]) -> Reply:
    """Add to the number under a key, with the digits that Redis's long double gives."""
    key = canonical(argv[1])

    def count(entry: Entry | None) -> Reply:
        if entry is not None and entry.codec not in TEXT_CODECS:
            raise CommandError(WRONG_TYPE)
        value = long_double.add((0, 0) if entry is None else _number(entry.payload), _number(argv[2]))
        if value is None:
            raise CommandError("ERR increment would produce NaN or Infinity")
        payload = long_double.text(value)
        done = write(connection, key, payload) if entry is None else put_like(connection, entry, payload)
        return stored(done, bulk(payload))

    return change(connection, key, count)
