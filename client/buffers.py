"""Payloads as one buffer or several, so that a large array travels from its own memory to the socket without a copy.

Invariants: the parts of a payload, joined, are the payload; a part that holds array bytes begins at a multiple of ALIGN
from the payload's beginning, so that a receive buffer that is aligned gives aligned arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

Buffer = bytes | bytearray | memoryview
Payload = bytes | Sequence[Buffer]

ALIGN: Final = 16
"""As much as any NumPy dtype asks for."""

OUT_OF_BAND_MIN: Final = 4096
"""Smaller arrays are cheaper copied than sent as a part of their own."""


def payload_bytes(payload: Payload) -> bytes:
    """The payload as one bytes object; no copy when it is one already."""
    if isinstance(payload, bytes):
        return payload
    return b"".join(payload)


def payload_size(payload: Payload) -> int:
    """Its length in bytes."""
    if isinstance(payload, bytes):
        return len(payload)
    return sum(len(part) for part in payload)


def padding(size: int) -> bytes:
    """What must follow `size` bytes to reach the next aligned offset."""
    return b"\x00" * (-size % ALIGN)
