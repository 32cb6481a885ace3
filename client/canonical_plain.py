"""Canonical forms of values without parts: text, numbers, bytes, moments. The leaves of `canonical.py`.

Invariants: each form begins with a tag of its own and carries its length or has a fixed one; two values of different
types never have the same form.
"""

from __future__ import annotations

import datetime as dt
import fractions
import struct
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

Parts = list[Any]  # of bytes-like objects; large arrays stand in it uncopied
Writer = Callable[[Parts, Any, int], None]


def write_text(parts: Parts, text: str) -> None:
    """Append a bare text with its length: names of classes, fields and dtypes."""
    data = text.encode("utf-8", "surrogatepass")
    parts.append(b"%d:" % len(data))
    parts.append(data)


def _none(parts: Parts, value: None, depth: int) -> None:  # noqa: ARG001
    parts.append(b"N")


def _bool(parts: Parts, value: bool, depth: int) -> None:  # noqa: ARG001
    parts.append(b"T" if value else b"F")


def _int(parts: Parts, value: int, depth: int) -> None:  # noqa: ARG001
    parts.append(b"i%x;" % value)  # hexadecimal: decimal text is quadratic, and limited to 4,300 digits


def _float(parts: Parts, value: float, depth: int) -> None:  # noqa: ARG001
    parts.append(struct.pack(">cd", b"f", value))


def _complex(parts: Parts, value: complex, depth: int) -> None:  # noqa: ARG001
    parts.append(struct.pack(">cdd", b"c", value.real, value.imag))


def _str(parts: Parts, value: str, depth: int) -> None:  # noqa: ARG001
    data = value.encode("utf-8", "surrogatepass")
    parts.append(b"s%d:" % len(data))
    parts.append(data)


def write_bytes(parts: Parts, value: bytes, depth: int) -> None:  # noqa: ARG001
    """Append bytes with their tag and length."""
    parts.append(b"b%d:" % len(value))
    parts.append(value)


def _bytearray(parts: Parts, value: bytearray, depth: int) -> None:  # noqa: ARG001
    parts.append(b"B%d:" % len(value))
    parts.append(bytes(value))


def named(tag: bytes, text: Callable[[Any], str]) -> Writer:
    """A writer for types that one text describes completely."""

    def writer(parts: Parts, value: Any, depth: int) -> None:  # noqa: ARG001
        parts.append(tag)
        write_text(parts, text(value))

    return writer


def _zone(value: dt.datetime | dt.time) -> str:
    """Offset, name and zone: equal instants in different zones print differently, so they are different inputs."""
    zone = value.tzinfo
    if zone is None:
        return ""
    key = getattr(zone, "key", None) or getattr(zone, "zone", None) or ""
    return f"|{value.utcoffset()}|{value.tzname()}|{key}"


def _moment(value: dt.datetime | dt.time) -> str:
    return f"{value.replace(tzinfo=None).isoformat()}|{value.fold}{_zone(value)}"


PLAIN: Final[dict[type, Writer]] = {
    type(None): _none,
    type(...): named(b"E", str),
    bool: _bool,
    int: _int,
    float: _float,
    complex: _complex,
    str: _str,
    bytes: write_bytes,
    bytearray: _bytearray,
    dt.datetime: named(b"M", _moment),
    dt.time: named(b"h", _moment),
    dt.date: named(b"j", dt.date.isoformat),
    dt.timedelta: named(b"g", lambda value: f"{value.days},{value.seconds},{value.microseconds}"),
    Decimal: named(b"x", str),
    fractions.Fraction: named(b"y", str),
    uuid.UUID: named(b"U", str),
    range: named(b"R", lambda value: f"{value.start},{value.stop},{value.step}"),
}
