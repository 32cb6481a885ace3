"""The node engine: one composition of levels, with tags, namespaces, leases and expiry.

Single-threaded: every method is called from the owner's thread (a server's event loop, or a caller that holds a
lock). Methods answer at once; those that may have to wait for the disk return a `concurrent.futures.Future` then.

Invariants: an entry is in one memory level; what is in `table` and has `expires_ms > now_ms()` is alive and may be
served without asking anybody; every put and invalidation has its own sequence number; an invalidation is effective
for every reader when it is acknowledged, however much later its entries are unlinked.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from mypy_extensions import mypyc_attr

from .below import Below
from .clock import Clock, NodeClock
from .config import NodeConfig
from .entry import COST_S_MAX, COST_UNKNOWN_S, NEVER_MS, Entry, new_entry
from .expiry import Expiry
from .friendly import FriendlyCache
from .gate import InvalidationGate
from .groups import Group
from .handoff import Handoff, then, then_ask
from .histogram import Histogram
from .hot import HotKeys
from .insight import Insight
from .invalidation import Invalidation
from .keys import DEFAULT_NAMESPACE
from .leases import LeaseReply, LeaseTable
from .levels.compressed import pack_off_thread
from .levels.disk import DiskLevel
from .levels.recovery import leave_directory
from .limits import check_expiry, check_put
from .moving import MovingKeys
from .recipes import Recipes
from .residents import Residents
from .scan import Scanner
from .stats import node_dict, totals_dict
from .types import RemovalCause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .events import Listener

HIT_LOG_MAX: Final = 128
TIMED_MASK: Final = 15  # one get in 16 is timed


@mypyc_attr(allow_interpreted_subclasses=True)  # ReplicatedCache is one (cluster/replicated.py)
class MultiLevelCache:
    """The cache of one node, over an ordered list of levels.

    `clock` is the only source of time. `post` brings a call from a worker thread back to the owner's thread
    (`loop.call_soon_threadsafe` in a server); without it the engine waits for the disk itself, and only a lease that
    has to be waited for is given as a Future. `tick` has to be called about every 50 ms, `close` at the end.
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
        self.clock: Clock = clock or NodeClock()
        self.now_ms: Callable[[], int] = self.clock.now_ms
        self._handoff = handoff = Handoff(post)
        self._closed = False
        self.residents = Residents(config, self.now_ms)
        self.residents.drain_hits = self.drain_hits
        self.hit_log = self.residents.hit_log
        self.groups = self.residents.groups
        self.l1 = self.residents.l1
        self.l2 = self.residents.l2
        self.table = self.l1.table
        self.unsettled: dict[bytes, Any] = {}
        """Keys that may not be shown yet, though `table` has them (cluster/replicated.py)."""
        self._default = self.groups.namespace(DEFAULT_NAMESPACE)
        self.l3: DiskLevel | None = None
        self._behind = False  # whether it is written behind
        if config.l3_bytes_max:
            self.l3 = DiskLevel(config, self.clock, handoff, self.residents, self.groups.group_of)
            self._behind = self.l3.behind
            self.l3.count_by(lambda: self.gate.seq)
        elif config.data_dir is not None:
            leave_directory(config.data_dir)
        self.gate = InvalidationGate(self.l3.start_seq if self.l3 is not None else 1)
        self.leases = LeaseTable(self.gate, config.leases_max)
        if post is not None:
            self.residents.pack_later = pack_off_thread(handoff, self.residents.packed_later)
        self.listener: Listener | None = None
        self.inv_seq = 0
        self.hits = 0
        self.misses = 0
        self.puts = 0
        self.access_times = Histogram()
        self.insight = Insight(self.now_ms)
        self.recipes = Recipes()
        self.residents.expired = self.recipes.expired
        self.hot = HotKeys()
        self._gets = 0
        self._expires_ms = NEVER_MS
        self.invalidation = Invalidation(
            self.gate, self.leases, self.residents, self.l3, handoff, self.now_ms, self.changed
        )
        self._below = Below(self, handoff)
        self._expiry = Expiry(self, handoff)
        self.moving = MovingKeys(self)
        self._scanner = Scanner(self.residents, self.l3, self.now_ms)
        self._easy_bytes = min(config.key_bytes_max, config.value_bytes_max)

    # -- reads ---------------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> Entry | Future[Entry | None] | None:
        """Give the live entry of a canonical key, or None; counted. A hit in a slower level promotes."""
        self._gets += 1
        if not self._gets & TIMED_MASK:
            return self._get_timed(key)
        entry = self.table.get(key)
        if entry is not None and entry.expires_ms > self.now_ms():
            log = self.hit_log
            log.append(entry)
            if len(log) >= HIT_LOG_MAX:
                self.drain_hits()
            return entry
        return self._below.get(key)

    def _get_timed(self, key: bytes) -> Entry | Future[Entry | None] | None:
        start_ns = self.clock.perf_ns()
        found = self.get(key)
        self.access_times.record(self.clock.perf_ns() - start_ns)
        return found

    def touch(self, key: bytes, count: int, told_max: int) -> None:
        """Take note of `count` hits that a near cache served; the policy is told of `told_max` of them at most."""
        entry = self.table.get(key)
        if entry is not None and entry.expires_ms > self.now_ms():
            self.drain_hits()
            self.l1.policy.on_hits([entry] * min(count, told_max))
        self.insight.touched(key, entry, count)

    def wake(self, key: bytes) -> bool | Future[bool]:
        """Bring a live entry up to L1 before it is asked for; False when it is there, is nowhere, or L1 refuses it."""
        return self._below.wake(key)

    def peek(self, key: bytes) -> Entry | Future[Entry | None] | None:
        """Give the live entry of a canonical key, or None, without counting or promoting."""
        return self._below.peek(key)

    def own(self, key: bytes) -> Entry | Future[Entry | None] | None:
        """As `peek`, for a change that follows at once: what nobody may read yet counts too."""
        return self.peek(key)

    def drain_hits(self) -> None:
        """Tell the policy and the counters of the hits that were logged."""
        log = self.hit_log
        if not log:
            return
        self.l1.policy.on_hits(log)
        count = len(log)
        self.hits += count
        self.l1.counters.hits += count
        if len(self.groups.namespaces) == 1:
            self._default.hits += count
        else:
            for entry in log:
                entry.page.group.namespace.hits += 1
        self.insight.hits(log)
        self.hot.sample(log)
        log.clear()

    def scan(self, cursor: int, count: int, match: Callable[[bytes], bool] | None = None) -> tuple[int, list[bytes]]:
        """List live keys from `cursor` on; gives the next cursor (0: the end) and about `count` keys (scan.py)."""
        return self._scanner.scan(cursor, count, match)

    def __len__(self) -> int:
        """How many entries there are, in memory or on disk, without those that were invalidated.

        What expired but was not swept yet is counted; off by some while thousands of changes wait, or the disk sweeps.
        """
        return len(self.residents) + (self.l3.count_beside() if self.l3 is not None else 0)

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

        `expires_ms` is on the node's clock. Raises LimitError for what is past a limit, UsageError for what is wrong.
        """
        if len(key) + len(payload) > self._easy_bytes or expires_ms <= 0 or not key or not 0.0 <= cost_s <= COST_S_MAX:
            check_put(self.config, key, payload, expires_ms, cost_s)
        leases = self.leases
        entry = self.table.get(key)
        if entry is not None and (group := entry.page.group).codec == codec and group.tags == tags:
            namespace = group.namespace
        else:
            entry = None
            at = key.find(b":", 0, 256)
            namespace = self._default if at < 0 else self.groups.namespace(key[:at])
            found = namespace.groups.get((tags, codec)) if tags or codec else namespace.plain
            group = found if found is not None else self.groups.group(namespace, tuple(tags), codec)
        if lease is not None and not leases.admits(key, lease, namespace.name, group.tags, self.now_ms()):
            return False
        gate = self.gate
        gate.seq = version = gate.seq + 1
        if gate.by_key:
            gate.void_key(key)
        if expires_ms == self._expires_ms:
            expires_ms = self._expires_ms  # puts of one millisecond share the int object: 32 bytes less for each
        else:
            if expires_ms > NEVER_MS:
                check_expiry(expires_ms)
            self._expires_ms = expires_ms
        stored = True
        if entry is None or not self.residents.rewrite(entry, payload, version, expires_ms, cost_s, metadata):
            entry = new_entry(key, payload, version, expires_ms, cost_s, metadata)
            stored = self.residents.replace(entry, group)
        namespace.puts += 1
        self.puts += 1
        if cost_s != COST_UNKNOWN_S or metadata or self.recipes.kept:
            self._learn_put(key, group, cost_s)
        if leases.live:
            leases.filled(key, entry)
        if self.listener is not None:
            self.changed("keys", (key,), RemovalCause.REPLACED)
        l3 = self.l3
        if l3 is None or (entry.queued == entry.size and self._behind):
            return stored  # there is no disk, or the entry waits for it already
        return self._written(l3.put(entry), stored)

    def _written(self, queued: bool | Future[bool], stored: bool) -> bool | Future[bool]:
        # A method of its own: a compiled put would make an object for what its lambda needs, with or without a disk.
        if isinstance(queued, Future):
            return self._handoff.settle(then(queued, lambda committed: stored or committed))
        return stored or queued

    def _learn_put(self, key: bytes, group: Group, cost_s: float) -> None:
        self.recipes.forget(key)
        self.insight.patterns.mark(key)
        if cost_s != COST_UNKNOWN_S:
            self.insight.computed(key, group, cost_s)

    def set_expiry(self, key: bytes, expires_ms: int) -> bool | Future[bool]:
        """Give a live entry another expiry; False when there is none."""
        check_expiry(expires_ms)
        found = self.own(key)
        if isinstance(found, Future):
            return then_ask(found, lambda entry: self.set_expiry_of(key, entry, expires_ms))
        return self.set_expiry_of(key, found, expires_ms)

    def set_expiry_of(self, key: bytes, found: Entry | None, expires_ms: int) -> bool | Future[bool]:
        """As `set_expiry`, for the entry that was just found with `own`."""
        return self._expiry.change(key, found, expires_ms)

    # -- invalidation --------------------------------------------------------------------------------------------

    def remove(self, key: bytes) -> bool | Future[bool]:
        """Invalidate one key; whether a live entry was there."""
        removed = self.invalidation.keys((key,))
        return then(removed, bool) if isinstance(removed, Future) else removed == 1

    def invalidate_keys(self, keys: Sequence[bytes]) -> int | Future[int]:
        """Invalidate keys; gives the number of live entries among them."""
        return self.invalidation.keys(keys)

    def invalidate_tags(self, tags: Iterable[bytes]) -> int | Future[int]:
        """Invalidate everything that carries any of the tags; gives the number of live entries."""
        return self.invalidation.tags(tuple(tags))

    def invalidate_namespace(self, namespace: bytes) -> int | Future[int]:
        """Invalidate everything in a namespace; gives the number of live entries."""
        return self.invalidation.namespace(namespace)

    def clear(self) -> int | Future[int]:
        """Invalidate everything; gives the number of live entries."""
        return self.invalidation.everything()

    # -- the seed's names, for text keys (friendly.py has get and put too) ---------------------------------------

    def invalidate(self, key: str, namespace: str = "default") -> bool | Future[bool]:
        """Invalidate a text key in every level; whether it was there."""
        return FriendlyCache(self).invalidate(key, namespace)

    def invalidate_by_tags(self, tags: Iterable[str]) -> int | Future[int]:
        """Invalidate what carries any of these text tags in every level; gives the number of entries."""
        return FriendlyCache(self).invalidate_by_tags(tags)

    def get_statistics(self) -> dict[str, Any]:
        """Counters of the node and its namespaces, as `stats`."""
        return self.stats()

    def get_comprehensive_statistics(self) -> dict[str, Any]:
        """Counters of each level, with the directory and the size of the disk level."""
        return FriendlyCache(self).get_comprehensive_statistics()

    # -- leases --------------------------------------------------------------------------------------------------

    def lease(
        self, key: bytes, wait_ms: int, hold_ms: int, *, refresh: bool = False
    ) -> LeaseReply | Future[LeaseReply]:
        """Give the entry, or the lease to compute it, or wait up to `wait_ms` for who holds the lease.

        `hold_ms`: how long the caller may compute before the lease goes to somebody else. `refresh`: give the lease
        although a live entry is there, to compute it anew before it expires.
        """
        found = None if refresh else self.get(key)
        if isinstance(found, Future):
            return then_ask(found, lambda entry: self.leases.answer(key, entry, wait_ms, hold_ms, self.now_ms()))
        return self.leases.answer(key, found, wait_ms, hold_ms, self.now_ms())

    def release_lease(self, key: bytes, token: bytes) -> bool:
        """Give a lease back unused; False when it was not held any more."""
        return self.leases.release(key, token, self.now_ms())

    # -- upkeep --------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Do a slice of upkeep; call it about every 50 ms."""
        self._handoff.run_done()
        self.drain_hits()
        self.insight.tick()
        now_ms = self.now_ms()
        self.leases.tick(now_ms)
        self.residents.sweep()
        self.residents.expire(now_ms)
        if self.l3 is not None:
            self.l3.tick(now_ms)

    def flush(self) -> None:
        """Begin to write what is queued for the disk now, rather than when it is old enough."""
        if self.l3 is not None:
            self.l3.flush()

    def stats(self) -> dict[str, Any]:
        """Counters and gauges of the node, its levels and its namespaces."""
        self.drain_hits()
        self._handoff.run_done()
        return node_dict(self)

    def totals(self) -> dict[str, Any]:
        """`stats` without the namespaces and the hot keys: takes the same time however many there are."""
        self.drain_hits()
        self._handoff.run_done()
        return totals_dict(self)

    def close(self, deadline_s: float = 10.0) -> None:
        """Write what is queued, within the deadline, and let go of everything; closing twice is harmless."""
        if self._closed:
            return
        self.drain_hits()
        self._closed = True
        self._handoff.post = None  # from here on completions run in this thread
        clean = self.l3 is None or self.l3.write_out(deadline_s)
        ended = self._handoff.worker.stop(deadline_s)
        self._handoff.run_done()
        if self.l3 is not None and ended:
            self.l3.close(clean=clean)

    def validate(self) -> None:
        """Check the internals; raises AssertionError with what is wrong. For tests."""
        self.residents.validate()
        if self.l3 is not None:
            self.l3.validate()
        self.gate.validate()
        self.leases.validate()

    # -- inside --------------------------------------------------------------------------------------------------

    def changed(self, kind: str, names: Sequence[bytes], cause: RemovalCause) -> None:
        """Tell the listener of a change that readers elsewhere must know of."""
        self.inv_seq += 1
        if cause is RemovalCause.INVALIDATED:
            self.recipes.invalidate(kind, names)
        if self.listener is not None:
            self.listener.changed(kind, names, cause, self.inv_seq)
