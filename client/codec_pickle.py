"""Signed pickle, for values that nothing else can carry and callers who ask for it by name.

Layout of codec 4: `HMAC-SHA-256 (32) | u32 number of buffers | u64 length of the pickle and of each buffer | pickle |
zeros | buffer | zeros ...`, little-endian, buffers at multiples of 16. The pickle is of protocol 5 with its large
buffers out of band.

Invariants: no byte is unpickled before the signature of all of them has been checked in constant time, and none at all
without a key. Whoever holds the key can run code in every reader: share it as you would share a shell. The signature
does not bind a payload to its cache key: a party that can write to the cache can move a signed value to another key.
"""

from __future__ import annotations

import hmac
import pickle
import struct
from typing import Any, Final

from stratacache.client.buffers import Buffer, padding
from stratacache.node.errors import AccessError, CorruptionError, EncodingError, UsageError

KEY_BYTES_MIN: Final = 16
_MAC_BYTES: Final = 32
_BUFFERS_MAX: Final = 1 << 16


def dump(value: Any, signing_key: bytes | None) -> list[Buffer]:
    """Pickle and sign a value. Raises EncodingError when pickle refuses it."""
    key = _checked(signing_key)
    buffers: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> None:
        buffers.append(buffer.raw())

    try:
        data = pickle.dumps(value, protocol=5, buffer_callback=keep)
    except Exception as error:
        raise EncodingError(f"value: pickle refuses it: {error!r:.200}") from error
    sizes = [len(data), *(len(buffer) for buffer in buffers)]
    parts: list[Buffer] = [struct.pack(f"<I{len(sizes)}Q", len(buffers), *sizes), data]
    offset = _MAC_BYTES + len(parts[0]) + len(data)
    for buffer in buffers:
        parts += (padding(offset), buffer)
        offset += len(parts[-2]) + len(buffer)
    return [_mac(key, parts), *parts]


def load(payload: Buffer, signing_key: bytes | None) -> Any:
    """Check the signature, then unpickle; arrays are read-only views of `payload`."""
    if signing_key is None:
        raise AccessError("the value was pickled: hand in the signing_key that it was signed with")
    data = memoryview(payload).toreadonly()
    signed = data[_MAC_BYTES:]
    if not hmac.compare_digest(_mac(_checked(signing_key), [signed]), bytes(data[:_MAC_BYTES])):
        raise CorruptionError("the signature of a pickled value does not match: another key, or a changed payload")
    (count,) = struct.unpack_from("<I", signed)
    if count > _BUFFERS_MAX:
        raise CorruptionError(f"a pickled value with {count} buffers")
    sizes = struct.unpack_from(f"<{count + 1}Q", signed, 4)
    offset = _MAC_BYTES + 4 + 8 * len(sizes)
    body = data[offset : offset + sizes[0]]
    offset += sizes[0]
    buffers = []
    for size in sizes[1:]:
        offset += len(padding(offset))
        buffers.append(data[offset : offset + size])
        offset += size
    return pickle.loads(body, buffers=buffers)  # noqa: S301 - signed, and asked for by name


def _mac(key: bytes, parts: list[Buffer]) -> bytes:
    mac = hmac.new(key, digestmod="sha256")
    for part in parts:
        mac.update(part)
    return mac.digest()


def _checked(key: bytes | None) -> bytes:
    if not isinstance(key, bytes) or len(key) < KEY_BYTES_MIN:
        raise UsageError(f"codec='pickle' needs signing_key=, at least {KEY_BYTES_MIN} random bytes")
    return key
