"""Reading the reply of SC.MGET, `[codecs, payload or nil, ...]`, when its payloads are of one length.

Vectors of one model are, and they are what batches mostly hold. Then every header stands a fixed step behind the one
before it: a few strided slices verify them all, and one `struct` call takes all payloads of a chunk out of the receive
buffer. The parser would copy each byte once more, into a string of its own.

Invariants: every header is verified before its payload is believed; at the first that differs, the parser gets that
header and all behind it, so that any reply is read as it would read it; nothing is waited for that the shard may not
send.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Callable
from typing import Any

_BEGIN = re.compile(rb"\*([1-9]\d{0,5})\r\n\$(\d{1,6})\r\n")
_HEADER = re.compile(rb"\$([1-9]\d{2,8})\r\n")
STEPS_IN_BUFFER = 4  # larger payloads are left to the parser


def receive_values(
    receive_into: Callable[[Any], int],
    buffer: bytearray,
    until: float,
    parse: Callable[[bytes, int, int], Any],
) -> Any:
    """Read one reply by way of `buffer`.

    `parse(begun, start, stop)` reads a reply through the parser: first the bytes `begun`, then `buffer[start:stop]`,
    then what comes. Raises what it and `receive_into` raise, EOFError when the stream ends, TimeoutError past `until`.
    """
    size = _more(receive_into, buffer)
    begin = _BEGIN.match(buffer, 0, size)
    if begin is None:
        return parse(b"", 0, size)
    left = int(begin[1]) - 1
    at = begin.end() + int(begin[2]) + 2
    header_found = _HEADER.match(buffer, at, size)
    if header_found is None:
        return parse(b"", 0, size)
    header, length = header_found[0], int(header_found[1])
    step = len(header) + length + 2
    if step * STEPS_IN_BUFFER > len(buffer):
        return parse(b"", 0, size)
    values: list[Any] = [bytes(buffer[begin.end() : at - 2])]
    layout = f"{len(header)}x{length}s2x"
    view = memoryview(buffer)
    while True:
        whole = min((size - at) // step, left)
        end = at + whole * step
        if whole:
            for offset, byte in enumerate(header):
                if buffer[at + offset : end : step].count(byte) != whole:
                    return values + parse(b"*%d\r\n" % left, at, size)
            values += struct.unpack_from(layout * whole, buffer, at)
            left -= whole
            if not left:
                if end != size:
                    raise EOFError("the shard sent more than was asked for")
                return values
        rest = size - end
        if not buffer.startswith(header[:rest], end):
            return values + parse(b"*%d\r\n" % left, end, size)
        if time.monotonic() > until:
            raise TimeoutError
        buffer[:rest] = buffer[end:size]
        size = rest + _more(receive_into, view[rest:])
        at = 0


def _more(receive_into: Callable[[Any], int], room: bytearray | memoryview) -> int:
    size = receive_into(room)
    if not size:
        raise EOFError("the connection was closed")
    return size
