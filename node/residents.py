"""The memory levels together: who is in L1, who in L2, and how entries move between them and leave.

Invariants: an entry that stands in a group is in exactly one memory level, and the counts of its namespace include
it; the tables of tags are charged to L1's budget; a killed entry (`expires_ms == DEAD_MS`) is counted in `dead` until
it is unlinked; nothing that is dead or expired is demoted.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from .entry import ALLOCATOR_SHIFT, DEAD_MS, ENTRY_BYTES, NEVER_MS, Entry, copy_of, size_of
from .groups import Group, GroupTable, Page
from .levels.compressed import CompressedLevel
from .levels.memory import MemoryLevel
from .levels.packing import pack
from .policies import make_policy
from .types import CacheLevel, RemovalCause

if TYPE_CHECKING:
    from collections.abc import Callable

    from .config import NodeConfig
    from .invalidation import Killed

SWEEP_PAGES: Final = 3  # pages (of up to 256 entries) that one slice unlinks: 2 ms
EXPIRY_PAGES: Final = 3  # pages in which something is due, to a slice
EXPIRY_LOOKS: Final = 2000  # pages looked at, to a slice: 0.1 ms
KILL_PAGES: Final = 16  # pages that one slice kills: below 1 ms
PACK_INLINE_BYTES_MAX: Final = 64 * 1024  # zlib-ng level 1 packs this in about 0.3 ms


class Residents:
    """Entries in memory.

    `hit_log` holds the reads that the policy has not been told of, `drain_hits` tells it. `pack_later`, when set,
    packs a large payload off the owner's thread and then calls back. `gone`, when set, hears of every entry that
    leaves by expiry, or by eviction unless it goes on living on disk without an expiry; `expired` of those with
    metadata that leave by expiry.
    """

    def __init__(self, config: NodeConfig, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self.groups = GroupTable()
        l1_policy = make_policy(config.policy, seed=config.seed, entries_hint=config.l1_bytes_max // 1024)
        self.l1 = MemoryLevel(CacheLevel.L1_MEMORY, config.l1_bytes_max, config.l1_entries_max, l1_policy)
        self.l2: CompressedLevel | None = None
        if config.l2_bytes_max:
            l2_policy = make_policy(config.l2_policy, seed=config.seed + 1, entries_hint=config.l2_bytes_max // 1024)
            self.l2 = CompressedLevel(CacheLevel.L2_COMPRESSED, config.l2_bytes_max, config.l2_entries_max, l2_policy)
        self.pack_later: Callable[[Entry, bytes], None] | None = None
        self.hit_log: list[Entry] = []
        self.drain_hits: Callable[[], None] = self.hit_log.clear
        self.gone: Callable[[bytes, RemovalCause], object] | None = None
        self.expired: Callable[[Entry], object] | None = None
        self.left_l1: Callable[[bytes], object] | None = None
        """When set, hears of what is evicted from L1, wherever it goes."""
        self.dead = 0
        self.stored = 0
        """How many live entries have a record on disk too."""
        self._sweeps: deque[Page] = deque()
        self._expiry_cursor = 0

    def __len__(self) -> int:
        return len(self.l1.table) + (len(self.l2.table) if self.l2 is not None else 0) - self.dead

    @property
    def bytes_used(self) -> int:
        """Bytes charged for everything in memory."""
        return self.l1.bytes_used + self.groups.bytes_used + (self.l2.bytes_used if self.l2 is not None else 0)

    def find(self, key: bytes) -> Entry | None:
        """The entry of a key in any memory level, alive or not."""
        entry = self.l1.table.get(key)
        if entry is None and self.l2 is not None:
            entry = self.l2.table.get(key)
        return entry

    # -- in ------------------------------------------------------------------------------------------------------

    def place(self, entry: Entry, group: Group, after: int = -1) -> bool:
        """Take in an entry whose key is not held: into L1, or into L2 when L1 is not for it. False: no room at all.

        `after`: number of the page on which the entry stood that it takes the place of.
        """
        if self.hit_log:
            self.drain_hits()  # the policy hears of reads and puts in their order
        size = entry.size
        level = self.l1
        charged = self.groups.bytes_used + (0 if group.filling is not None else group.size)
        if level.needs_room(size, charged) and not self._make_room(entry, size, group):
            return self._place_below(entry, group, after)
        self.groups.add(entry, group, after)
        level.insert(entry)
        self.stored += entry.stored
        namespace = group.namespace
        namespace.entries += 1
        namespace.bytes += size
        return True

    def replace(self, entry: Entry, group: Group) -> bool:
        """Take in a new entry in place of the one that its key may have; False when no memory level has room."""
        old = self.find(entry.key)
        after = -1
        if old is not None:
            entry.stored = old.stored
            after = old.page.index
            self.unlink(old, RemovalCause.REPLACED)
        if self.place(entry, group, after):
            return True
        entry.page = Page(group, -1)
        return False

    def rewrite(
        self, entry: Entry, payload: bytes, version: int, expires_ms: int, cost_s: float, metadata: bytes
    ) -> bool:
        """A put of a key that L1 holds, with the same tags and codec: change the entry in its place.

        False, and nothing done, when that is not as simple as it sounds.
        """
        if entry.expires_ms == DEAD_MS:
            return False  # it is counted as dead, and about to be swept
        if self.hit_log:
            self.drain_hits()
        level = self.l1
        length = len(payload)
        grown = len(entry.key) + length + (length >> ALLOCATOR_SHIFT) + len(metadata) + ENTRY_BYTES - entry.size
        if grown:
            if level.bytes_used + grown + self.groups.bytes_used > level.bytes_max:
                return False
            entry.size = size_of(entry.key, payload, metadata)
            level.bytes_used += grown
            entry.page.group.namespace.bytes += grown
        entry.raw = payload
        entry.frame = None
        entry.version = version
        entry.cost_s = cost_s
        entry.metadata = metadata
        if entry.expires_ms != expires_ms:
            entry.expires_ms = expires_ms
            page = entry.page
            page.soonest_ms = min(page.soonest_ms, expires_ms)
        level.policy.on_rewrite(entry, grown)
        level.counters.rewritten += 1
        return True

    def _place_below(self, entry: Entry, group: Group, after: int) -> bool:
        if self.l2 is None or not self._free(0, group):  # the tags of what lies in L2 are charged to L1 too
            return False
        self.groups.add(entry, group, after)
        self.stored += entry.stored
        group.namespace.entries += 1
        group.namespace.bytes += entry.size
        if not self._demote(entry):
            self._forget(entry)
            return False
        return True

    def _make_room(self, entry: Entry, size: int, group: Group) -> bool:
        """Evict until an entry fits into L1 with `size` bytes.

        False when it never will, or is not worth what it would displace.
        """
        level = self.l1
        new = 0 if group.pages else group.size
        if size + new > level.bytes_max:
            return False
        needed = level.bytes_used + size + self.groups.bytes_used + new - level.bytes_max
        if needed > 0 and not level.policy.admits(entry.key, size, entry.cost_s, needed):
            return False
        return self._free(size, group)

    def _free(self, size: int, group: Group) -> bool:
        """Evict until L1 has room for an entry of `size` of this group, or, with 0, for the group alone."""
        level = self.l1
        groups = self.groups
        l2 = self.l2
        charged = groups.bytes_used + (0 if group.pages else group.size)
        while level.needs_room(size, charged) if size else level.bytes_used + charged > level.bytes_max:
            if self._sweeps:
                self.sweep()
            elif l2 is not None and l2.table and (groups.bytes_used * 2 > level.bytes_max or not level.table):
                # The tag tables of what lies in L2 are about to starve L1.
                self._evict(l2)
            elif level.table:
                victim = level.pop_victim()
                if self.left_l1 is not None:
                    self.left_l1(victim.key)
                if not self._demote(victim):
                    self._let_go(level, victim, RemovalCause.EVICTED)
            else:
                return False
            charged = groups.bytes_used + (0 if group.pages else group.size)
        return True

    # -- between -------------------------------------------------------------------------------------------------

    def _demote(self, entry: Entry) -> bool:
        """Move an entry that has left L1 into L2; False when it has no place there."""
        l2 = self.l2
        if l2 is None or entry.expires_ms <= self._now_ms():
            return False
        before = entry.size
        payload = entry.payload
        later = self.pack_later if len(payload) > PACK_INLINE_BYTES_MAX else None
        if later is None and (packed := pack(payload)) is not None:
            l2.take_packed(entry, packed)
        if entry.size > l2.bytes_max:
            entry.page.group.namespace.bytes += entry.size - before
            return False
        while l2.needs_room(entry.size):
            self._evict(l2)
        entry.page.group.namespace.bytes += entry.size - before
        l2.insert(entry)
        self.l1.counters.demotions += 1
        if later is not None:
            later(entry, payload)
        return True

    def packed_later(self, entry: Entry, payload: bytes, packed: bytes | None) -> None:
        """Take the packed form that was made off the owner's thread, if the entry still lies there."""
        l2 = self.l2
        if l2 is not None and packed is not None and entry.level is l2 and entry.raw is payload:
            before = entry.size
            l2.shrink(entry, packed)
            entry.page.group.namespace.bytes += entry.size - before

    def promote(self, entry: Entry, payload: bytes | None = None) -> Entry:
        """Move an entry from L2 to L1 and give it; where L1 refuses it, give a copy that is in no level.

        `payload`: its unpacked form, when that has been made elsewhere.
        """
        l2 = self.l2
        assert l2 is not None
        if payload is None:
            payload = entry.payload
        group = entry.page.group
        size = size_of(entry.key, payload, entry.metadata)
        if size + group.size > self.l1.bytes_max:
            return copy_of(entry, payload)
        if self.hit_log:
            self.drain_hits()
        # It keeps its place in its group all the while, so that a scan neither misses it nor meets it twice.
        l2.remove(entry)
        if self.l1.needs_room(size, self.groups.bytes_used) and not self._make_room(entry, size, group):
            self._put_back(entry)
            return copy_of(entry, payload)
        group.namespace.bytes += size - entry.size
        entry.size = size
        if entry.packed:
            entry.raw = payload
            entry.packed = False
        self.l1.insert(entry)
        l2.counters.promotions += 1
        return entry

    def _put_back(self, entry: Entry) -> None:
        """Return an entry to L2 that L1 did not take."""
        l2 = self.l2
        assert l2 is not None
        while l2.needs_room(entry.size):
            self._evict(l2)
        l2.insert(entry)

    # -- out -----------------------------------------------------------------------------------------------------

    def unlink(self, entry: Entry, cause: RemovalCause) -> None:
        """Take an entry out of memory."""
        level = entry.level
        assert level is not None
        level.remove(entry)
        self._let_go(level, entry, cause)

    def drop_dead(self, entry: Entry) -> None:
        """Take an entry out of memory that was found expired or killed."""
        self.unlink(entry, RemovalCause.EXPIRED)

    def _evict(self, level: MemoryLevel) -> None:
        self._let_go(level, level.pop_victim(), RemovalCause.EVICTED)

    def _let_go(self, level: MemoryLevel, entry: Entry, cause: RemovalCause) -> None:
        """Count why an entry leaves memory for good; one that is dead leaves for that reason, whoever finds it."""
        namespace = entry.page.group.namespace
        if entry.expires_ms == DEAD_MS:
            cause = RemovalCause.INVALIDATED
        elif cause is RemovalCause.EVICTED and entry.expires_ms <= self._now_ms():
            cause = RemovalCause.EXPIRED
        level.counters.removed[cause] += 1
        lives_on = cause is RemovalCause.EVICTED and entry.expires_ms == NEVER_MS and (entry.stored or entry.queued)
        if self.gone is not None and cause in (RemovalCause.EVICTED, RemovalCause.EXPIRED) and not lives_on:
            self.gone(entry.key, cause)
        if cause is RemovalCause.EVICTED:
            namespace.evicted += 1
        elif cause is RemovalCause.EXPIRED:
            namespace.expired += 1
            if entry.metadata and self.expired is not None:
                self.expired(entry)
        elif cause is RemovalCause.INVALIDATED:
            namespace.invalidated += 1
        self._forget(entry)

    def _forget(self, entry: Entry) -> None:
        if entry.expires_ms == DEAD_MS:
            self.dead -= 1
        else:
            self.stored -= entry.stored
        self.groups.discard(entry)
        namespace = entry.page.group.namespace
        namespace.entries -= 1
        namespace.bytes -= entry.size

    # -- killing, sweeping, expiring -----------------------------------------------------------------------------

    def kill(self, pages: list[Page], so_far: Killed) -> None:
        """Make the entries of these pages with a version up to `so_far.seq` a miss; they are unlinked later."""
        now_ms = self._now_ms()
        seq = so_far.seq
        writing = so_far.writing
        killed = live = stored = 0
        for page in pages:
            for entry in page.entries:
                if entry.version <= seq and (expires_ms := entry.expires_ms) != DEAD_MS:
                    killed += 1
                    self.stored -= entry.stored
                    if expires_ms > now_ms:
                        live += 1
                        if writing and entry.key in writing:
                            so_far.written.append(entry.key)
                        else:
                            stored += entry.stored
                    entry.expires_ms = DEAD_MS
        self._sweeps.extend(pages)
        self.dead += killed
        so_far.live += live
        so_far.stored += stored

    def set_stored(self, key: bytes, stored: bool) -> None:
        """Take note of whether the disk has a record of a key."""
        entry = self.find(key)
        if entry is not None and entry.stored is not stored:
            entry.stored = stored
            if entry.expires_ms != DEAD_MS:
                self.stored += 1 if stored else -1

    def none_stored(self) -> None:
        """Take note that the disk has no records any more."""
        for level in (self.l1, self.l2):
            for entry in level.table.values() if level is not None else ():
                entry.stored = False
        self.stored = 0

    def sweep(self) -> None:
        """Unlink a slice of the killed entries."""
        sweeps = self._sweeps
        for _ in range(min(SWEEP_PAGES, len(sweeps))):
            for entry in [entry for entry in sweeps.popleft().entries if entry.expires_ms == DEAD_MS]:
                self.unlink(entry, RemovalCause.INVALIDATED)

    def expire(self, now_ms: int) -> None:
        """Unlink the expired entries of the next pages; pages where nothing is due cost next to nothing."""
        pages = self.groups.pages
        left = EXPIRY_PAGES
        for _ in range(min(EXPIRY_LOOKS, len(pages))):
            if self._expiry_cursor >= len(pages):
                self._expiry_cursor = 0
            page = pages[self._expiry_cursor]
            self._expiry_cursor += 1
            if page is None or page.soonest_ms > now_ms:
                continue
            for entry in [entry for entry in page.entries if entry.expires_ms <= now_ms]:
                self.unlink(entry, RemovalCause.EXPIRED)
            page.soonest_ms = min([entry.expires_ms for entry in page.entries], default=NEVER_MS)
            left -= 1
            if not left:
                break

    def validate(self) -> None:
        """Check the internals; raises AssertionError with what is wrong."""
        self.l1.validate()
        self.groups.validate()
        held = list(self.l1.table.values())
        if self.l2 is not None:
            self.l2.validate()
            held.extend(self.l2.table.values())
            assert not self.l2.table.keys() & self.l1.table.keys()
        assert self.l1.bytes_used + self.groups.bytes_used <= self.l1.bytes_max
        assert self.dead == sum(entry.expires_ms == DEAD_MS for entry in held)
        assert self.stored == sum(entry.stored for entry in held if entry.expires_ms != DEAD_MS)
        assert sum(len(page.entries) for page in self.groups.pages if page) == len(held)
        assert not any(entry.packed for entry in self.l1.table.values())
        for record in self.groups.namespaces.values():
            entries = [entry for group in record.groups.values() for page in group.pages for entry in page.entries]
            assert record.entries == len(entries)
            assert record.bytes == sum(entry.size for entry in entries)
