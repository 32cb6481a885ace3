"""What a shard tells of its access patterns: columns of keys that changed, with what is known of their entries.

Runs in the shard's process, on its event loop: a slice is bounded so that nobody waits for it for long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from stratacache.cluster.intelligence.slices import ABSENT_MS, BELOW, L1, NOWHERE, PatternSlice
from stratacache.node.patterns import VISITS_KEPT
from stratacache.node.recipes import head_of

if TYPE_CHECKING:
    from stratacache.node.engine import MultiLevelCache

KEYS_MAX: Final = 1000


class PatternReporter:
    """Hands out what changed since the last time; a new reader gets everything."""

    def __init__(self, engine: MultiLevelCache, source: str) -> None:
        self._engine = engine
        self._source = source
        self._reader = ""

    def report(self, reader: str, keys_max: int = KEYS_MAX) -> PatternSlice:
        """The next slice for this reader (one life of a coordinator)."""
        engine = self._engine
        patterns = engine.insight.patterns
        engine.drain_hits()
        if reader != self._reader:
            self._reader = reader
            patterns.forget_taken()
        taken = patterns.take_changed(min(keys_max, KEYS_MAX))
        names: dict[str, int] = {}
        rows = [self._facts(key, names) for key in taken.keys]
        expires, costs, sizes, ttls, levels, loaders = zip(*rows, strict=True) if rows else ((),) * 6
        used, gone = engine.insight.take_woken()
        return PatternSlice(
            source=self._source,
            keys=taken.keys,
            counts=np.array(taken.counts, np.uint64),
            visits=np.array(taken.visits, np.uint32).reshape(-1, VISITS_KEPT),
            expires_ms=np.array(expires, np.int64),
            costs_s=np.array(costs, np.float32),
            sizes=np.array(sizes, np.int64).clip(0, 0xFFFFFFFF).astype(np.uint32),
            ttls_s=np.array(ttls, np.uint32),
            levels=np.array(levels, np.uint8),
            loaders=np.array(loaders, np.int16),
            loader_names=list(names),
            woken_used=used,
            woken_gone=gone,
            now_ms=engine.now_ms(),
            more=len(taken.keys) >= keys_max,
        )

    def _facts(self, key: bytes, names: dict[str, int]) -> tuple[int, float, int, int, int, int]:
        engine = self._engine
        entry = engine.residents.find(key)
        kept = engine.recipes.kept.get(key)
        if entry is not None and entry.expires_ms > engine.now_ms():
            head = head_of(entry.metadata) if entry.metadata else None
            facts = (entry.expires_ms, entry.cost_s, entry.size, L1 if entry.level is engine.l1 else BELOW)
        elif kept is not None:
            head, facts = head_of(kept.recipe), (ABSENT_MS, kept.cost_s, kept.size, NOWHERE)
        elif entry is not None and entry.metadata and entry.expires_ms:  # expired, and not yet unlinked
            head, facts = head_of(entry.metadata), (ABSENT_MS, entry.cost_s, entry.size, NOWHERE)
        else:
            return ABSENT_MS, 0.0, 0, 0, NOWHERE, -1
        expires_ms, cost_s, size, level = facts
        if head is None:
            return expires_ms, cost_s, size, 0, level, -1
        return expires_ms, cost_s, size, head.ttl_s, level, names.setdefault(head.loader, len(names))
