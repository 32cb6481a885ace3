"""Recognising the hottest requests by their bytes, without a parser.

A client that does not pipeline sends one request and waits, and most of what a parser does for it is overhead. The size
of a chunk leaves only one way to begin for a GET that fills it, so one comparison tells all. In a pipeline the first 18
bytes of a request tell what it is and how long its key is, while its key has 10 to 99 bytes.

Invariant: what is recognised here is what the parsers would read in these bytes; when in doubt it is left to them.
"""

from __future__ import annotations

import re
from typing import Final

from mypy_extensions import i64

_SIZES: Final = 320
"""Sizes of chunks that are looked at: keys of up to some 300 bytes."""

SET_BYTES_MAX: Final = 64 * 1024
"""A longer SET is left to the parsers."""

WORDS_MAX: Final = 32
"""A command of more words is left to the parsers, which are faster then."""

_NEVER: Final = bytes(_SIZES)  # longer than the chunks that are looked at, so none begins with it
_DIGITS_MAX: Final = 9
_STAR: Final = ord("*")
_DOLLAR: Final = ord("$")
_ZERO: Final = ord("0")
_CR: Final = ord("\r")
_LF: Final = ord("\n")
_SHORTEST: Final = len(b"*1\r\n$0\r\n\r\n")
HEAD_BYTES: Final = 18
KEY_BYTES: Final[dict[bytes, int]] = {
    b"*%d\r\n$3\r\n%b\r\n$%d\r\n" % (words, name, key_bytes): key_bytes + kind
    for kind, words, name in ((0, 2, b"GET"), (100, 3, b"SET"), (200, 5, b"SET"))
    for key_bytes in range(10, 100)
}
"""How a GET, a SET, and a SET with a time begin: how long the key is, plus 0, 100 or 200."""

_TIME: Final = re.compile(rb"\$2\r\n([EP])X\r\n\$([1-9])\r\n([1-9][0-9]{0,8})\r\n").match
"""EX or PX and its number, as they follow the value."""


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


def lone(chunk: bytes) -> list[bytes] | None:
    """The words of the only command in a chunk, where that is all of it; None for anything else."""
    size: i64 = len(chunk)
    if size < _SHORTEST or chunk[0] != _STAR:
        return None
    words: i64 = chunk[1] - _ZERO
    if not 0 < words <= 9:
        return None
    at: i64 = 2
    if chunk[at] != _CR:
        units: i64 = chunk[at] - _ZERO
        words = words * 10 + units
        if not 0 <= units <= 9 or words > WORDS_MAX:
            return None
        at += 1
    if chunk[at] != _CR or chunk[at + 1] != _LF:
        return None
    at += 2
    argv: list[bytes] = []
    while words:
        if size - at < len(b"$0\r\n\r\n") or chunk[at] != _DOLLAR:
            return None
        length: i64 = chunk[at + 1] - _ZERO
        at += 2
        if not 0 <= length <= 9 or (length == 0 and chunk[at] != _CR):
            return None
        while chunk[at] != _CR:
            digit: i64 = chunk[at] - _ZERO
            length = length * 10 + digit
            at += 1
            if not 0 <= digit <= 9 or length > size - at - len(b"\r\n\r\n"):
                return None  # so `at` stays inside the chunk
        at += 2
        if chunk[at - 1] != _LF or length > size - at - len(b"\r\n"):
            return None
        argv.append(chunk[at : at + length])
        at += length + 2
        words -= 1
    return argv if at == size else None


class SetReader:
    """Reads SETs. The line with the length, and the time, are most often those of the last one."""

    __slots__ = ("_line", "_time", "_time_ms", "_value_bytes", "key", "ttl_ms", "value")

    def __init__(self) -> None:
        self.key = b""
        self.value = b""
        self.ttl_ms = 0  # 0: without a time
        self._line = b"\r\n$0\r\n"  # the line before the value,
        self._value_bytes = 0  # and what it says
        self._time = b"$2\r\nEX\r\n$1\r\n1\r\n"  # the time after the value,
        self._time_ms = 1000  # and what it says

    def read(self, chunk: bytes, start: int, key_bytes: int) -> int:
        """Read the SET whose key begins at `start`, `key_bytes` as KEY_BYTES gives it.

        Gives where the next command begins; -1 when this one is not all there, or not of a known form.
        """
        end = start + key_bytes % 100
        line = self._line
        begin = end + len(line)
        if chunk[end:begin] != line:
            if not self._learn_length(chunk, end):
                return -1
            begin = end + len(self._line)
        stop = begin + self._value_bytes
        if chunk[stop : stop + 2] != b"\r\n":
            return -1
        after = stop + 2
        ttl_ms = 0
        if key_bytes >= 200:
            if chunk[after : after + len(self._time)] != self._time and not self._learn_time(chunk, after):
                return -1
            after += len(self._time)
            ttl_ms = self._time_ms
        self.key = chunk[start:end]
        self.value = chunk[begin:stop]
        self.ttl_ms = ttl_ms
        return after

    def _learn_length(self, chunk: bytes, key_end: int) -> bool:
        begin = key_end + 3
        end = chunk.find(b"\r", begin, begin + _DIGITS_MAX + 1)
        if end < begin:
            return False
        digits = chunk[begin:end]
        if not digits.isdigit():
            return False
        length = int(digits)
        line = b"\r\n$%d\r\n" % length
        if not chunk.startswith(line, key_end):
            return False
        self._line = line
        self._value_bytes = length
        return True

    def _learn_time(self, chunk: bytes, start: int) -> bool:
        found = _TIME(chunk, start)
        if found is None or int(found[2]) != len(found[3]):
            return False
        self._time = found[0]
        self._time_ms = int(found[3]) * (1000 if found[1] == b"E" else 1)
        return True
