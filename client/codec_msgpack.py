"""msgpack with extension types: the codec of everything that is not plain text, bytes or one array.

Layout of codec 2: one msgpack document. When it holds large arrays, tensors or tables, their bytes stand behind it:

    0xC1 'A' 0 0 | u32 length of the document, little-endian | document | zeros | attachment | zeros | attachment ...

0xC1 is the one byte that no msgpack document begins with. Attachments begin at multiples of 16; the document names each
by its offset from the first one.

Invariants: types come back as they were (tuple, set, Decimal, ...); a type that would come back as another one is
refused with its path (bytearray and memoryview, which come back as bytes, are the one exception); nothing is imported
or run because a payload says so, except NumPy, torch and PyArrow for values of theirs.
"""

from __future__ import annotations

import datetime as dt
import struct
import sys
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgpack

from stratacache.client.buffers import OUT_OF_BAND_MIN, Buffer, Payload, padding
from stratacache.node.errors import CorruptionError, EncodingError

# Extension codes: part of the stored format, only ever added to. -1 is msgpack's own timestamp.
TUPLE: Final = 1
SET: Final = 2
FROZENSET: Final = 3
DATETIME: Final = 4
DATE: Final = 5
TIME: Final = 6
TIMEDELTA: Final = 7
COMPLEX: Final = 8
DECIMAL: Final = 9
UUID: Final = 10
BIG_INT: Final = 11
ARRAY: Final = 12  # as codec 3
SCALAR: Final = 13  # as codec 3, of no dimensions
OBJECT_ARRAY: Final = 14
TENSOR: Final = 15
TABLE: Final = 16
ATTACHED: Final = 17  # [extension code, header, offset, size]

DEPTH_MAX: Final = 100
"""Tuples, sets and other extensions within each other: each is a document of its own."""

_MAGIC: Final = b"\xc1A\x00\x00"
_HEAD: Final = struct.Struct("<4sI")
_BUFFER_BYTES: Final = 1 << 12


def pack(value: Any, *, attach: bool = True) -> Payload:
    """Encode a value as codec 2. Raises EncodingError with the path of what can't be encoded.

    With `attach=False` large buffers are copied into the document, so that the payload is one plain document.
    """
    writer = _Writer(attach)
    try:
        document = writer.pack(value)
    except EncodingError as error:
        raise EncodingError(f"{find_path(value)}: {str(error).removeprefix('value: ')}") from None
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise EncodingError(f"{find_path(value)}: {error}") from None
    if not writer.attachments:
        return document
    parts: list[Buffer] = [_HEAD.pack(_MAGIC, len(document)), document, padding(_HEAD.size + len(document))]
    for attachment in writer.attachments:
        parts += (attachment, padding(len(attachment)))
    return parts


def unpack(payload: Buffer) -> Any:
    """Decode codec 2. Large arrays are read-only views of `payload`."""
    if payload[:1] != b"\xc1":
        return _load(payload, _plain_ext)
    magic, size = _HEAD.unpack_from(payload)
    if magic != _MAGIC:
        raise CorruptionError(f"a msgpack payload with attachments of an unknown layout {magic!r}")
    data = memoryview(payload).toreadonly()
    end = _HEAD.size + size
    attachments = data[end + len(padding(end)) :]

    def hook(code: int, content: bytes) -> Any:
        if code != ATTACHED:
            return _decode_ext(code, content, hook)
        inner, header, offset, length = _load(content, hook)
        part = attachments[offset : offset + length]
        if len(part) != length:
            raise CorruptionError("a msgpack payload ends before its attachments do")
        return _ATTACHABLE[inner](header, part)

    return _load(data[_HEAD.size : end], hook)


def find_path(value: Any, path: str = "value", inside: tuple[int, ...] = ()) -> str:
    """The path of the first part of `value` that can't be encoded: the slow second look, after a failure."""
    if id(value) in inside:
        return f"{path} (contains itself)"
    if len(inside) > DEPTH_MAX:
        return f"{path[:80]}..."
    children: list[tuple[str, Any]] = []
    if type(value) is dict:
        children = [(f"{path} (key {key!r:.80})", key) for key in value]
        children += [(f"{path}[{key!r:.80}]", item) for key, item in value.items()]
    elif type(value) in {list, tuple}:
        children = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    elif type(value) in {set, frozenset}:
        children = [(f"{path} (member {item!r:.80})", item) for item in value]
    for name, child in children:
        try:
            _Writer(attach=True).pack(child)
        except (TypeError, ValueError, OverflowError, RecursionError):
            return find_path(child, name, (*inside, id(value)))
    return path


class _Writer:
    """Packs one value; collects the buffers that are to stand behind the document."""

    def __init__(self, attach: bool) -> None:
        self.attach = attach
        self.attachments: list[Buffer] = []
        self._attached_size = 0
        self._depth = 0

    def pack(self, value: Any) -> bytes:
        if self._depth > DEPTH_MAX:
            raise EncodingError(f"nested more than {DEPTH_MAX} levels deep")
        # A packer for every level: a packer can't be entered again while its default hook runs.
        packer = msgpack.Packer(
            default=self._encode_ext, strict_types=True, unicode_errors="surrogatepass", buf_size=_BUFFER_BYTES
        )
        self._depth += 1
        document: bytes = packer.pack(value)
        self._depth -= 1
        return document

    def _encode_ext(self, value: Any) -> msgpack.ExtType:
        encode = _ENCODERS.get(type(value))
        if encode is not None:
            code, content = encode(value)
            return msgpack.ExtType(code, content if isinstance(content, bytes) else self.pack(content))
        foreign = self._encode_foreign(value)
        if foreign is not None:
            return foreign
        raise EncodingError(
            f"a {type(value).__module__}.{type(value).__qualname__} would not come back as what it is; convert it to "
            "plain containers, or use codec='pickle' with a signing key"
        )

    def _encode_foreign(self, value: Any) -> msgpack.ExtType | None:
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
            return self._encode_numpy(value)
        if "torch" in sys.modules or "pyarrow" in sys.modules:
            from stratacache.client import codec_optional  # noqa: PLC0415 - for values of libraries that are loaded

            found = codec_optional.describe(value)
            if found is not None:
                code, header, buffer = found
                return self._attach(code, header, buffer)
        return None

    def _encode_numpy(self, value: Any) -> msgpack.ExtType | None:
        from stratacache.client import codec_numpy  # noqa: PLC0415 - imports numpy

        numpy = sys.modules["numpy"]
        if isinstance(value, numpy.generic):
            return msgpack.ExtType(SCALAR, codec_numpy.scalar_bytes(value))
        if type(value) is not numpy.ndarray and type(value) is not numpy.memmap:
            return None
        if codec_numpy.holds_objects(value.dtype):
            if value.dtype.kind != "O":
                return None
            return msgpack.ExtType(OBJECT_ARRAY, self.pack([list(value.shape), value.reshape(-1).tolist()]))
        parts = codec_numpy.array_payload(value)
        if isinstance(parts, bytes):
            return msgpack.ExtType(ARRAY, parts)
        return self._attach(ARRAY, parts[0], parts[1])

    def _attach(self, code: int, header: Any, buffer: Buffer) -> msgpack.ExtType:
        if code == ARRAY and not self.attach:
            return msgpack.ExtType(ARRAY, b"".join((header, buffer)))
        if len(buffer) < OUT_OF_BAND_MIN or not self.attach:
            return msgpack.ExtType(code, msgpack.packb([header, bytes(buffer)]))
        reference = msgpack.packb([code, header, self._attached_size, len(buffer)])
        self.attachments.append(buffer)
        self._attached_size += len(buffer) + len(padding(len(buffer)))
        return msgpack.ExtType(ATTACHED, reference)


# --- one encoder and one decoder for each extension ---------------------------------------------------------------


def _datetime(value: dt.datetime) -> tuple[int, Any]:
    return DATETIME, [value.replace(tzinfo=None).isoformat(), value.fold, _zone(value, value.tzinfo)]


def _time(value: dt.time) -> tuple[int, Any]:
    return TIME, [value.replace(tzinfo=None).isoformat(), value.fold, _zone(value, value.tzinfo)]


def _zone(value: dt.datetime | dt.time, zone: dt.tzinfo | None) -> Any:
    """None, microseconds of a fixed offset, or the key of an IANA zone."""
    if zone is None:
        return None
    if type(zone) is dt.timezone:
        offset = value.utcoffset() or dt.timedelta()
        return offset // dt.timedelta(microseconds=1)
    if isinstance(zone, ZoneInfo) and zone.key:
        return zone.key
    raise EncodingError(f"a time zone of type {type(zone).__module__}.{type(zone).__qualname__}; use zoneinfo.ZoneInfo")


def _tzinfo(zone: Any) -> dt.tzinfo | None:
    if zone is None:
        return None
    return dt.timezone(dt.timedelta(microseconds=zone)) if isinstance(zone, int) else ZoneInfo(zone)


def _big_int(value: int) -> tuple[int, Any]:
    return BIG_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)


_ENCODERS: Final[dict[type, Callable[[Any], tuple[int, Any]]]] = {
    tuple: lambda value: (TUPLE, list(value)),
    set: lambda value: (SET, list(value)),
    frozenset: lambda value: (FROZENSET, list(value)),
    dt.datetime: _datetime,
    dt.date: lambda value: (DATE, value.isoformat().encode()),
    dt.time: _time,
    dt.timedelta: lambda value: (TIMEDELTA, [value.days, value.seconds, value.microseconds]),
    complex: lambda value: (COMPLEX, struct.pack(">dd", value.real, value.imag)),
    Decimal: lambda value: (DECIMAL, str(value).encode()),
    uuid.UUID: lambda value: (UUID, value.bytes),
    int: _big_int,
}


def _moment(kind: Any, fields: list[Any]) -> Any:
    return kind.fromisoformat(fields[0]).replace(fold=fields[1], tzinfo=_tzinfo(fields[2]))


def _array(content: Buffer) -> Any:
    from stratacache.client import codec_numpy  # noqa: PLC0415 - imports numpy

    return codec_numpy.array_view(content)


def _attached_array(header: bytes, data: Buffer) -> Any:
    from stratacache.client import codec_numpy  # noqa: PLC0415 - imports numpy

    dtype, shape, _ = codec_numpy.parsed_header(header)
    return codec_numpy.view(data, dtype, shape, 0)


def _object_array(fields: list[Any]) -> Any:
    import numpy as np  # noqa: PLC0415 - for a value that holds an array

    shape, items = fields
    array = np.empty(len(items), dtype=object)
    array[:] = items
    array = array.reshape(shape)
    array.flags.writeable = False
    return array


def _tensor(header: Any, data: Buffer) -> Any:
    from stratacache.client import codec_optional  # noqa: PLC0415 - imports torch

    return codec_optional.tensor(header, data)


def _table(header: Any, data: Buffer) -> Any:
    from stratacache.client import codec_optional  # noqa: PLC0415 - imports pyarrow

    return codec_optional.table(header, data)


_ATTACHABLE: Final[dict[int, Callable[[Any, Buffer], Any]]] = {
    ARRAY: _attached_array,
    TENSOR: _tensor,
    TABLE: _table,
}

_FROM_BYTES: Final[dict[int, Callable[[bytes], Any]]] = {
    DATE: lambda content: dt.date.fromisoformat(content.decode()),
    COMPLEX: lambda content: complex(*struct.unpack(">dd", content)),
    DECIMAL: lambda content: Decimal(content.decode()),
    UUID: lambda content: uuid.UUID(bytes=content),
    BIG_INT: lambda content: int.from_bytes(content, "big", signed=True),
    ARRAY: _array,
    SCALAR: lambda content: _array(content)[()],
}

_FROM_FIELDS: Final[dict[int, Callable[[list[Any]], Any]]] = {
    TUPLE: tuple,
    SET: set,
    FROZENSET: frozenset,
    DATETIME: lambda fields: _moment(dt.datetime, fields),
    TIME: lambda fields: _moment(dt.time, fields),
    TIMEDELTA: lambda fields: dt.timedelta(*fields),
    OBJECT_ARRAY: _object_array,
    TENSOR: lambda fields: _tensor(*fields),
    TABLE: lambda fields: _table(*fields),
}


def _load(data: Buffer, hook: Callable[[int, bytes], Any]) -> Any:
    return msgpack.unpackb(data, ext_hook=hook, strict_map_key=False, timestamp=3, unicode_errors="surrogatepass")


def _plain_ext(code: int, content: bytes) -> Any:
    return _decode_ext(code, content, _plain_ext)


def _decode_ext(code: int, content: bytes, hook: Callable[[int, bytes], Any]) -> Any:
    direct = _FROM_BYTES.get(code)
    if direct is not None:
        return direct(content)
    from_fields = _FROM_FIELDS.get(code)
    if from_fields is None:
        raise CorruptionError(f"msgpack extension {code} is unknown to this version of the client")
    return from_fields(_load(content, hook))
