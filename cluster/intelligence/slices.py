"""How a shard tells the coordinator of access patterns: some keys at a time, in columns.

Invariants: a slice is bounded by the number of keys it was asked for; it holds keys, times and sizes, never a value
nor the inputs of one; packing and unpacking give the same columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import msgpack
import numpy as np
from numpy.typing import NDArray

from stratacache.node.patterns import VISITS_KEPT

ABSENT_MS: Final = 0
"""`expires_ms` of a key without a live entry in memory."""
L1: Final = 1
BELOW: Final = 2
NOWHERE: Final = 0

_COLUMNS: Final = {
    "counts": np.uint64,
    "visits": np.uint32,
    "expires_ms": np.int64,
    "costs_s": np.float32,
    "sizes": np.uint32,
    "ttls_s": np.uint32,
    "levels": np.uint8,
    "loaders": np.int16,
}


@dataclass(frozen=True, kw_only=True)
class PatternSlice:
    """What one source (an incarnation of a shard) knows of some keys; all columns have one row a key.

    `visits`: shape (keys, 8), seconds, ascending, 0 where there is none. `expires_ms`: ABSENT_MS without an entry.
    `levels`: L1, BELOW or NOWHERE. `ttls_s` and `loaders` (an index into `loader_names`, -1 for none) come from the
    recipe. `woken_used` and `woken_gone` are keys that were woken and since then hit, or evicted without a hit.
    """

    source: str
    keys: list[bytes]
    counts: NDArray[np.uint64]
    visits: NDArray[np.uint32]
    expires_ms: NDArray[np.int64]
    costs_s: NDArray[np.float32]
    sizes: NDArray[np.uint32]
    ttls_s: NDArray[np.uint32]
    levels: NDArray[np.uint8]
    loaders: NDArray[np.int16]
    loader_names: list[str] = field(default_factory=list)
    woken_used: list[bytes] = field(default_factory=list)
    woken_gone: list[bytes] = field(default_factory=list)
    now_ms: int = 0
    more: bool = False

    def __len__(self) -> int:
        return len(self.keys)

    def to_bytes(self) -> bytes:
        """The slice as it travels."""
        fields: dict[str, Any] = {name: getattr(self, name).tobytes() for name in _COLUMNS}
        for name in ("source", "keys", "loader_names", "woken_used", "woken_gone", "now_ms", "more"):
            fields[name] = getattr(self, name)
        packed: bytes = msgpack.packb(fields)
        return packed

    @classmethod
    def from_bytes(cls, blob: bytes) -> PatternSlice:
        """What `to_bytes` packed."""
        fields = msgpack.unpackb(blob)
        for name, dtype in _COLUMNS.items():
            fields[name] = np.frombuffer(fields[name], dtype)
        fields["visits"] = fields["visits"].reshape(-1, VISITS_KEPT)
        return cls(**fields)
