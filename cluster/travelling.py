"""An entry on its way from a former owner to the new one: one blob with everything that travels with it.

Invariants: what is left of its TTL is counted from the moment at which the receiver *asked*, so that the way makes it
shorter, never longer; the version does not travel, since each shard counts its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgpack

from stratacache.node.entry import NEVER_MS, Entry


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is in a blob. `left_ms`: the rest of the TTL, None without one."""

    codec: int
    left_ms: int | None
    cost_s: float
    tags: tuple[bytes, ...]
    metadata: bytes
    payload: bytes


def pack_entry(entry: Entry, now_ms: int) -> bytes:
    """The blob of a live entry."""
    left_ms = None if entry.expires_ms == NEVER_MS else max(0, entry.expires_ms - now_ms)
    fields = (entry.codec, left_ms, entry.cost_s, entry.tags, entry.metadata, entry.payload)
    blob: bytes = msgpack.packb(fields)
    return blob


def unpack_entry(blob: bytes) -> Parcel:
    """Read a blob; raises ValueError when it is none."""
    try:
        fields = msgpack.unpackb(blob)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise ValueError(f"{len(blob)} bytes that hold no entry: {error}") from error
    match fields:
        case [int(codec), int() | None as left_ms, float() | int() as cost_s, [*tags], bytes(metadata), bytes(payload)]:
            if all(isinstance(tag, bytes) for tag in tags):
                return Parcel(codec, left_ms, cost_s, tuple(tags), metadata, payload)
    raise ValueError(f"{len(blob)} bytes that hold no entry of this version")
