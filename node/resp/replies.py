"""Building RESP replies: the few shapes that commands answer with, in RESP2 and RESP3.

Invariants: every function returns one complete reply; what differs between the protocols takes `resp` (2 or 3); an
error text can't smuggle a line break into the stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

OK: Final = b"+OK\r\n"
PONG: Final = b"+PONG\r\n"
QUEUED: Final = b"+QUEUED\r\n"
ZERO: Final = b":0\r\n"
ONE: Final = b":1\r\n"
EMPTY_ARRAY: Final = b"*0\r\n"
NULLS: Final = (b"", b"", b"$-1\r\n", b"_\r\n")
"""The null of each protocol, indexed by its number."""


class CommandError(Exception):
    """A command refuses; the text is the error reply without its dash and line break."""


class Status(bytes):
    """Bytes to be encoded as a simple string instead of a bulk."""

    __slots__ = ()


class Notice(bytes):
    """Encoded messages that answer a command and leave although its client has turned replies off."""

    __slots__ = ()


def error(text: str) -> bytes:
    """An error reply."""
    line = text.rstrip("\r\n").replace("\r", " ").replace("\n", " ")
    return b"-" + line.encode("utf-8", "surrogateescape") + b"\r\n"


def bulk(value: bytes) -> bytes:
    """A bulk string."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


def integer(value: int) -> bytes:
    """An integer."""
    return b":%d\r\n" % value


def status(text: bytes) -> bytes:
    """A simple string."""
    return b"+%b\r\n" % text


def array(items: Sequence[bytes]) -> bytes:
    """An array of replies that are already encoded."""
    return b"*%d\r\n" % len(items) + b"".join(items)


def bulks(values: Sequence[bytes]) -> bytes:
    """An array of bulk strings."""
    return b"*%d\r\n" % len(values) + b"".join([b"$%d\r\n%b\r\n" % (len(value), value) for value in values])


def pairs(items: Iterable[tuple[bytes, bytes]], resp: int) -> bytes:
    """A map (RESP3) or flat array (RESP2) of encoded names and values."""
    listed = list(items)
    head = b"%%%d\r\n" % len(listed) if resp == 3 else b"*%d\r\n" % (2 * len(listed))
    return head + b"".join([name + value for name, value in listed])


def members(items: Sequence[bytes], resp: int) -> bytes:
    """A set (RESP3) or array (RESP2) of encoded replies."""
    return (b"~%d\r\n" if resp == 3 else b"*%d\r\n") % len(items) + b"".join(items)


def push(items: Sequence[bytes]) -> bytes:
    """A RESP3 push message of encoded replies."""
    return b">%d\r\n" % len(items) + b"".join(items)


def verbatim(text: bytes, resp: int) -> bytes:
    """A text for people: verbatim string in RESP3, bulk string in RESP2."""
    return b"=%d\r\ntxt:%b\r\n" % (len(text) + 4, text) if resp == 3 else bulk(text)


def encode(value: object, resp: int) -> bytes:
    """Encode a parsed reply again (for commands that another shard answered)."""
    if value is None:
        return NULLS[resp]
    if isinstance(value, Status):
        return status(value)
    if isinstance(value, bool):
        return (b"#t\r\n" if value else b"#f\r\n") if resp == 3 else integer(value)
    if isinstance(value, int):
        return integer(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bulk(bytes(value))
    if isinstance(value, str):
        return bulk(value.encode())
    if isinstance(value, float):
        return b",%r\r\n" % value if resp == 3 else bulk(repr(value).encode())
    if isinstance(value, Mapping):
        return pairs(((encode(name, resp), encode(item, resp)) for name, item in value.items()), resp)
    if isinstance(value, Exception):
        return error(str(value))
    if isinstance(value, Iterable):
        return array([encode(item, resp) for item in value])
    raise TypeError(f"no RESP form for {type(value).__name__}")
