"""Slices of patterns as a shard hands them in, with entries that are of no interest unless their columns are given."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from stratacache.cluster.intelligence.slices import L1, PatternSlice
from stratacache.node.patterns import VISITS_KEPT, AccessPatterns, Slice

LOADER: Final = "fn:model"


def slice_of(source: str, taken: Slice[bytes], **columns: Any) -> PatternSlice:
    """What a source tells of the keys taken. `columns` are those of PatternSlice: one value for each key or for all."""
    count = len(taken.keys)
    given = {"expires_ms": 0, "costs_s": 1.0, "sizes": 1000, "ttls_s": 60, "levels": L1, "loaders": 0} | columns
    given.setdefault("loader_names", [LOADER])
    types = {"expires_ms": np.int64, "costs_s": np.float32, "sizes": np.uint32, "ttls_s": np.uint32}
    types |= {"levels": np.uint8, "loaders": np.int16}
    filled = {name: np.full(count, given.pop(name), dtype) for name, dtype in types.items()}
    return PatternSlice(
        source=source,
        keys=taken.keys,
        counts=np.array(taken.counts, np.uint64),
        visits=np.array(taken.visits, np.uint32).reshape(-1, VISITS_KEPT),
        **filled,
        **given,
    )


def changed(source: str, patterns: AccessPatterns[bytes], keys_max: int = 1000, **columns: Any) -> PatternSlice:
    """What changed since it was taken last."""
    return slice_of(source, patterns.take_changed(keys_max), **columns)
