"""NumPy arrays and scalars as a short header and the array's own bytes.

Layout of codec 3: a msgpack list `[offset, dtype, shape]`, zeros up to `offset` (a multiple of 16, below 128), then the
array's bytes in C order. `dtype` is NumPy's text (`"<f4"`) or, for structured dtypes, the nested list of `.npy` files.

Invariants: decoding never copies the payload, gives a read-only array, and refuses dtypes that hold objects; the dtype
that comes back is the one that was put, byte order included.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any, Final

import msgpack
import numpy as np
from numpy.lib.format import descr_to_dtype, dtype_to_descr

from stratacache.client.buffers import ALIGN, OUT_OF_BAND_MIN, Buffer, Payload
from stratacache.client.foreign import array_buffer
from stratacache.node.errors import CorruptionError, EncodingError

_HEADERS_MAX: Final = 1024
_NDIM_MAX: Final = 64


def is_plain(value: Any) -> bool:
    """Whether the bytes of the array say everything: no objects inside, no subclass with more than an array."""
    return (type(value) is np.ndarray or type(value) is np.memmap) and not holds_objects(value.dtype)


def holds_objects(dtype: np.dtype[Any]) -> bool:
    """Whether elements live outside of the array's buffer (Python objects, variable-width strings)."""
    return bool(dtype.hasobject) or dtype.kind == "T"


def array_payload(array: Any) -> Payload:
    """Encode a plain array as codec 3; the bytes of a large one stay where they are."""
    header = _header(array.dtype, array.shape)
    data = array_buffer(array)
    if len(data) < OUT_OF_BAND_MIN:
        return b"".join((header, data))
    return [header, data]


def array_view(payload: Buffer) -> Any:
    """Decode codec 3 as a read-only view of `payload`."""
    first = payload[1]  # the offset, as msgpack writes it
    size = first if first < 128 else int.from_bytes(payload[2:4], "big")
    dtype, shape, offset = parsed_header(bytes(payload[:size]))
    return view(payload, dtype, shape, offset)


def view(payload: Buffer, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int) -> Any:
    """A read-only array over a part of `payload`, which must reach far enough."""
    count = prod(shape)
    if count == 0 or dtype.itemsize == 0:
        array = np.ndarray(shape, dtype, b"")
    else:
        array = np.frombuffer(payload, dtype, count, offset).reshape(shape)
    if array.flags.writeable:
        array.flags.writeable = False
    return array


def scalar_bytes(scalar: Any) -> bytes:
    """Encode a NumPy scalar as an array of no dimensions."""
    return b"".join((_header(scalar.dtype, ()), scalar.tobytes()))


@lru_cache(maxsize=_HEADERS_MAX)
def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    descr = _descr(dtype)
    body: bytes = msgpack.packb([descr, list(shape)])[1:]
    size = 2 + len(body)
    offset = size + -size % ALIGN
    if offset < 128:
        return b"\x93" + bytes((offset,)) + body + b"\x00" * (offset - size)
    return _long_header(body)


def _long_header(body: bytes) -> bytes:
    """A header past 127 bytes (structured dtypes): the offset takes three bytes, `0xCD` first."""
    size = 4 + len(body)
    offset = size + -size % ALIGN
    if offset > 0xFFFF:
        raise EncodingError("value: the dtype of the array takes more than 64 KiB to describe; use a simpler one")
    return b"\x93\xcd" + offset.to_bytes(2, "big") + body + b"\x00" * (offset - size)


def _descr(dtype: np.dtype[Any]) -> Any:
    try:
        descr = dtype_to_descr(dtype)
        if descr_to_dtype(descr) == dtype:
            return descr
    except (TypeError, ValueError):
        pass
    raise EncodingError(f"value: arrays of dtype {dtype} lose their type as bytes; convert with .view() or .astype()")


@lru_cache(maxsize=_HEADERS_MAX)
def parsed_header(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Dtype, shape and offset of the data, from a header with its padding."""
    unpacker = msgpack.Unpacker(use_list=True)
    unpacker.feed(header)
    fields = unpacker.unpack()
    if not isinstance(fields, list) or len(fields) != 3:
        raise CorruptionError("an array's header is not [offset, dtype, shape]")
    offset, descr, shape = fields
    dtype = descr_to_dtype(_tuples(descr))
    if len(shape) > _NDIM_MAX or any(not isinstance(side, int) or side < 0 for side in shape) or dtype.hasobject:
        raise CorruptionError(f"an array's header asks for dtype {dtype} and shape {shape}")
    return dtype, tuple(shape), offset


def _tuples(descr: Any) -> Any:
    """msgpack has lists only; `.npy` descriptions are lists of tuples."""
    if isinstance(descr, list):
        return [tuple(_tuples(part) if i == 1 else _shape(part) for i, part in enumerate(field)) for field in descr]
    return descr


def _shape(part: Any) -> Any:
    return tuple(part) if isinstance(part, list) else part
