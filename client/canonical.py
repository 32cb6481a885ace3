"""One byte string for every value that may be part of a cache key.

Why it exists: a key made from `str(value)` or `repr(value)` lies. Arrays print shortened, dicts print in insertion
order, 1 and True hash alike, objects print their address. Here every value is written as a type tag, a length and its
whole content, so that two values have the same bytes if and only if they have the same type and the same content.

Invariants: the encoding is prefix-free (every part carries its own length), depends on nothing outside the value (no
`id`, no builtin `hash`, no insertion order of dicts and sets, no locale), and a type that is not known here is refused
rather than guessed. Changing a byte of it is a change of every key: tests/client_api/golden_keys.json holds it.

docs/KEYS_AND_CODECS.md has the table that another language needs.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable, Mapping
from enum import Enum, Flag
from operator import itemgetter
from pathlib import PurePath, PureWindowsPath
from typing import Any, Final

from stratacache.client.canonical_objects import pydantic_state_of, shows_its_state, state_of, type_name_of
from stratacache.client.canonical_plain import PLAIN, Parts, Writer, named, write_bytes, write_text
from stratacache.client.foreign import find_foreign
from stratacache.node.errors import EncodingError

_first = itemgetter(0)

DEPTH_MAX: Final = 100
"""Containers within containers; a value that contains itself ends here."""


class _RefusedError(Exception):
    """Carries the path from the inside out while the containers are left one by one."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path: list[str] = []


def canonical_parts(value: object, root: str = "input") -> Parts:
    """Encode `value` as a list of buffers whose concatenation is its canonical form.

    Large arrays appear as views of the caller's memory: use the list before the value changes. Raises EncodingError
    naming the path (beginning with `root`) of the first part that can't be encoded.
    """
    parts: Parts = []
    try:
        write(parts, value, 0)
    except _RefusedError as error:
        raise EncodingError(f"{root}{''.join(reversed(error.path))}: {error.reason}") from None
    return parts


def write(parts: Parts, value: Any, depth: int) -> None:
    """Append the encoding of `value`; the one recursive step."""
    writer = _WRITERS.get(type(value))
    if writer is None:
        writer = _find_writer(value)
    if depth > DEPTH_MAX:
        raise _RefusedError(f"nested more than {DEPTH_MAX} levels deep; does it contain itself?")
    writer(parts, value, depth)


def write_child(parts: Parts, value: Any, depth: int, step: str) -> None:
    """Append the encoding of a part of a container; `step` names it in an error's path."""
    try:
        write(parts, value, depth + 1)
    except _RefusedError as error:
        error.path.append(step)
        raise


def _memoryview(parts: Parts, value: memoryview, depth: int) -> None:
    parts.append(b"v")
    write_text(parts, value.format)
    _list(parts, list(value.shape or ()), depth)
    write_bytes(parts, value.tobytes(), depth)


def _pattern(parts: Parts, value: re.Pattern[Any], depth: int) -> None:
    parts.append(b"r")
    write(parts, value.pattern, depth)
    write(parts, value.flags, depth)


def _slice(parts: Parts, value: slice, depth: int) -> None:
    parts.append(b"L")
    for name in ("start", "stop", "step"):
        write_child(parts, getattr(value, name), depth, f".{name}")


# --- containers -------------------------------------------------------------------------------------------------


def _sequence(tag: bytes) -> Writer:
    def writer(parts: Parts, value: Iterable[Any], depth: int) -> None:
        items = list(value)
        parts.append(b"%b%d:" % (tag, len(items)))
        index = 0
        try:
            for index, item in enumerate(items):  # noqa: B007 - where it stopped is told below
                write(parts, item, depth + 1)
        except _RefusedError as error:
            error.path.append(f"[{index}]")
            raise

    return writer


_list: Final = _sequence(b"l")


def _sorted_encodings(items: Iterable[Any], depth: int, step: str) -> list[tuple[bytes, Any]]:
    encoded = []
    for item in items:
        inner: Parts = []
        try:
            write(inner, item, depth + 1)
        except _RefusedError as error:
            error.path.append(step.format(item))
            raise
        encoded.append((b"".join(inner), item))
    encoded.sort(key=_first)
    return encoded


def _mapping(parts: Parts, value: Mapping[Any, Any], depth: int) -> None:
    parts.append(b"d%d:" % len(value))
    key: Any = None
    pairs = _sorted_encodings(value, depth, " (key {!r:.80})")
    try:
        for key_bytes, key in pairs:
            parts.append(key_bytes)
            write(parts, value[key], depth + 1)
    except _RefusedError as error:
        error.path.append(f"[{key!r:.80}]")
        raise


def _ordered_mapping(parts: Parts, value: Mapping[Any, Any], depth: int) -> None:
    parts.append(b"D%d:" % len(value))
    for key, item in value.items():
        write_child(parts, key, depth, f" (key {key!r:.80})")
        write_child(parts, item, depth, f"[{key!r:.80}]")


def _set(tag: bytes) -> Writer:
    def writer(parts: Parts, value: Iterable[Any], depth: int) -> None:
        encoded = _sorted_encodings(value, depth, " (member {!r:.80})")
        parts.append(b"%b%d:" % (tag, len(encoded)))
        parts.extend(data for data, _ in encoded)

    return writer


def _defaultdict(parts: Parts, value: defaultdict[Any, Any], depth: int) -> None:
    parts.append(b"w")
    write_child(parts, value.default_factory, depth, ".default_factory")
    _mapping(parts, value, depth)


def _counter(parts: Parts, value: Counter[Any], depth: int) -> None:
    parts.append(b"K")
    _mapping(parts, value, depth)


def _deque(parts: Parts, value: deque[Any], depth: int) -> None:
    parts.append(b"q")
    write(parts, value.maxlen, depth)
    _list(parts, value, depth)


# --- objects ----------------------------------------------------------------------------------------------------


def _class(parts: Parts, value: type, depth: int) -> None:  # noqa: ARG001
    parts.append(b"C")
    write_text(parts, type_name_of(value))


def _enum(parts: Parts, value: Enum, depth: int) -> None:
    parts.append(b"e")
    write_text(parts, type_name_of(type(value)))
    # A combination of flags may have no name; its value says it all. A plain member is its name: the value may be
    # any object.
    write(parts, value.value if isinstance(value, Flag) else value.name, depth)


def write_object(parts: Parts, value: Any, state: Mapping[str, Any], depth: int) -> None:
    """Append an object as its class name and its named state."""
    parts.append(b"o")
    write_text(parts, type_name_of(type(value)))
    parts.append(b"%d:" % len(state))
    for name in sorted(state):
        write_text(parts, name)
        write_child(parts, state[name], depth, f".{name}")


def _plain_object(parts: Parts, value: Any, depth: int) -> None:
    write_object(parts, value, state_of(value), depth)


def _pydantic(parts: Parts, value: Any, depth: int) -> None:
    write_object(parts, value, pydantic_state_of(value), depth)


def _asked(parts: Parts, value: Any, depth: int) -> None:
    parts.append(b"k")
    write_text(parts, type_name_of(type(value)))
    write_child(parts, value.__cache_key__(), depth, ".__cache_key__()")


def _subclass_of(base: Writer) -> Writer:
    """A subclass of a built-in: its class, what the built-in holds, and what the subclass added."""

    def writer(parts: Parts, value: Any, depth: int) -> None:
        parts.append(b"u")
        base(parts, value, depth)
        write_object(parts, value, state_of(value), depth)

    return writer


def _find_writer(value: Any) -> Writer:
    """The writer for a type that is not listed; order matters: the most specific meaning first."""
    cls = type(value)
    if not isinstance(value, type) and callable(getattr(cls, "__cache_key__", None)):
        return _asked
    if isinstance(value, Enum):
        return _enum
    foreign = find_foreign(value)
    if foreign is not None:
        return _foreign(*foreign)
    if isinstance(value, type):
        return _class
    if isinstance(value, PurePath):
        return _WINDOWS_PATH if isinstance(value, PureWindowsPath) else _POSIX_PATH
    base = next((base for base in cls.__mro__[1:] if base in _WRITERS), object)
    if shows_its_state(cls, base):
        if hasattr(cls, "__pydantic_private__"):
            return _pydantic
        if base is not object:
            return _subclass_of(_WRITERS[base])
        if dataclasses.is_dataclass(value) or hasattr(cls, "__attrs_attrs__"):
            return _plain_object
    raise _RefusedError(
        f"a {type_name_of(cls)} can't be part of a cache key, since nothing says that two of them are the same. "
        "Leave it out (ignore=), hand in the key (key=), or give its class a __cache_key__() method"
    )


def _foreign(name: str, header: list[Any], content: Any) -> Writer:
    """A writer for arrays, tensors and tables: name, header, then one buffer or a list of values."""

    def writer(parts: Parts, value: Any, depth: int) -> None:  # noqa: ARG001
        parts.append(b"a")
        write_text(parts, name)
        _list(parts, header, depth)
        if isinstance(content, list):
            _list(parts, content, depth)
        else:
            parts.append(b"%d:" % content.nbytes)
            parts.append(content)

    return writer


_POSIX_PATH: Final = named(b"p", str)
_WINDOWS_PATH: Final = named(b"P", str)

_WRITERS: Final[dict[type, Writer]] = {
    **PLAIN,
    memoryview: _memoryview,
    list: _list,
    tuple: _sequence(b"t"),
    dict: _mapping,
    OrderedDict: _ordered_mapping,
    defaultdict: _defaultdict,
    Counter: _counter,
    deque: _deque,
    set: _set(b"S"),
    frozenset: _set(b"Z"),
    type: _class,
    re.Pattern: _pattern,
    slice: _slice,
}
