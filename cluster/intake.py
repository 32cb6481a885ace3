"""The new owner's side of a handoff: it takes each key from the former owner, once, before anybody misses it.

The first command on a key that came with the view waits until the former owner has given its entry away. Meanwhile all
others are fetched too, in batches, hottest first. No answer needs any of this to be true: a former owner that can't be
reached makes its keys miss.

Invariants:
- a key is asked for once. Whoever asks, puts or invalidates touches it first, and nothing that arrives for a touched
  key is stored, but for the one answer that is waited for, unless a put or an invalidation came before it;
- what arrives passes a ticket that stands since before this shard took the first invalidation under the view: what the
  former owner holds is older than all of them, so it need not hear of any;
- it ends by its time, when a former owner has nothing left or does not know the handoff, or with the next ring.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from stratacache.client.view import ACTIVE, ShardInfo, View
from stratacache.cluster.ownership import ring_of
from stratacache.cluster.touched import Touched
from stratacache.cluster.travelling import unpack_entry
from stratacache.node.entry import NEVER_MS
from stratacache.node.keys import namespace_of

if TYPE_CHECKING:
    from stratacache.node.engine import MultiLevelCache

ASK_DEADLINE_MS: Final = 500
FETCH_AFTER_MS: Final = 100
BATCH_DEADLINE_MS: Final = 5_000
BATCH_PAUSE_MS: Final = 5
BUSY_PAUSE_MS: Final = 50
EARLY_PAUSE_MS: Final = 20
FAILURES_MAX: Final = 3


class Refused(Exception):  # noqa: N818 - an answer, passed and never raised
    """The other shard answered with an error."""

    @property
    def is_early(self) -> bool:
        """Whether it is only not as far yet as this shard."""
        return str(self).startswith("TRYAGAIN")


class Peers(Protocol):
    """How a shard reaches others, and how it waits."""

    def ask(self, shard: ShardInfo, argv: Sequence[bytes], deadline_ms: int, done: Callable[[Any], None]) -> None:
        """Send a command; `done` gets the reply, a Refused, or None when nothing came for so long. Once, later."""

    def after(self, ms: int, fn: Callable[[], None]) -> None:
        """Call `fn` in so many milliseconds."""


@dataclass(slots=True)
class _Source:
    """A former owner."""

    shard: ShardInfo
    open: bool = True
    failures: int = 0


class _Ask:
    """A key that was asked for; who wants it waits on `future`. `void`: it was written meanwhile."""

    __slots__ = ("future", "void")

    def __init__(self) -> None:
        self.future: Future[None] = Future()
        self.void = False


class Intake:
    """One shard's window after one change of the ring; see the module's text."""

    def __init__(
        self,
        engine: MultiLevelCache,
        peers: Peers,
        *,
        shard: str,
        incarnation: int,
        view: View,
        former: View,
        window_ms: int,
    ) -> None:
        self._engine = engine
        self._peers = peers
        self._head = (b"%d" % view.epoch, shard.encode(), b"%d" % incarnation)
        self._shard = shard
        self._former = ring_of(former)
        self._sources = {
            one.id: _Source(one)
            for one in former.shards
            if one.state == ACTIVE and (one.id, one.incarnation) != (shard, str(incarnation))
        }
        self._touched = Touched()
        self._asking: dict[bytes, _Ask] = {}
        self._until_ms = engine.now_ms() + window_ms
        self._ticket = engine.gate.stand(self.touch)
        self._ended = False
        self.taken = 0
        self.refused = 0

    def begin(self) -> None:
        """Begin to fetch what nobody asks for, when the others have the view too."""
        for source in self._sources.values():
            self._peers.after(FETCH_AFTER_MS, partial(self._fetch, source))

    @property
    def open(self) -> bool:
        """Whether anything may still be taken."""
        return any(source.open for source in self._sources.values())

    def end(self) -> None:
        """Take nothing any more; what is still on its way is refused."""
        for source in self._sources.values():
            source.open = False
        self._ended = True
        self._engine.gate.dismiss(self._ticket)

    # -- commands ------------------------------------------------------------------------------------------------

    def touch(self, key: bytes) -> None:
        """A key is put or invalidated here: what the former owner has of it is old from now on."""
        if self._former.primary(key).id in self._sources:
            self._touched.add(key)
            ask = self._asking.get(key)
            if ask is not None:
                ask.void = True

    def settle(self, keys: Sequence[bytes]) -> Future[None] | None:
        """See to it that the entries of these keys are here, if they are anywhere; a future when that takes a while."""
        if self._engine.now_ms() >= self._until_ms:
            self.end()
        wanted: dict[str, list[bytes]] = {}
        waiting: dict[_Ask, None] = {}
        for key in keys:
            ask = self._asking.get(key)
            if ask is not None:
                if not ask.void:
                    waiting[ask] = None
                continue
            source = self._source(key)
            if source is None or key in self._touched:
                continue
            self._touched.add(key)
            ask = self._asking[key] = _Ask()
            waiting[ask] = None
            wanted.setdefault(source.shard.id, []).append(key)
        for shard, some in wanted.items():
            self._take(self._sources[shard], some)
        return _all([ask.future for ask in waiting]) if waiting else None

    def _source(self, key: bytes) -> _Source | None:
        source = self._sources.get(self._former.primary(key).id)
        return source if source is not None and source.open else None

    def _take(self, source: _Source, keys: list[bytes], tries_until_ms: int = 0) -> None:
        asked_ms = self._engine.now_ms()
        tries_until_ms = tries_until_ms or asked_ms + ASK_DEADLINE_MS

        def done(reply: Any) -> None:
            if isinstance(reply, Refused) and reply.is_early and self._engine.now_ms() < tries_until_ms:
                self._peers.after(EARLY_PAUSE_MS, lambda: self._take(source, keys, tries_until_ms))
                return
            self._heard(source, reply)
            blobs = reply if isinstance(reply, list) and len(reply) == len(keys) else [None] * len(keys)
            for key, blob in zip(keys, blobs, strict=True):
                if isinstance(blob, bytes):
                    self._arrived(key, blob, asked_ms)
                self._asking.pop(key).future.set_result(None)
            self._close_if_done()

        self._peers.ask(source.shard, (b"SC.TAKE", *self._head, *keys), ASK_DEADLINE_MS, done)

    # -- fetching ------------------------------------------------------------------------------------------------

    def _fetch(self, source: _Source) -> None:
        asked_ms = self._engine.now_ms()
        if asked_ms >= self._until_ms:
            self.end()
        if not source.open:
            return

        def done(reply: Any) -> None:
            self._heard(source, reply)
            pause_ms = BUSY_PAUSE_MS
            if isinstance(reply, list) and reply:
                pause_ms = BATCH_PAUSE_MS
                for key, blob in zip(reply[1::2], reply[2::2], strict=False):
                    if isinstance(key, bytes) and isinstance(blob, bytes):
                        self._fetched(key, blob, asked_ms)
                if not reply[0]:
                    source.open = False
                    self._close_if_done()
            if source.open:
                self._peers.after(pause_ms, lambda: self._fetch(source))

        self._peers.ask(source.shard, (b"SC.DRAIN", *self._head), BATCH_DEADLINE_MS, done)

    def _fetched(self, key: bytes, blob: bytes, asked_ms: int) -> None:
        ask = self._asking.get(key)
        if ask is None and key in self._touched:
            self.refused += 1
            return
        if self._former.primary(key).id not in self._sources:
            return
        self._touched.add(key)
        if ask is None:
            ask = self._asking[key] = _Ask()
            self._arrived(key, blob, asked_ms)
            del self._asking[key]
        else:
            self._arrived(key, blob, asked_ms)

    def _arrived(self, key: bytes, blob: bytes, asked_ms: int) -> None:
        """Store what came for a key that is being asked for, if it is still the newest that there is of it."""
        ask = self._asking[key]
        try:
            parcel = unpack_entry(blob)
        except ValueError:
            self.refused += 1  # what can't be read is a miss
            return
        expires_ms = NEVER_MS if parcel.left_ms is None else asked_ms + parcel.left_ms
        late = self._engine.now_ms() >= min(self._until_ms, expires_ms)
        if self._ended or ask.void or late or not self._ticket.admits(namespace_of(key), parcel.tags):
            self.refused += 1
            return
        ask.void = True  # once
        self.taken += 1
        self._engine.put(
            key,
            parcel.payload,
            expires_ms=expires_ms,
            tags=parcel.tags,
            cost_s=parcel.cost_s,
            codec=parcel.codec,
            metadata=parcel.metadata,
        )

    # -- the end -------------------------------------------------------------------------------------------------

    def _heard(self, source: _Source, reply: Any) -> None:
        """Give a former owner up that refuses, or that has not answered for a while."""
        source.failures = source.failures + 1 if reply is None else 0
        refused = isinstance(reply, Refused) and not reply.is_early
        if refused or source.failures >= FAILURES_MAX:
            source.open = False
            self._close_if_done()

    def _close_if_done(self) -> None:
        if not self.open and not self._asking:
            self.end()


def _all(futures: Sequence[Future[None]]) -> Future[None]:
    """Done when all are."""
    if len(futures) == 1:
        return futures[0]
    done: Future[None] = Future()
    left = len(futures)

    def one(_: Future[None]) -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set_result(None)

    for future in futures:
        future.add_done_callback(one)
    return done
