"""The bytes of one L3 record.

    head_crc u32 | payload_crc u32 | version i64 | age i64 | expires_ms i64 | cost_s f64 | payload_len u64 |
    key_len u32 | metadata_len u32 | codec u16 | tags u16 | key | (tag_len u16, tag)* | metadata | payload

`age` is the version with which the key came into the file: an overwrite keeps it, and with it the index row by age.

Invariants: `head_crc` covers everything between it and the payload, except `payload_crc`'s own payload, so that tags
and expiry can be trusted without reading a large payload; a record that is damaged, truncated or of another key raises
CorruptionError, whatever its bytes are. Little-endian.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from zlib_ng import zlib_ng

from ..errors import CorruptionError

if TYPE_CHECKING:
    from .pending import Snapshot

_HEAD: Final = Struct("<IqqqdQIIHH")  # all but head_crc
_CRC: Final = Struct("<I")
_TAG: Final = Struct("<H")
HEAD_BYTES: Final = _CRC.size + _HEAD.size

crc32 = zlib_ng.crc32


class Record(NamedTuple):
    """A record without its payload, which begins at `payload_at`."""

    version: int
    age: int
    expires_ms: int
    cost_s: float
    codec: int
    key: bytes
    tags: tuple[bytes, ...]
    metadata: bytes
    payload_crc: int
    payload_len: int
    payload_at: int


def encode(entry: Snapshot, age: int) -> bytes:
    """Give the bytes of a record."""
    group = entry.group
    key = entry.key
    payload = entry.payload
    metadata = entry.metadata
    tags = group.tags
    head = _HEAD.pack(
        crc32(payload),
        entry.version,
        age,
        entry.expires_ms,
        entry.cost_s,
        len(payload),
        len(key),
        len(metadata),
        group.codec,
        len(tags),
    )
    middle = b"".join([_TAG.pack(len(tag)) + tag for tag in tags]) if tags else b""
    head = b"%b%b%b%b" % (head, key, middle, metadata)
    return b"%b%b%b" % (_CRC.pack(crc32(head)), head, payload)


def decode_head(data: memoryview) -> Record:
    """Read and check everything but the payload."""
    if len(data) < HEAD_BYTES:
        raise CorruptionError(f"record of {len(data)} bytes is shorter than its head")
    (head_crc,) = _CRC.unpack_from(data)
    payload_crc, version, age, expires_ms, cost_s, payload_len, key_len, metadata_len, codec, tag_count = (
        _HEAD.unpack_from(data, _CRC.size)
    )
    payload_at = len(data) - payload_len
    if payload_at < HEAD_BYTES + key_len + metadata_len or crc32(data[_CRC.size : payload_at]) != head_crc:
        raise CorruptionError("head of a record failed its checksum")
    at = HEAD_BYTES + key_len
    key = bytes(data[HEAD_BYTES:at])
    tags: tuple[bytes, ...] = ()
    for _ in range(tag_count):
        (length,) = _TAG.unpack_from(data, at)
        at += _TAG.size + length
        tags += (bytes(data[at - length : at]),)
    metadata = bytes(data[at:payload_at])
    return Record(version, age, expires_ms, cost_s, codec, key, tags, metadata, payload_crc, payload_len, payload_at)


def read_payload(data: memoryview, record: Record) -> bytes:
    """Copy and check the payload."""
    payload = bytes(data[record.payload_at :])
    if crc32(payload) != record.payload_crc:
        raise CorruptionError("payload of a record failed its checksum")
    return payload
