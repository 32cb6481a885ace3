"""Recognising a chunk that is exactly one of the hottest requests, by its bytes and without a parser.

A client that does not pipeline sends one request and waits, and most of what a parser does for it is overhead. The size
of a chunk leaves only one way to begin for a GET that fills it, so one comparison tells all.

Invariant: what is recognised here is what the parsers would read in these bytes; when in doubt it is left to them.
"""

from __future__ import annotations

from typing import Final

_SIZES: Final = 320
"""Sizes of chunks that are looked at: keys of up to some 300 bytes."""

SET_BYTES_MAX: Final = 64 * 1024
"""A longer SET is left to the parsers."""

_NEVER: Final = bytes(_SIZES)  # longer than the chunks that are looked at, so none begins with it
_LENGTH_LINE_BYTES: Final = 24
_SET_HEAD_BYTES: Final = 18
_SET_KEY_ENDS: Final = {
    b"*3\r\n$3\r\nSET\r\n$%d\r\n" % key_bytes: _SET_HEAD_BYTES + key_bytes for key_bytes in range(10, 100)
}
"""How a SET begins, and where its key ends."""


def heads(name: bytes) -> tuple[bytes, ...]:
    """For each size of a chunk how it begins if it is the request `name key`. Behind that: the key and a CRLF."""
    found = [_NEVER] * _SIZES
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
    """Key and value of a chunk that is one SET without options, with a key of 10 to 99 bytes; else None."""
    key_end = _SET_KEY_ENDS.get(chunk[:_SET_HEAD_BYTES])
    if key_end is None:
        return None
    end = chunk.find(b"\r", key_end + 2, key_end + _LENGTH_LINE_BYTES)
    if chunk[key_end : end + 2] != b"\r\n$%d\r\n" % (len(chunk) - end - 4):
        return None
    return chunk[_SET_HEAD_BYTES:key_end], chunk[end + 2 : -2]
