"""Reading arguments as Redis reads them: strict integers, options in any case, expiry in four units.

Invariants: nothing here touches the engine; a bad argument raises CommandError with the text that Redis 7 gives.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from stratacache.node.resp.replies import CommandError

INT64_MAX: Final = (1 << 63) - 1
INT64_MIN: Final = -(1 << 63)
NOT_AN_INTEGER: Final = "ERR value is not an integer or out of range"
SYNTAX: Final = "ERR syntax error"
PATTERN_BYTES_MAX: Final = 1024
"""A longer pattern would take more than 10 ms to compile."""

WRONG_TYPE: Final = "WRONGTYPE Operation against a key holding the wrong kind of value"

ZERO_DIGIT: Final = ord("0")
_CURSOR: Final = re.compile(rb"(?:([+-]?)0*(\d{1,20}))?(?:\0|\Z)").match


def shown(text: bytes, most: int | None = None) -> str:
    """What an error says of an argument, `most` bytes of it: C ends a text at its first zero byte."""
    return text.partition(b"\0")[0][:most].decode("utf-8", "surrogateescape")


def integer_in(text: bytes) -> int | None:
    """A 64-bit integer in its only spelling, else None (Redis's string2ll)."""
    digits = text if text.isdigit() else text.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > 19 or (digits[0] == ZERO_DIGIT and len(text) > 1):
        return None
    value = int(text)
    return value if INT64_MIN <= value <= INT64_MAX else None


def integer_of(text: bytes, problem: str = NOT_AN_INTEGER) -> int:
    """A 64-bit integer; raises CommandError."""
    value = integer_in(text)
    if value is None:
        raise CommandError(problem)
    return value


def cursor_of(text: bytes) -> int:
    """A SCAN cursor as C's strtoul reads it: no text is 0, a negative one is taken modulo 2^64. Raises CommandError."""
    found = _CURSOR(text)
    value = int(found[2]) if found is not None and found[2] else 0
    if found is None or value >= 1 << 64:
        raise CommandError("ERR invalid cursor")
    return -value % (1 << 64) if found[1] == b"-" else value


def count_of(text: bytes, what: str, least: int = 0, most: int = INT64_MAX) -> int:
    """An integer within bounds, for our own commands."""
    plain = text.isdigit() and len(text) < 19 and text[0] != ZERO_DIGIT
    value = int(text) if plain else integer_in(text)
    if value is None or not least <= value <= most:
        bound = f"from {least} to {most}" if most < INT64_MAX else f"of at least {least}"
        raise CommandError(f"ERR {what} must be an integer {bound}")
    return value


def expires_at(text: bytes, unit: bytes, now_ms: int, command: str) -> int:
    """When something expires, in ms on the node's clock; `unit` is EX, PX, EXAT or PXAT."""
    value = int(text) if text.isdigit() and len(text) < 19 and text[0] != ZERO_DIGIT else integer_of(text)
    seconds = unit in (b"EX", b"EXAT")
    if value <= 0 or (seconds and value > INT64_MAX // 1000):
        raise CommandError(f"ERR invalid expire time in '{command}' command")
    if seconds:
        value *= 1000
    if unit in (b"EX", b"PX"):
        value += now_ms
        if value > INT64_MAX:
            raise CommandError(f"ERR invalid expire time in '{command}' command")
    return value


@lru_cache(maxsize=64)
def glob(pattern: bytes) -> re.Pattern[bytes]:
    """A compiled Redis glob: `*`, `?`, `[a-c]`, `[^a]`, backslash escapes.

    Every `*` is matched lazily and never given back (an atomic group), so that no pattern takes exponential time.
    Raises CommandError for a pattern that would take long to compile.
    """
    if len(pattern) > PATTERN_BYTES_MAX:
        raise CommandError(f"LIMIT a pattern has {len(pattern)} bytes, the limit is {PATTERN_BYTES_MAX}: shorten it")
    parts: list[bytes] = []
    position = 0
    open_stars = 0
    while position < len(pattern):
        char = pattern[position : position + 1]
        position += 1
        if char == b"*":
            while pattern[position : position + 1] == b"*":
                position += 1
            if position == len(pattern):
                parts.append(b".*")
            else:
                if open_stars:
                    parts.append(b")")
                parts.append(b"(?>.*?")
                open_stars = 1
        elif char == b"?":
            parts.append(b".")
        elif char == b"[":
            text, position = _char_class(pattern, position)
            parts.append(text)
        elif char == b"\\" and position < len(pattern):
            parts.append(re.escape(pattern[position : position + 1]))
            position += 1
        else:
            parts.append(re.escape(char))
    return re.compile(_close(parts, bool(open_stars)), re.DOTALL)


def _close(parts: list[bytes], starred: bool) -> bytes:
    """The last star may have to give back to reach the end of the key: its group is not atomic."""
    if starred:
        last = len(parts) - 1 - parts[::-1].index(b"(?>.*?")
        parts[last] = b"(?:.*"
        parts.append(b")")
    return b"".join(parts) + rb"\Z"


def _char_class(pattern: bytes, position: int) -> tuple[bytes, int]:
    """Translate a class from behind its bracket; returns the regular expression and where the class ends."""
    negated = pattern[position : position + 1] == b"^"
    position += negated
    items: list[bytes] = []
    while position < len(pattern) and pattern[position : position + 1] != b"]":
        if pattern[position : position + 1] == b"\\" and position + 1 < len(pattern):
            position += 1
        elif pattern[position + 1 : position + 2] == b"-" and position + 2 < len(pattern):
            low, high = sorted((pattern[position], pattern[position + 2]))
            items.append(re.escape(bytes([low])) + b"-" + re.escape(bytes([high])))
            position += 3
            continue
        items.append(re.escape(pattern[position : position + 1]))
        position += 1
    if not items:
        return (b"." if negated else b"(?!)"), position + 1
    return b"[" + (b"^" if negated else b"") + b"".join(items) + b"]", position + 1
