"""Reads that may go below L1: unpacked from L2, read from L3, promoted, counted.

Invariants: what is promoted was alive, and nothing newer of its key was there, at the moment of its promotion; a read
is counted once, where it ended.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Final

from .entry import unpacked
from .handoff import then
from .levels.packing import unpack

if TYPE_CHECKING:
    from .engine import MultiLevelCache
    from .entry import Entry
    from .handoff import Handoff
    from .stats import LevelCounters

UNPACK_INLINE_BYTES_MAX: Final = 256 * 1024


class Below:
    """Looks further down for keys of which L1 has no live entry."""

    def __init__(self, node: MultiLevelCache, handoff: Handoff) -> None:
        self._node = node
        self._handoff = handoff

    def get(self, key: bytes) -> Entry | Future[Entry | None] | None:
        """Look further down for a key of which L1 has no live entry."""
        self._handoff.run_done()
        entry = self._node.residents.find(key)
        self._node.l1.counters.misses += 1
        if entry is not None:
            if entry.expires_ms > self._node.now_ms():
                return self._hit_in_l2(entry)
            self._node.residents.drop_dead(entry)
        if self._node.l2 is not None:
            self._node.l2.counters.misses += 1
        if self._node.l3 is not None:
            found = self._node.l3.find(key, wait=self._handoff.waits)
            if isinstance(found, Future):
                return then(found, lambda entry: self._found_on_disk(key, entry))
            return self._found_on_disk(key, found)
        self._count_miss(key)
        return None

    def _hit_in_l2(self, entry: Entry) -> Entry | Future[Entry | None]:
        assert self._node.l2 is not None
        if not entry.packed or entry.size <= UNPACK_INLINE_BYTES_MAX or self._handoff.waits:
            self._count_hit(entry, self._node.l2.counters)
            return self._node.residents.promote(entry)
        packed = entry.raw
        assert packed is not None
        key = entry.key

        def promote(payload: bytes) -> Entry | None:
            now = self._node.residents.find(key)
            if now is entry and entry.raw is packed and entry.expires_ms > self._node.now_ms():
                assert self._node.l2 is not None
                self._count_hit(entry, self._node.l2.counters)
                return self._node.residents.promote(entry, payload)
            return self._settled(self._node.get(key))

        return then(self._handoff.off_thread(lambda: unpack(packed)), promote)

    def _settled(self, found: Entry | Future[Entry | None] | None) -> Entry | None:
        """An answer that must be given now: what would have to be waited for once more is a miss."""
        return None if isinstance(found, Future) else found

    def _found_on_disk(self, key: bytes, entry: Entry | None) -> Entry | None:
        assert self._node.l3 is not None
        counters = self._node.l3.counters
        newer = self._node.residents.find(key)
        if newer is not None:  # put while the disk was read
            return self._settled(self._node.get(key))
        if entry is None:
            counters.misses += 1
            self._count_miss(key)
            return None
        self._count_hit(entry, counters)
        if self._node.residents.place(entry, entry.page.group):
            counters.promotions += 1
            if entry.packed:  # it went to L2
                return self._node.residents.promote(entry)
        return entry

    def _count_hit(self, entry: Entry, counters: LevelCounters) -> None:
        self._node.hits += 1
        counters.hits += 1
        entry.page.group.namespace.hits += 1
        self._node.insight.hits((entry,))

    def _count_miss(self, key: bytes) -> None:
        self._node.misses += 1
        self._node.groups.namespace_of(key).misses += 1
        self._node.insight.missed(key)

    def peek(self, key: bytes) -> Entry | Future[Entry | None] | None:
        """Look for a key in every level, without counting or promoting."""
        node = self._node
        entry = node.residents.find(key)
        if entry is not None:
            doomed = bool(node.invalidation.under_way) and node.invalidation.is_doomed(entry)
            return unpacked(entry) if entry.expires_ms > node.now_ms() and not doomed else None
        self._handoff.run_done()
        return node.l3.find(key, wait=self._handoff.waits) if node.l3 is not None else None

    def wake(self, key: bytes) -> bool | Future[bool]:
        """Bring a live entry up to L1 before it is asked for; False when it is there, is nowhere, or L1 refuses it."""
        node = self._node
        entry = node.residents.find(key)
        if entry is not None:
            if entry.expires_ms <= node.now_ms() or entry.level is node.l1 or entry.size > UNPACK_INLINE_BYTES_MAX:
                return False
            return self._was_woken(node.residents.promote(entry))
        self._handoff.run_done()
        if node.l3 is None:
            return False
        found = node.l3.find(key, wait=self._handoff.waits)
        if isinstance(found, Future):
            return then(found, lambda entry: self._woken(key, entry))
        return self._woken(key, found)

    def _woken(self, key: bytes, entry: Entry | None) -> bool:
        node = self._node
        if entry is None or node.residents.find(key) is not None:  # put or read while the disk was read
            return False
        if node.residents.place(entry, entry.page.group) and node.l3 is not None:
            node.l3.counters.promotions += 1
        return self._was_woken(entry)

    def _was_woken(self, entry: Entry) -> bool:
        node = self._node
        if entry.level is not node.l1:
            return False
        node.residents.left_l1 = node.insight.left_l1
        node.insight.was_woken(entry.key)
        return True
