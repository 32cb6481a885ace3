"""The exact RESP request parser: bytes in, commands out, Redis's protocol errors for everything else.

hiredis parses well-formed requests faster, but it was written for replies: it takes any RESP type, allocates what a
header declares and does not know inline commands. So the connection gives it only whole, harmless chunks
(`is_harmless`), and everything else comes here.

Invariants: sans-IO; memory held is bounded by `limits` whatever is fed, since nothing is allocated for a declared
length before its bytes have come; after a ProtocolError the connection is out of step and must be closed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

INLINE_BYTES_MAX: Final = 64 * 1024
"""Longest inline command and longest header line, as in Redis (PROTO_INLINE_MAX_SIZE)."""

ARGUMENTS_MAX: Final = 1024 * 1024
"""Most arguments of one command (Redis before 7.0 had the same limit)."""

_LONG_BYTES: Final = 4096
"""A longer argument that is not complete is gathered in a buffer of its own: each byte is copied twice at most."""

ARGUMENT_BYTES: Final = 64
"""What an argument costs beside its bytes: its object and its place in the list."""

_BATCH_BYTES_MIN: Final = 64 * 1024
_HEADER_BYTES: Final = 16
_DOLLAR: Final = ord("$")
_ZERO: Final = ord("0")

UNAUTHENTICATED_ARGUMENTS_MAX: Final = 10
UNAUTHENTICATED_BULK_BYTES_MAX: Final = 16384

_HARMFUL: Final = re.compile(rb"\n[*~>%+=(|](?:(?<=\r\n[~+=(|])|[0-9]{7})").search
"""What may be a huge header, or the header of a type that hiredis gives as a list or a bulk string."""


class ProtocolError(Exception):
    """The bytes are not a request; the text is what Redis answers before it closes the connection."""


class Oversize:
    """Stands for an argument that was longer than the server takes: its bytes were counted and thrown away."""

    __slots__ = ("length",)

    def __init__(self, length: int) -> None:
        self.length = length


@dataclass(frozen=True, slots=True)
class ParserLimits:
    """What one request may use. `bulk_bytes_max`: an argument past it is swallowed (`Oversize`), not kept;
    `declared_bytes_max`: an argument that declares more is a protocol error; `command_bytes_max`: all arguments."""

    bulk_bytes_max: int = 64 * 1024 * 1024
    declared_bytes_max: int = 512 * 1024 * 1024
    command_bytes_max: int = 256 * 1024 * 1024


def is_harmless(chunk: bytes) -> bool:
    """Whether hiredis may read `chunk`, which begins at a command boundary: it allocates what a huge header declares,
    and takes other types for bulk strings.

    A false alarm (a value that looks like such a header) only costs speed; a batch of puts that fills the chunk is one,
    because it goes on behind it: hiredis would read what the exact parser has to read again.
    """
    if len(chunk) >= _BATCH_BYTES_MIN and chunk.startswith(b"SC.MPUT\r", chunk.find(b"$", 0, 12) + 4):
        return False
    return chunk.startswith(b"*") and chunk.find(b"\r", 0, 8) > 0 and _HARMFUL(chunk) is None


def offset_after(chunk: bytes, commands: int) -> int:
    """Where the part of `chunk` begins that follows its first `commands` commands, which hiredis has accepted."""
    position = 0
    for _ in range(commands):
        end = chunk.index(b"\r\n", position)
        count = int(chunk[position + 1 : end])
        position = end + 2
        for _ in range(count):
            end = chunk.index(b"\r\n", position)
            position = end + 4 + int(chunk[position + 1 : end])
    return position


class RequestParser:
    """Parses a stream of requests: feed bytes, then call `next` until it returns None.

    `trusted` is False until the client has authenticated: then arrays and bulks are held as small as Redis holds them.
    """

    __slots__ = (
        "_args",
        "_buffer",
        "_bulk",
        "_held",
        "_left",
        "_long",
        "_missing",
        "_open",
        "_position",
        "limits",
        "trusted",
    )

    def __init__(self, limits: ParserLimits, *, trusted: bool = True) -> None:
        self.limits = limits
        self.trusted = trusted
        self._buffer = b""
        self._position = 0
        self._args: list[bytes | Oversize] = []
        self._open = False  # inside a command
        self._left = 0  # arguments still to come of the array that is being read
        self._bulk = -1  # declared length of the argument that is being read, -1 between arguments
        self._long = bytearray()  # what has come of a long argument, while `_missing` bytes of it have not
        self._missing = 0
        self._held = 0  # bytes of the finished arguments of this command

    def feed(self, data: bytes) -> None:
        """Append received bytes."""
        if self._missing:  # then the buffer is empty
            taken = self._fill(data)
            if taken < len(data):
                self._buffer = data
                self._position = taken
        elif self._position < len(self._buffer):
            self._buffer = self._buffer[self._position :] + data
            self._position = 0
        else:
            self._buffer = data
            self._position = 0

    @property
    def idle(self) -> bool:
        """Whether the stream stands at a command boundary with nothing buffered."""
        return not self._open and self._position >= len(self._buffer)

    @property
    def bytes_held(self) -> int:
        """Bytes kept for a command that is not complete yet."""
        in_sight = self._bulk + ARGUMENT_BYTES if 0 <= self._bulk <= self.limits.bulk_bytes_max else 0
        return len(self._buffer) - self._position + self._held - in_sight + len(self._long)

    def front(self, count: int) -> bytes:
        """The next bytes of what is buffered, `count` at most."""
        return self._buffer[self._position : self._position + count]

    def take_rest(self) -> bytes:
        """Give up what is buffered; only at a command boundary."""
        rest = self._buffer[self._position :]
        self._buffer = b""
        self._position = 0
        return rest

    @property
    def between_commands(self) -> bool:
        """Whether the next byte begins a command."""
        return not self._open

    def next(self) -> list[bytes | Oversize] | None:
        """The next complete command, or None when more bytes are needed. An empty one (`*0`, a blank line) is `[]`.

        Raises ProtocolError.
        """
        if not self._open:
            if self._position >= len(self._buffer):
                return None
            if self._buffer[self._position] != 42:  # not an array: an inline command
                return self._inline()
            line = self._line("too big mbulk count string")
            if line is None:
                return None
            count = self._array_length(line)
            if count <= 0:
                return []
            self._open = True
            self._left = count
            self._args = []
            self._held = 0
        if self.trusted and self._bulk < 0:
            self._whole_arguments()
        while self._left:
            if self._missing or not self._argument():
                return None
        self._open = False
        args, self._args = self._args, []
        self._held = 0
        return args

    def _array_length(self, line: bytes) -> int:
        count = _integer(line[1:])
        if count is None or count > ARGUMENTS_MAX:
            raise ProtocolError("invalid multibulk length")
        if not self.trusted and count > UNAUTHENTICATED_ARGUMENTS_MAX:
            raise ProtocolError("unauthenticated multibulk length")
        return count

    def _whole_arguments(self) -> None:
        """Take the arguments that lie whole in the buffer; `_argument` looks at the first that is anything else."""
        buffer, at, held, size = self._buffer, self._position, self._held, len(self._buffer)
        limits = self.limits
        args = self._args
        left = self._left
        # In a batch keys and payloads take turns, and each has mostly as many bytes as the one two before it.
        head = next_head = b""
        length = next_length = 0
        while left:
            start = at + len(head)
            if not head or buffer[at : min(start, size)] != head:
                end = buffer.find(b"\r\n", at, at + _HEADER_BYTES)
                if end <= at or buffer[at] != _DOLLAR:
                    break
                digits = buffer[at + 1 : end]
                if not digits.isdigit() or (digits[0] == _ZERO and len(digits) > 1):
                    break
                length = int(digits)
                start = end + 2
                head = buffer[at:start]
            stop = start + length
            more = held + length + ARGUMENT_BYTES
            if stop + 2 > size or length > limits.bulk_bytes_max or more > limits.command_bytes_max:
                break
            args.append(buffer[start:stop])
            at = stop + 2
            held = more
            left -= 1
            head, next_head = next_head, head
            length, next_length = next_length, length
        self._position, self._held, self._left = at, held, left

    def _argument(self) -> bool:
        """Read on in the current argument; whether it is complete."""
        if self._bulk < 0:
            line = self._line("too big bulk count string")
            if line is None:
                return False
            if line[:1] != b"$":
                got = chr(line[0]) if line else "\r"
                raise ProtocolError(f"expected '$', got '{got}'")
            length = _integer(line[1:])
            if length is None or not 0 <= length <= self.limits.declared_bytes_max:
                raise ProtocolError("invalid bulk length")
            if not self.trusted and length > UNAUTHENTICATED_BULK_BYTES_MAX:
                raise ProtocolError("unauthenticated bulk length")
            if length <= self.limits.bulk_bytes_max:
                self._held += length + ARGUMENT_BYTES
                if self._held > self.limits.command_bytes_max:
                    raise ProtocolError(f"command is over the query buffer limit of {self.limits.command_bytes_max}")
            self._bulk = length
        start = self._position
        end = start + self._bulk
        if end + 2 <= len(self._buffer):
            oversize = self._bulk > self.limits.bulk_bytes_max
            self._args.append(Oversize(self._bulk) if oversize else self._buffer[start:end])
            self._position = end + 2
            self._bulk = -1
            self._left -= 1
            return True
        if self._bulk > _LONG_BYTES:
            self._missing = self._bulk + 2
            rest = self._buffer[start:]
            self._buffer = b""
            self._position = 0
            self._fill(rest)
        return False

    def _fill(self, data: bytes) -> int:
        """Take what the long argument still misses from the front of `data`; returns how many bytes that were."""
        part = data[: self._missing]
        self._missing -= len(part)
        if self._bulk <= self.limits.bulk_bytes_max:
            self._long += part
        if not self._missing:
            oversize = self._bulk > self.limits.bulk_bytes_max
            self._args.append(Oversize(self._bulk) if oversize else bytes(memoryview(self._long)[: self._bulk]))
            self._long = bytearray()
            self._bulk = -1
            self._left -= 1
        return len(part)

    def _line(self, too_long: str) -> bytes | None:
        end = self._buffer.find(b"\r\n", self._position, self._position + INLINE_BYTES_MAX + 2)
        if end < 0:
            if len(self._buffer) - self._position > INLINE_BYTES_MAX:
                raise ProtocolError(too_long)
            return None
        line = self._buffer[self._position : end]
        self._position = end + 2
        return line

    def _inline(self) -> list[bytes | Oversize] | None:
        end = self._buffer.find(b"\n", self._position, self._position + INLINE_BYTES_MAX + 1)
        if end < 0:
            if len(self._buffer) - self._position > INLINE_BYTES_MAX:
                raise ProtocolError("too big inline request")
            return None
        line = self._buffer[self._position : end].removesuffix(b"\r")
        self._position = end + 1
        words = split_inline(line)
        if words is None:
            raise ProtocolError("unbalanced quotes in request")
        return list(words)


def _integer(text: bytes) -> int | None:
    """Redis's string2ll for headers: an optional minus, digits, no leading zeros or spaces."""
    digits = text[1:] if text[:1] == b"-" else text
    if not digits.isdigit() or len(digits) > 19 or (digits[:1] == b"0" and len(text) > 1):
        return None
    return int(text)


_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "a": "\a"}
_SPACE: Final = frozenset(" \n\r\t\v\f")  # may stand before a word,
_BREAK: Final = frozenset(" \n\r\t")  # and what ends one
_HEX: Final = frozenset("0123456789abcdefABCDEF")


def split_inline(line: bytes) -> list[bytes] | None:
    """Split an inline command into words with Redis's quoting rules; None when the quotes do not match."""
    if b'"' not in line and b"'" not in line and b"\v" not in line and b"\f" not in line:
        return line.split()
    text = line.decode("latin-1")  # one character a byte
    words: list[bytes] = []
    position = 0
    while True:
        while position < len(text) and text[position] in _SPACE:
            position += 1
        if position >= len(text):
            return words
        parts: list[str] = []
        while position < len(text) and text[position] not in _BREAK:
            quote = text[position]
            if quote in "\"'":
                position = _quoted(text, position + 1, quote, parts)
                if position < 0 or (position < len(text) and text[position] not in _SPACE):
                    return None
                break
            parts.append(quote)
            position += 1
        words.append("".join(parts).encode("latin-1"))


def _quoted(text: str, position: int, quote: str, parts: list[str]) -> int:
    """Read a quoted part into `parts`; returns the position behind its closing quote, -1 when there is none."""
    while position < len(text):
        char = text[position]
        if char == quote:
            return position + 1
        if char == "\\" and quote == '"':
            digits = text[position + 2 : position + 4]
            if text[position + 1 : position + 2] == "x" and len(digits) == 2 and set(digits) <= _HEX:
                parts.append(chr(int(digits, 16)))
                position += 4
                continue
            if position + 1 < len(text):
                parts.append(_ESCAPES.get(text[position + 1], text[position + 1]))
            position += 2
        elif char == "\\" and text[position + 1 : position + 2] == "'":
            parts.append("'")
            position += 2
        else:
            parts.append(char)
            position += 1
    return -1
