"""The node engine: one composition of levels, with tags, namespaces, leases and expiry.

Single-threaded: every method is called from the owner's thread (a server's event loop, or a caller that holds a
lock). Methods answer at once; those that may have to wait for the disk return a `concurrent.futures.Future` then.

Invariants: an entry is in one memory level; what is in `table` and has `expires_ms > now_ms()` is alive and may be
served without asking anybody; every put and invalidation has its own sequence number; an invalidation is effective
for every reader when it is acknowledged, however much later its entries are unlinked.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from .clock import Clock, NodeClock
from .config import NodeConfig
from .entry import DEAD_MS, ENTRY_BYTES, NEVER_MS, Entry
from .errors import LimitError, UsageError
from .gate import InvalidationGate
from .groups import Group, GroupTable, Namespace, Page
from .keys import DEFAULT_NAMESPACE
from .leases import LeaseReply, LeaseState, LeaseTable
from .levels.memory import MemoryLevel
from .policies import make_policy
from .types import RemovalCause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .events import Listener

HIT_LOG_MAX: Final = 128
SWEEP_PAGES: Final = 16  # pages (of 256 entries) that one slice unlinks: well under 5 ms
EXPIRY_PAGES: Final = 24


class MultiLevelCache:
    """The cache of one node, over an ordered list of levels.

    `clock` is the only source of time. `post` brings a call from a worker thread back to the owner's thread
    (`loop.call_soon_threadsafe` in a server); without it the engine waits for the disk itself and never returns
    a Future except for a lease that has to be waited for.
    """

    def __init__(
        self,
        config: NodeConfig | None = None,
        *,
        clock: Clock | None = None,
        post: Callable[[Callable[[], object]], object] | None = None,
    ) -> None:
        self.config = config = config or NodeConfig()
        config.validate()
        self._clock = clock or NodeClock()
        self._post = post
        self.now_ms: Callable[[], int] = self._clock.now_ms
        self.gate = InvalidationGate()
        self.leases = LeaseTable(self.gate, config.leases_max)
        self.groups = GroupTable()
        policy = make_policy(config.policy, seed=config.seed, entries_hint=config.l1_bytes_max // 1024)
        self.l1 = MemoryLevel("l1_memory", config.l1_bytes_max, config.l1_entries_max, policy)
        self.table = self.l1.table
        self.hit_log: list[Entry] = []
        self.listener: Listener | None = None
        self.inv_seq = 0
        self.hits = 0
        self.misses = 0
        self.puts = 0
        self.removed = dict.fromkeys(RemovalCause, 0)
        self._dead = 0
        self._sweeps: deque[Page] = deque()
        self._expiry_cursor = 0
        self._easy_bytes = min(config.key_bytes_max, config.value_bytes_max, config.l1_bytes_max)
        self._default = self.groups.namespace(DEFAULT_NAMESPACE)

    # -- reads ---------------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> Entry | Future[Entry | None] | None:
        """Give the live entry of a canonical key, or None; counted."""
        entry = self.table.get(key)
        if entry is not None:
            if entry.expires_ms > self.now_ms():
                log = self.hit_log
                log.append(entry)
                if len(log) >= HIT_LOG_MAX:
                    self.drain_hits()
                return entry
            self._drop_dead(entry)
        self.misses += 1
        self._namespace_of(key).misses += 1
        return None

    def peek(self, key: bytes) -> Entry | Future[Entry | None] | None:
        """Give the live entry of a canonical key, or None, without counting or promoting."""
        entry = self.table.get(key)
        if entry is not None and entry.expires_ms > self.now_ms():
            return entry
        return None

    def drain_hits(self) -> None:
        """Tell the policy and the counters of the hits that were logged."""
        log = self.hit_log
        if not log:
            return
        self.l1.policy.on_hits(log)
        count = len(log)
        self.hits += count
        if len(self.groups.namespaces) == 1:
            self._default.hits += count
        else:
            for entry in log:
                entry.page.group.namespace.hits += 1
        log.clear()

    def scan(self, cursor: int, count: int, match: Callable[[bytes], bool] | None = None) -> tuple[int, list[bytes]]:
        """List live keys from `cursor` on; gives the next cursor (0: the end) and about `count` keys.

        Every key that is present during the whole scan is listed at least once.
        """
        now_ms = self.now_ms()
        pages = self.groups.pages
        found: list[bytes] = []
        seen = 0
        while cursor < len(pages) and seen < count:
            page = pages[cursor]
            cursor += 1
            if page is None:
                continue
            seen += len(page.entries)
            alive = [entry.key for entry in page.entries if entry.expires_ms > now_ms]
            found.extend(alive if match is None else filter(match, alive))
        return (cursor if cursor < len(pages) else 0), found

    def __len__(self) -> int:
        return len(self.table) - self._dead

    # -- writes --------------------------------------------------------------------------------------------------

    def put(
        self,
        key: bytes,
        payload: bytes,
        *,
        expires_ms: int = NEVER_MS,
        tags: tuple[bytes, ...] = (),
        cost_s: float = 1.0,
        codec: int = 0,
        metadata: bytes = b"",
        lease: bytes | None = None,
    ) -> bool | Future[bool]:
        """Store a payload under a canonical key; False when it was refused (void lease, larger than every level).

        `expires_ms` is on the node's clock. Raises LimitError for what is past a limit, UsageError for bad tags.
        """
        size = len(key) + len(payload) + len(metadata) + ENTRY_BYTES
        if size > self._easy_bytes or expires_ms <= 0 or not key:
            self._check_put(key, payload, expires_ms)
        at = key.find(b":", 0, 256)
        namespace = self._default if at < 0 else self.groups.namespace(key[:at])
        group = namespace.groups.get((tags, codec)) or self.groups.group(namespace, tuple(tags), codec)
        gate = self.gate
        if lease is not None and not self.leases.admits(key, lease, namespace.name, group.tags, self.now_ms()):
            return False
        gate.seq = version = gate.seq + 1
        gate.void_key(key)
        old = self.table.get(key)
        if old is not None:
            self._replace(old)
        namespace.puts += 1
        self.puts += 1
        level = self.l1
        charged = self.groups.bytes_used + (0 if group.pages else group.size)
        if level.needs_room(size, charged) and not self._make_room(group, size):
            self._changed("keys", (key,), RemovalCause.REPLACED)
            self.leases.voided(key, self.now_ms())
            return False
        entry = Entry.__new__(Entry)
        entry.key = key
        entry.size = size
        entry.cost_s = cost_s
        entry.expires_ms = expires_ms
        entry.order = entry.link = entry.frame = None
        entry.raw = payload
        entry.version = version
        entry.metadata = metadata
        entry.packed = False
        self.groups.add(entry, group)
        level.insert(entry)
        namespace.entries += 1
        namespace.bytes += size
        if len(self.leases):
            self.leases.filled(key, entry)
        if self.listener is not None:
            self._changed("keys", (key,), RemovalCause.REPLACED)
        return True

    def _check_put(self, key: bytes, payload: bytes, expires_ms: int) -> None:
        limits = self.config
        if not key:
            raise LimitError("key is empty: a key has at least one byte")
        if len(key) > limits.key_bytes_max:
            raise LimitError(f"key has {len(key)} bytes, the limit is {limits.key_bytes_max}: hash the long part")
        if len(payload) > limits.value_bytes_max:
            raise LimitError(
                f"value has {len(payload)} bytes, the limit is {limits.value_bytes_max}: "
                "raise value_bytes_max or split the value"
            )
        if expires_ms <= 0:
            raise UsageError(f"expires_ms={expires_ms} is no time: give a positive TTL, or NEVER_MS for none")

    def set_expiry(self, key: bytes, expires_ms: int) -> bool | Future[bool]:
        """Give a live entry another expiry; False when there is none."""
        if expires_ms <= 0:
            raise UsageError(f"expires_ms={expires_ms} is no time: give a positive TTL, or NEVER_MS for none")
        entry = self.table.get(key)
        if entry is None or entry.expires_ms <= self.now_ms():
            return False
        entry.expires_ms = expires_ms
        self.l1.policy.on_update(entry)
        self._changed("keys", (key,), RemovalCause.REPLACED)
        return True

    # -- invalidation --------------------------------------------------------------------------------------------

    def remove(self, key: bytes) -> bool | Future[bool]:
        """Invalidate one key; whether a live entry was there."""
        return self.invalidate_keys((key,)) == 1

    def invalidate_keys(self, keys: Sequence[bytes]) -> int | Future[int]:
        """Invalidate keys; gives the number of live entries among them."""
        now_ms = self.now_ms()
        self.gate.next_seq()
        removed = 0
        for key in keys:
            self.gate.void_key(key)
            entry = self.table.get(key)
            if entry is not None:
                removed += entry.expires_ms > now_ms
                self._unlink(entry, RemovalCause.INVALIDATED)
            self.leases.voided(key, now_ms)
        self._changed("keys", keys, RemovalCause.INVALIDATED)
        return removed

    def invalidate_tags(self, tags: Iterable[bytes]) -> int | Future[int]:
        """Invalidate everything that carries any of the tags; gives the number of live entries."""
        names = tuple(tags)
        seq = self.gate.mark_tags(names)
        removed = self._kill(self.groups.groups_of_tags(names), seq)
        self._changed("tags", names, RemovalCause.INVALIDATED)
        return removed

    def invalidate_namespace(self, namespace: bytes) -> int | Future[int]:
        """Invalidate everything in a namespace; gives the number of live entries."""
        seq = self.gate.mark_namespace(namespace)
        record = self.groups.namespaces.get(namespace)
        removed = self._kill(list(record.groups.values()), seq) if record is not None else 0
        self._changed("namespace", (namespace,), RemovalCause.INVALIDATED)
        return removed

    def clear(self) -> int | Future[int]:
        """Invalidate everything; gives the number of live entries."""
        seq = self.gate.mark_clear()
        groups = [group for record in self.groups.namespaces.values() for group in record.groups.values()]
        removed = self._kill(groups, seq)
        self._changed("all", (), RemovalCause.INVALIDATED)
        return removed

    def _kill(self, groups: list[Group], seq: int) -> int:
        """Make all entries of these groups a miss; they are unlinked later, in slices."""
        now_ms = self.now_ms()
        removed = killed = 0
        for group in groups:
            for page in group.pages:
                for entry in page.entries:
                    if entry.version <= seq and (expires_ms := entry.expires_ms) != DEAD_MS:
                        killed += 1
                        removed += expires_ms > now_ms
                        entry.expires_ms = DEAD_MS
            self._sweeps.extend(group.pages)
        self._dead += killed
        return removed

    # -- leases --------------------------------------------------------------------------------------------------

    def lease(self, key: bytes, wait_ms: int, hold_ms: int) -> LeaseReply | Future[LeaseReply]:
        """Give the entry, or the lease to compute it, or wait up to `wait_ms` for who holds the lease.

        `hold_ms`: how long the caller may compute before the lease goes to somebody else.
        """
        entry = self.get(key)
        if isinstance(entry, Entry):
            return LeaseReply(LeaseState.HIT, entry)
        return self.leases.ask(key, wait_ms, hold_ms, self.now_ms())

    def release_lease(self, key: bytes, token: bytes) -> bool:
        """Give a lease back unused; False when it was not held any more."""
        return self.leases.release(key, token, self.now_ms())

    # -- upkeep --------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Do a slice of upkeep; call it about every 50 ms."""
        self.drain_hits()
        now_ms = self.now_ms()
        self.leases.tick(now_ms)
        self._sweep()
        self._expire(now_ms)

    def _sweep(self) -> None:
        """Unlink a slice of the killed entries."""
        sweeps = self._sweeps
        for _ in range(min(SWEEP_PAGES, len(sweeps))):
            for entry in [entry for entry in sweeps.popleft().entries if entry.expires_ms == DEAD_MS]:
                self._unlink(entry, RemovalCause.INVALIDATED)

    def _expire(self, now_ms: int) -> None:
        """Unlink a slice of the expired entries."""
        pages = self.groups.pages
        for _ in range(min(EXPIRY_PAGES, len(pages))):
            if self._expiry_cursor >= len(pages):
                self._expiry_cursor = 0
            page = pages[self._expiry_cursor]
            self._expiry_cursor += 1
            if page is not None:
                for entry in [entry for entry in page.entries if entry.expires_ms <= now_ms]:
                    self._drop_dead(entry)

    def stats(self) -> dict[str, Any]:
        """Counters and gauges of the node, its levels and its namespaces."""
        self.drain_hits()
        asked = self.hits + self.misses
        return {
            "hits": self.hits,
            "misses": self.misses,
            "hit_ratio": self.hits / asked if asked else 0.0,
            "puts": self.puts,
            "entries": len(self),
            "removed": {cause.value: count for cause, count in self.removed.items()},
            "memory_bytes": self.l1.bytes_used + self.groups.bytes_used,
            "leases": {
                "live": len(self.leases),
                "granted": self.leases.granted,
                "refused": self.leases.refused,
            },
            "namespaces": {
                name.decode("utf-8", "replace"): {
                    "hits": record.hits,
                    "misses": record.misses,
                    "puts": record.puts,
                    "entries": record.entries,
                    "bytes": record.bytes,
                }
                for name, record in self.groups.namespaces.items()
            },
        }

    def close(self, deadline_s: float = 10.0) -> None:  # noqa: ARG002
        """Flush what is queued and let go of everything; closing twice is harmless."""
        self.drain_hits()

    def validate(self) -> None:
        """Check the internals; raises AssertionError with what is wrong. For tests."""
        self.l1.validate()
        self.groups.validate()
        self.gate.validate()
        self.leases.validate()
        assert self.l1.bytes_used + self.groups.bytes_used <= self.l1.bytes_max
        assert self._dead == sum(entry.expires_ms == DEAD_MS for entry in self.table.values())
        assert sum(len(page.entries) for page in self.groups.pages if page) == len(self.table)
        for record in self.groups.namespaces.values():
            entries = [entry for group in record.groups.values() for page in group.pages for entry in page.entries]
            assert record.entries == len(entries)
            assert record.bytes == sum(entry.size for entry in entries)

    # -- inside --------------------------------------------------------------------------------------------------

    def _namespace_of(self, key: bytes) -> Namespace:
        at = key.find(b":", 0, 256)
        return self._default if at < 0 else self.groups.namespace(key[:at])

    def _changed(self, kind: str, names: Sequence[bytes], cause: RemovalCause) -> None:
        """Tell the listener of a change that readers elsewhere must know of."""
        self.inv_seq += 1
        if self.listener is not None:
            self.listener.changed(kind, names, cause, self.inv_seq)

    def _unlink(self, entry: Entry, cause: RemovalCause) -> None:
        """Take an entry out of its level, its group and the counts."""
        level = entry.level
        assert level is not None
        level.remove(entry)
        self._forget(entry, cause)

    def _replace(self, old: Entry) -> None:
        self._unlink(old, RemovalCause.REPLACED if old.expires_ms != DEAD_MS else RemovalCause.INVALIDATED)

    def _drop_dead(self, entry: Entry) -> None:
        """Unlink an entry that was found expired or killed."""
        self._unlink(entry, RemovalCause.INVALIDATED if entry.expires_ms == DEAD_MS else RemovalCause.EXPIRED)

    def _forget(self, entry: Entry, cause: RemovalCause) -> None:
        if entry.expires_ms == DEAD_MS:
            self._dead -= 1
        self.groups.discard(entry)
        namespace = entry.page.group.namespace
        namespace.entries -= 1
        namespace.bytes -= entry.size
        self.removed[cause] += 1

    def _make_room(self, group: Group, size: int) -> bool:
        """Evict until an entry of `size` in `group` fits; False when it never will."""
        level = self.l1
        groups = self.groups
        new_group_bytes = 0 if group.pages else group.size
        if size + new_group_bytes > level.bytes_max:
            return False
        self.drain_hits()
        while level.table and level.needs_room(size, groups.bytes_used + (0 if group.pages else group.size)):
            if self._sweeps:
                self._sweep()
                continue
            victim = level.pop_victim()
            self._forget(victim, RemovalCause.EVICTED if victim.expires_ms != DEAD_MS else RemovalCause.INVALIDATED)
        return True
