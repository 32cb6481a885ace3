"""Values to payloads and back: which codec a value gets, and the only two functions that the rest of the client needs.

Invariants: what is decoded equals what was encoded, with the same types (bytes-like values come back as bytes, tensors
on the CPU); decoding never runs code from the payload, except for `codec="pickle"`, which is never loaded without the
signing key; arrays are read-only views of the received buffer; importing this module imports no array library.

Ids are those of docs/PROTOCOL.md; the layout of every payload is in docs/KEYS_AND_CODECS.md.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from stratacache.client import codec_msgpack
from stratacache.client.buffers import Buffer, Payload, payload_bytes, payload_size
from stratacache.client.failures import CachedFailure, decode_failure, encode_failure
from stratacache.node.errors import CacheError, CorruptionError, EncodingError, UsageError

RAW: Final = 0
TEXT: Final = 1
MSGPACK: Final = 2
NDARRAY: Final = 3
PICKLE: Final = 4
FAILURE: Final = 5

__all__ = [
    "FAILURE",
    "MSGPACK",
    "NDARRAY",
    "PICKLE",
    "RAW",
    "TEXT",
    "Buffer",
    "CachedFailure",
    "Payload",
    "decode",
    "encode",
    "payload_bytes",
    "payload_size",
]


def encode(value: Any, codec: str = "auto", *, signing_key: bytes | None = None) -> tuple[int, Payload]:
    """Encode a value as `(codec id, payload)`.

    `codec` is "auto" (text and bytes as themselves, an array with its bytes beside a short header, everything else
    msgpack), "msgpack", "raw" (bytes-like only) or "pickle" (needs `signing_key`, 16 bytes or more). The payload is
    one bytes object, or a list of buffers that are views of the value's own memory: send or join them before the value
    changes. Raises EncodingError with the path of the part that can't be encoded.
    """
    if codec == "auto":
        return _encode_auto(value)
    if codec == "msgpack":
        return MSGPACK, codec_msgpack.pack(value)
    if codec == "raw":
        if not isinstance(value, bytes | bytearray | memoryview):
            raise EncodingError(f"value: codec='raw' takes bytes, not {type(value).__name__}")
        return RAW, bytes(value)
    if codec == "pickle":
        from stratacache.client import codec_pickle  # noqa: PLC0415 - only where somebody asks for it

        return PICKLE, codec_pickle.dump(value, signing_key)
    raise UsageError(f"codec {codec!r} is unknown; there are auto, msgpack, raw and pickle")


def _encode_auto(value: Any) -> tuple[int, Payload]:
    kind = type(value)
    if kind is bytes:
        return RAW, value
    if kind is str:
        try:
            return TEXT, value.encode()
        except UnicodeEncodeError:  # lone surrogates are no UTF-8; msgpack carries them
            return MSGPACK, codec_msgpack.pack(value)
    if kind is bytearray or kind is memoryview:
        return RAW, bytes(value)
    if isinstance(value, CachedFailure):
        return FAILURE, encode_failure(value)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, getattr(numpy, "ndarray", ())):
        from stratacache.client import codec_numpy  # noqa: PLC0415 - imports numpy

        if codec_numpy.is_plain(value):
            return NDARRAY, codec_numpy.array_payload(value)
    return MSGPACK, codec_msgpack.pack(value)


def decode(codec_id: int, payload: Buffer, *, signing_key: bytes | None = None) -> Any:
    """Decode a payload; the inverse of `encode`.

    Arrays in the result are read-only views of `payload` and keep it alive. A cached exception comes back as a
    CachedFailure. Raises CorruptionError for an unknown codec or a payload that is not of its codec, and AccessError
    for a pickle when no signing key is given: both are a counted miss for a client, never an error in a pipeline.
    """
    try:
        if codec_id == RAW:
            return payload if type(payload) is bytes else bytes(payload)
        if codec_id == TEXT:
            return str(payload, "utf-8")
        if codec_id == MSGPACK:
            return codec_msgpack.unpack(payload)
        if codec_id == NDARRAY:
            from stratacache.client import codec_numpy  # noqa: PLC0415 - imports numpy

            return codec_numpy.array_view(payload)
        if codec_id == PICKLE:
            from stratacache.client import codec_pickle  # noqa: PLC0415 - only where somebody asks for it

            return codec_pickle.load(payload, signing_key)
        if codec_id == FAILURE:
            return decode_failure(payload)
    except CacheError:
        raise
    except Exception as error:
        raise CorruptionError(f"a payload of codec {codec_id} can't be decoded: {error!r:.200}") from error
    raise CorruptionError(f"codec {codec_id!r} is unknown to this version of the client")
