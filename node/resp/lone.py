"""Recognising a chunk that is exactly one of the hottest requests, by its bytes and without a parser.

A client that does not pipeline sends one request and waits, and most of what a parser does for it is overhead. The size
of a chunk leaves only one way to begin for a GET that fills it, so one comparison tells all.

Invariant: what is recognised here is what the parsers would read in these bytes; when in doubt it is left to them.
"""

from __future__ import annotations

from typing import Final

_SIZES: Final = 320
"""Sizes of chunks that are looked at: keys of up to some 300 bytes."""

SET_BYTES_MAX: Final = 16 * 1024
"""A longer SET is left to the parsers: cutting a copy off a copy costs more than it saves."""

_NOTHING: Final = b"\0"  # no request begins with it
_SET: Final = b"*3\r\n$3\r\nSET\r\n$"
_KEY_HEADS: Final = tuple(b"$%d" % size for size in range(_SIZES))


def heads(name: bytes) -> tuple[bytes, ...]:
    """For each size of a chunk how it begins if it is the request `name key`. Behind that: the key and a CRLF."""
    found = [_NOTHING] * _SIZES
    for key_bytes in range(1, _SIZES):
        head = b"*2\r\n$%d\r\n%b\r\n$%d\r\n" % (len(name), name, key_bytes)
        size = len(head) + key_bytes + 2
        if size < _SIZES:
            found[size] = head
    return tuple(found)


GET: Final = heads(b"GET")
SC_GET: Final = heads(b"SC.GET")
READ_BYTES_MAX: Final = _SIZES - 1


def parse_set(chunk: bytes) -> tuple[bytes, bytes] | None:
    """Key and value of a chunk that is one SET without options, else None."""
    if not chunk.startswith(_SET):
        return None
    parts = chunk.split(b"\r\n", 6)
    if len(parts) != 7:
        return None
    key, value = parts[4], parts[6]
    size = len(value) - 2
    if len(key) < _SIZES and parts[3] == _KEY_HEADS[len(key)] and parts[5] == b"$%d" % size and value.endswith(b"\r\n"):
        return key, value[:size]
    return None
