"""The node engine of a shard whose keys have more than one owner: every change goes on to the next of them.

The engine itself knows nothing of it: a cluster with one copy of each key runs without this class. What is overridden
here are the changes (made only where this shard may make them, then handed on, answered when all have them) and the
looks at a key (which wait while a change of it is on its way, and ask the other owners while this shard is still
coming back to what it missed).

Invariants: a key's changes are queued for its next owner in the order in which they were made here; a change that was
refused has changed nothing; what was only looked at is never handed on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

from stratacache.cluster.streams import OWN, RELAYED
from stratacache.node.engine import MultiLevelCache
from stratacache.node.entry import NEVER_MS, Entry, copy_of
from stratacache.node.errors import CacheError, UsageError
from stratacache.node.handoff import then, then_ask
from stratacache.node.keys import namespace_of
from stratacache.node.leases import LeaseReply

if TYPE_CHECKING:
    from stratacache.cluster.replication import Replication
    from stratacache.cluster.streams import Change, Words
    from stratacache.node.gate import Ticket

R = TypeVar("R")


class ReplicatedCache(MultiLevelCache):
    """A node engine with a `replication`, which has to be set before the first change."""

    replication: Replication

    def attach(self, replication: Replication) -> None:
        """Begin to hand changes on; what is on its way is not shown to anybody from now on.

        Raises UsageError with write-through: the disk takes no change before all owners have it, in their order, so
        two shards that answered each other only when theirs had it would wait in a circle.
        """
        if self.l3 is not None and not self.l3.behind:
            raise UsageError("with several owners of a key the disk is written behind: take l3_write_mode write_behind")
        self.replication = replication
        self.unsettled = replication.outbox.unsettled
        if self.l3 is not None:
            self.l3.wait_for(self.unsettled)

    # -- looking -------------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> Entry | Future[Entry | None] | None:
        """Give the live entry of a canonical key; while a change of it is on its way, later."""
        wait = self.replication.outbox.unsettled.get(key)
        if wait is not None:
            return then_ask(wait.future, lambda _: _kept(self.get(key)))
        found = super().get(key)
        if found.__class__ is Entry or not self.replication.is_missing(self.now_ms()):
            return found
        return self._or_elsewhere(key, found)

    def peek(self, key: bytes) -> Entry | Future[Entry | None] | None:
        """As `get`, without counting or promoting."""
        wait = self.replication.outbox.unsettled.get(key)
        if wait is not None:
            return then_ask(wait.future, lambda _: _kept(self.peek(key)))
        return self.own(key)

    def own(self, key: bytes) -> Entry | Future[Entry | None] | None:
        """The live entry of a key that is about to be changed here: what is on its way counts."""
        found: Entry | Future[Entry | None] | None = super().peek(key)
        if isinstance(found, Entry) or key in self.replication.outbox.unsettled:
            return found
        if not self.replication.is_missing(self.now_ms()):
            return found
        return self._or_elsewhere(key, found)

    def _or_elsewhere(self, key: bytes, found: Any) -> Future[Entry | None]:
        if isinstance(found, Future):
            return then_ask(found, lambda entry: entry if entry is not None else cast("Any", self._elsewhere(key)))
        return self._elsewhere(key)

    def _elsewhere(self, key: bytes) -> Future[Entry | None]:
        return self.replication.pull(key)

    def lease(
        self, key: bytes, wait_ms: int, hold_ms: int, *, refresh: bool = False
    ) -> LeaseReply | Future[LeaseReply]:
        """As the node's, but who waits for a fill is answered when the other owners have it."""
        answer = super().lease(key, wait_ms, hold_ms, refresh=refresh)
        if not isinstance(answer, Future):
            return answer
        asked = answer
        shown: Future[LeaseReply] = then_ask(asked, lambda reply: cast("Any", self._filled(key, reply)))
        shown.add_done_callback(lambda _: asked.cancel() if shown.cancelled() else None)
        return shown

    def _filled(self, key: bytes, reply: LeaseReply) -> LeaseReply | Future[LeaseReply]:
        """The fill is told of while its put is under way: only in the next turn it is on its way to others."""
        post = self._handoff.post
        if reply.entry is None or post is None:
            return reply
        kept = LeaseReply(reply.state, _kept(reply.entry))
        result: Future[LeaseReply] = Future()

        def tell(_: object = None) -> None:
            if result.set_running_or_notify_cancel():
                result.set_result(kept)

        def look() -> None:
            wait = self.replication.outbox.unsettled.get(key)
            if wait is None:
                tell()
            else:
                wait.future.add_done_callback(tell)

        post(look)
        return result

    def settled(self, key: bytes) -> Entry | Future[Entry | None] | None:
        """What this shard itself holds for another owner that asks; waits for what is on its way."""
        wait = self.replication.outbox.unsettled.get(key)
        if wait is not None:
            return then_ask(wait.future, lambda _: _kept(self.settled(key)))
        found: Entry | Future[Entry | None] | None = super().peek(key)
        return found

    def install(
        self, key: bytes, ticket: Ticket, fields: Sequence[Any], asked_ms: int
    ) -> Entry | Future[Entry | None] | None:
        """Take an entry in that another owner gave, unless something came in between; the live entry either way.

        The rest of its TTL is counted from when it was asked for: it may have been on its way for long.
        """
        codec, payload, ttl_ms, cost, metadata, *tags = fields
        expires_ms = NEVER_MS if ttl_ms < 0 else asked_ms + ttl_ms
        if expires_ms > self.now_ms() and self.gate.admits(ticket, namespace_of(key), tags):
            with suppress(CacheError):  # what this shard would not take from a client is a miss
                MultiLevelCache.put(
                    self,
                    key,
                    payload,
                    expires_ms=expires_ms,
                    tags=tuple(tags),
                    cost_s=float(cost),
                    codec=codec,
                    metadata=metadata,
                )
        live: Entry | Future[Entry | None] | None = _kept(self.settled(key))
        return live

    # -- changing ------------------------------------------------------------------------------------------------

    def put(self, key: bytes, payload: bytes, **options: Any) -> bool | Future[bool]:
        """Store a payload here and at the other owners."""
        beside = len(options.get("metadata", b"")) + sum(map(len, options.get("tags", ())))
        peer = self.replication.begin(key, len(key) + len(payload) + beside)
        before = self.gate.seq
        done = super().put(key, payload, **options)
        if peer is None or self.gate.seq == before:  # a void lease changes nothing
            return done
        return _when_both(done, self._hand_on_put(peer, key, payload, done, options))

    def _hand_on_put(
        self, peer: str, key: bytes, payload: bytes, done: Any, options: dict[str, Any], lane: int = OWN
    ) -> Change:
        expires_ms = options.get("expires_ms", NEVER_MS)
        ttl_ms = -1 if expires_ms == NEVER_MS else expires_ms - self.now_ms()
        if done is False or (ttl_ms <= 0 and expires_ms != NEVER_MS):
            words: Words = (b"DEL", key)
        else:
            words = (
                b"PUT",
                key,
                payload,
                b"%d" % options.get("codec", 0),
                b"%d" % ttl_ms,
                b"%r" % options.get("cost_s", 1.0),
                options.get("metadata", b""),
                *options.get("tags", ()),
            )
        return self.replication.outbox.send({peer: words}, (key,), lane)

    def remove(self, key: bytes) -> bool | Future[bool]:
        """Invalidate one key; whether a live entry was there."""
        removed = self.invalidate_keys((key,))
        return then(removed, bool) if isinstance(removed, Future) else removed == 1

    def invalidate_keys(self, keys: Sequence[bytes]) -> int | Future[int]:
        """Invalidate keys that this shard may change, here and at the other owners."""
        behind: dict[str, list[bytes]] = {}
        size = 0
        for key in keys:
            size += len(key)
            peer = self.replication.begin(key, size)
            if peer is not None:
                behind.setdefault(peer, []).append(key)
        return self._hand_on_keys(super().invalidate_keys(keys), keys, behind)

    def _hand_on_keys(
        self, removed: R | Future[R], keys: Sequence[bytes], behind: dict[str, list[bytes]], lane: int = OWN
    ) -> R | Future[R]:
        if not behind:
            return removed
        items: dict[str, Words] = {peer: (b"DEL", *some) for peer, some in behind.items()}
        return _when_both(removed, self.replication.outbox.send(items, tuple(keys), lane))

    def set_expiry_of(self, key: bytes, found: Entry | None, expires_ms: int) -> bool | Future[bool]:
        """Give the entry that was found another expiry, here and at the other owners; False when there is none."""
        peer = self.replication.begin(key)
        done = super().set_expiry_of(key, found, expires_ms)
        if peer is None or done is False:
            return done
        ttl_ms = -1 if expires_ms == NEVER_MS else max(0, expires_ms - self.now_ms())
        return _when_both(done, self.replication.outbox.send({peer: (b"EXPIRE", key, b"%d" % ttl_ms)}, (key,)))

    def invalidate_tags(self, tags: Iterable[bytes]) -> int | Future[int]:
        """Invalidate everything that carries any of the tags, here and in what is on its way to other shards."""
        names = tuple(tags)
        self.replication.check_room(names)
        return self._spread(super().invalidate_tags(names), (b"TAGS", *names))

    def invalidate_namespace(self, namespace: bytes) -> int | Future[int]:
        """Invalidate everything in a namespace, here and in what is on its way to other shards."""
        self.replication.check_room()
        return self._spread(super().invalidate_namespace(namespace), (b"NS", namespace))

    def clear(self) -> int | Future[int]:
        """Invalidate everything, here and in what is on its way to other shards."""
        self.replication.check_room()
        return self._spread(super().clear(), (b"CLEAR",))

    def _spread(self, removed: int | Future[int], words: Words) -> int | Future[int]:
        spread = self.replication.spread(words)
        return removed if spread is None else then_ask(spread, lambda _: cast("Any", removed))

    # -- what other shards hand on, and what is done here alone ---------------------------------------------------

    def alone(self) -> MultiLevelCache:
        """The same engine for what concerns this shard only: paying debts, dropping its content."""
        return cast("MultiLevelCache", _Alone(self))

    def apply(self, words: Sequence[bytes]) -> Future[None] | None:
        """Carry out a change of the owner before this one, and hand it on; done when it is recorded and answered.

        A put that can't be taken leaves the key without a value: a miss, not an older one.
        """
        kind, *rest = words
        match kind:
            case b"PUT":
                return self._apply_put(rest)
            case b"DEL":
                return _none(self._apply_keys(rest))
            case b"EXPIRE":
                return self._apply_expiry(rest[0], int(rest[1]))
            case b"TAGS":
                return _none(super().invalidate_tags(rest))
            case b"NS":
                return _none(super().invalidate_namespace(rest[0]))
            case b"CLEAR":
                return _none(super().clear())
        raise UsageError(f"{kind!r} is no change that this version knows")

    def _apply_put(self, rest: Sequence[bytes]) -> Future[None] | None:
        key, payload, codec, ttl, cost, metadata, *tags = rest
        ttl_ms = int(ttl)
        options: dict[str, Any] = {
            "expires_ms": NEVER_MS if ttl_ms < 0 else self.now_ms() + ttl_ms,
            "codec": int(codec),
            "cost_s": float(cost),
            "metadata": metadata,
            "tags": tuple(tags),
        }
        done: Any = False
        try:
            done = super().put(key, payload, **options)
        except CacheError:
            done = MultiLevelCache.invalidate_keys(self, (key,))
            done = then(done, lambda _: False) if isinstance(done, Future) else False
        peer = self.replication.chains.successor(key)
        if peer is None:
            return _none(done)
        return _none(_when_both(done, self._hand_on_put(peer, key, payload, done, options, RELAYED)))

    def _apply_keys(self, keys: Sequence[bytes]) -> int | Future[int]:
        behind: dict[str, list[bytes]] = {}
        for key in keys:
            peer = self.replication.chains.successor(key)
            if peer is not None:
                behind.setdefault(peer, []).append(key)
        return self._hand_on_keys(MultiLevelCache.invalidate_keys(self, keys), keys, behind, RELAYED)

    def _apply_expiry(self, key: bytes, ttl_ms: int) -> Future[None] | None:
        expires_ms = NEVER_MS if ttl_ms < 0 else self.now_ms() + max(1, ttl_ms)
        found = super().peek(key)
        if isinstance(found, Future):  # on disk only: forgotten rather than waited for, so that the order is kept
            return _none(self._apply_keys((key,)))
        done = super().set_expiry_of(key, found, expires_ms)
        peer = self.replication.chains.successor(key)
        if peer is None:
            return _none(done)
        words = (b"EXPIRE", key, b"%d" % ttl_ms)
        return _none(_when_both(done, self.replication.outbox.send({peer: words}, (key,), RELAYED)))

    def words_of(self, key: bytes) -> Words:
        """What makes another shard hold of a key what this one holds in memory, or nothing."""
        entry = self.residents.find(key)
        now_ms = self.now_ms()
        if entry is None or entry.expires_ms <= now_ms or entry.packed:
            return (b"DEL", key)
        ttl_ms = -1 if entry.expires_ms == NEVER_MS else entry.expires_ms - now_ms
        numbers = (b"%d" % entry.codec, b"%d" % ttl_ms, b"%r" % entry.cost_s)
        return (b"PUT", key, entry.payload, *numbers, entry.metadata, *entry.tags)


class _Alone:
    """The plain engine's invalidations on a replicated one."""

    def __init__(self, engine: ReplicatedCache) -> None:
        self._engine = engine

    def invalidate_keys(self, keys: Sequence[bytes]) -> int | Future[int]:
        return MultiLevelCache.invalidate_keys(self._engine, keys)

    def invalidate_tags(self, tags: Iterable[bytes]) -> int | Future[int]:
        return MultiLevelCache.invalidate_tags(self._engine, tags)

    def invalidate_namespace(self, namespace: bytes) -> int | Future[int]:
        return MultiLevelCache.invalidate_namespace(self._engine, namespace)

    def clear(self) -> int | Future[int]:
        return MultiLevelCache.clear(self._engine)


def _kept(found: Entry | Future[Entry | None] | None) -> Any:
    """An entry as it is now: who waited reads it in a later turn, and by then a put may have changed it in place."""
    return copy_of(found, found.payload) if isinstance(found, Entry) and not found.packed else found


def _when_both(done: R | Future[R], change: Change) -> Future[R]:
    """What was done here, once the others have it too."""
    if isinstance(done, Future):
        return then_ask(change.future, lambda _: done)
    return then(change.future, lambda _: done)


def _none(done: object) -> Future[None] | None:
    return then(done, lambda _: None) if isinstance(done, Future) else None


def when_done(value: Any, step: Callable[[Any], None]) -> None:
    """Go on with a value that may be a future."""
    if isinstance(value, Future):
        value.add_done_callback(lambda done: step(done.result()))
    else:
        step(value)
