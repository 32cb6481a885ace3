"""What a read may return, kept in memory that all load processes share.

Every key has one writer and counts its versions up. `truth` is the version that the writer gave it last; `floor` is the
lowest version that a read which begins now may return (a miss is always legal). The writer raises the floor only after
an acknowledgement: after a put to that version (I2), after an invalidation to one above everything put before (I1).
Readers look at the floor before they begin to read. A put whose outcome was not learned may take effect late, so its
key is retired and a fresh one (the next generation) takes its place.

Invariant: a slot is written by one process only; slots are aligned 8-byte integers, so that readers see whole numbers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

PAD_MAX = 20_000


@dataclass(frozen=True)
class Slots:
    """Shared arrays of 64-bit integers, one place for each key."""

    truth: Any
    floor: Any
    generation: Any


def value_of(key: str, version: int) -> dict[str, Any]:
    """The value that the writer of `key` puts as `version`: it says whose it is, and its padding depends on both."""
    pad = random.Random(f"{key}/{version}")
    return {"key": key, "version": version, "pad": pad.randbytes(pad.choice((0, 10, 1000, PAD_MAX)))}


def fault_of(key: str, floor: int, value: Any) -> str | None:
    """What is wrong with a value that was read under `key` when the floor was `floor`; None when nothing is."""
    if not isinstance(value, dict) or value.get("key") != key:
        return f"I3: {key} holds something of another key: {value!r:.120}"
    version = value["version"]
    if value != value_of(key, version):
        return f"I3: {key} version {version} is not whole"
    if version < floor:
        return f"I1/I2: {key} gave version {version} when {floor} was the lowest legal one"
    return None
