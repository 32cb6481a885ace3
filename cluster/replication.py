"""A shard's part in replication: what it hands on, what it takes, and how it comes back to what it missed.

Pure but for the hooks that its shell sets: `ask` puts a question to another shard, `after` comes back later, `failed`
hears of what must not have failed: it may have been done by half.

Invariants:
- a change is begun only while this shard is the first link of the key's chain and may serve;
- what a dropped peer may not have is noted as missed by it, and is readable here only when those that are left have it;
- an entry from another owner is stored only if nothing touched its key, tags or namespace since it was asked for, and
  it is never asked for while a change of the key is on its way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from stratacache.cluster.chains import HELD, Chains
from stratacache.cluster.replicated import when_done
from stratacache.cluster.streams import Change, Inflow, Outbox, Words
from stratacache.node.entry import Entry
from stratacache.node.errors import UnavailableError
from stratacache.node.handoff import then_ask
from stratacache.node.resp.replies import CommandError

if TYPE_CHECKING:
    from stratacache.client.view import View
    from stratacache.cluster.replicated import ReplicatedCache
    from stratacache.node.gate import Ticket

NOT_APPLIED: Final = "a change of another shard could not be applied"
SYNC_KEYS: Final = 1024
SYNC_BATCH: Final = 64
SYNC_AGAIN_MS: Final = 1000
MISSING_MS: Final = 600_000
"""How long a shard that came back asks others for what it does not find, when it never gets through their keys."""


class Replication:
    """Replication as one shard sees it. `missed` is told of keys that a suspended shard may not know the last of."""

    def __init__(
        self,
        shard: str,
        engine: ReplicatedCache,
        *,
        may_serve: Callable[[], bool],
        missed: Callable[[str, Sequence[bytes]], None],
    ) -> None:
        self.engine = engine
        self.chains = Chains(shard)
        self.outbox = Outbox()
        self.inflow = Inflow()
        self.ask: Callable[[str, Words], Future[Any]] = _nobody
        self.after: Callable[[float, Callable[[], None]], object] = _never
        self.failed: Callable[[str, BaseException], object] = _unheard
        self.pulled = 0
        self._may_serve = may_serve
        self._missed = missed
        self._aside: list[Change] = []
        self._pulls: dict[bytes, Future[Entry | None]] = {}
        self._missing_until_ms = 0
        self._unsynced: dict[str, str] = {}
        engine.attach(self)

    # -- views ---------------------------------------------------------------------------------------------------

    def prepare(self, view: View) -> None:
        """The shard is to prepare a view: keys whose chains change are held, who is out of it is not waited for."""
        self.chains.prepare(view)
        self._follow()

    def activate(self, view: View, *, returns: bool) -> None:
        """The view is in force; with `returns` it is the one that lets this shard in again."""
        self.chains.activate(view)
        self._follow()
        aside, self._aside = self._aside, []
        for change in aside:
            self._send_again(change)
        if returns:
            self._come_back()

    def _follow(self) -> None:
        peers = self.chains.peers
        self.inflow.follow(peers)
        newest = self.chains.newest
        relays = newest is not None and newest.replicas > 2
        for peer, change in self.outbox.follow(peers, relays=relays):
            if change.keys:
                self._missed(peer, change.keys)
            self.outbox.set_aside(change)
            self._aside.append(change)
        waiting, self._aside = self._aside, []
        for change in waiting:
            self._note_missed(change)
            if any(self.chains.behind(key) for key in change.keys):
                self._aside.append(change)  # somebody else is to have it, once the view is in force
            else:
                self.outbox.settle(change)

    def _note_missed(self, change: Change) -> None:
        """A change on its way to an owner that is gone never reached those behind it, should they be gone as well."""
        for key in change.keys:
            for shard in self.chains.away(key):
                self._missed(shard, (key,))

    def _send_again(self, change: Change) -> None:
        behind = [(peer, key) for key in change.keys if (peer := self.chains.successor(key)) is not None]
        change.waiting += len(behind)
        for peer, key in behind:
            self.outbox.resend(change, peer, self.engine.words_of(key))
        self.outbox.settle(change)

    # -- changes made here ---------------------------------------------------------------------------------------

    def begin(self, key: bytes, size: int = 0) -> str | None:
        """To whom a change of this key, of so many bytes, goes on; raises when it may not be made here and now."""
        if not self._may_serve():
            raise CommandError(HELD)
        self.chains.check_change(key)
        peer = self.chains.successor(key)
        if peer is not None:
            self.outbox.check_room(peer, size)
        return peer

    def check_room(self, words: Sequence[bytes] = ()) -> None:
        """Refuse what concerns all peers when one can take no more."""
        size = sum(map(len, words))
        for peer in self.chains.peers:
            self.outbox.check_room(peer, size)

    def spread(self, words: Words) -> Future[None] | None:
        """Hand an invalidation of many keys on to all peers, behind every put that was made here before it.

        A put reaches the third owner through the second: then it is waited for first.
        """
        if not self.chains.peers:
            return None
        view = self.chains.view
        if view is None or view.replicas <= 2:
            return self._spread_now(words).future
        return then_ask(self.outbox.drained(), lambda _: self._spread_now(words).future)

    def _spread_now(self, words: Words) -> Change:
        change = self.outbox.send(dict.fromkeys(self.chains.peers, words))
        if not self.chains.peers:
            self.outbox.settle(change)
        return change

    # -- changes that come from other shards ----------------------------------------------------------------------

    def open(self, sender: tuple[str, str, int]) -> tuple[int, list[Future[None]]]:
        """A stream of another shard begins or goes on."""
        return self.inflow.open(sender)

    def take(self, sender: tuple[str, str, int], seq: int, words: Sequence[bytes]) -> Future[None] | None:
        """Apply one item of a stream."""
        return self.inflow.take(sender, seq, lambda: self._apply(words))

    def _apply(self, words: Sequence[bytes]) -> Future[None] | None:
        try:
            future = self.engine.apply(words)
        except Exception as error:
            self.failed(NOT_APPLIED, error)
            raise
        if future is not None:
            future.add_done_callback(self._check_applied)
        return future

    def _check_applied(self, future: Future[None]) -> None:
        error = future.exception()
        if error is not None:
            self.failed(NOT_APPLIED, error)

    # -- what a shard missed -------------------------------------------------------------------------------------

    def held(self, key: bytes) -> Entry | Future[Entry | None] | None:
        """What this shard has under a key, for another owner that lacks it."""
        return self.engine.settled(key)

    def shared(self, shard: str, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """Keys held here that another shard owns too, step by step."""
        return self.engine.scan(cursor, count, lambda key: self.chains.is_owner(shard, key))

    def is_missing(self, now_ms: int) -> bool:
        """Whether a key that is not found here may be held by another owner."""
        return now_ms < self._missing_until_ms

    def pull(self, key: bytes) -> Future[Entry | None]:
        """Ask the other owners for a key, one after the other."""
        known = self._pulls.get(key)
        if known is not None:
            return known
        result: Future[Entry | None] = Future()
        self._pulls[key] = result
        self._ask_next(key, self.engine.gate.open(key), self.chains.others(key), result)
        return result

    def _ask_next(self, key: bytes, ticket: Ticket, peers: list[str], result: Future[Entry | None]) -> None:
        def finish(found: Any) -> None:
            self.engine.gate.close(ticket)
            self._pulls.pop(key, None)
            when_done(found, lambda entry: None if result.done() else result.set_result(entry))  # it may be cancelled

        if not peers or key in self.outbox.unsettled:
            finish(self.engine.settled(key))
            return

        asked_ms = self.engine.now_ms()

        def answered(done: Future[Any]) -> None:
            found = _pulled(done, 1)
            if found is not None and found[0] is not None:
                self.pulled += 1
                finish(self.engine.install(key, ticket, found[0], asked_ms))
            else:
                self._ask_next(key, ticket, peers[1:], result)

        self._hear(peers[0], (b"SC.PULL", key), answered)

    def _hear(self, peer: str, words: Words, answered: Callable[[Future[Any]], None]) -> None:
        """Ask a peer. A step that fails may not end here, where a future would swallow it and others wait for ever."""

        def step(done: Future[Any]) -> None:
            try:
                answered(done)
            except Exception as error:
                self.failed("what to do with an entry of another owner", error)
                raise

        self.ask(peer, words).add_done_callback(step)

    def _come_back(self) -> None:
        self._missing_until_ms = self.engine.now_ms() + MISSING_MS
        self._unsynced = dict(self.chains.peers)
        for peer, incarnation in list(self._unsynced.items()):
            self._sync(peer, incarnation, 0)
        self._check_synced()

    def _check_synced(self) -> None:
        if not self._unsynced:
            self._missing_until_ms = 0

    def _sync(self, peer: str, incarnation: str, cursor: int) -> None:
        """Take over what a peer has of the keys that it shares with this shard."""
        if self._unsynced.get(peer) != incarnation or self.chains.peers.get(peer) != incarnation:
            if self._unsynced.get(peer) == incarnation:
                del self._unsynced[peer]
                self._check_synced()
            return

        def again() -> None:
            self._sync(peer, incarnation, cursor)

        def listed(done: Future[Any]) -> None:
            page = _listed(done)
            if page is None:
                self.after(SYNC_AGAIN_MS, again)
                return
            following, keys = page
            self._sync_batch(peer, [key for key in keys if not self._has(key)], lambda: go_on(following), again)

        def go_on(following: int) -> None:
            if following:
                self._sync(peer, incarnation, following)
            elif self._unsynced.pop(peer, None) is not None:
                self._check_synced()

        me = self.chains.shard.encode()
        self._hear(peer, (b"SC.SHARED", me, b"%d" % cursor, b"%d" % SYNC_KEYS), listed)

    def _has(self, key: bytes) -> bool:
        engine = self.engine
        entry = engine.residents.find(key)  # one that was dropped stays until it is swept: it is no copy
        if entry is not None and entry.expires_ms > engine.now_ms():
            return True
        return engine.l3 is not None and engine.l3.holds(key)

    def _sync_batch(self, peer: str, keys: list[bytes], done: Callable[[], None], failed: Callable[[], None]) -> None:
        left = [key for key in keys if key not in self.outbox.unsettled]
        wanted = left[:SYNC_BATCH]
        if not wanted:
            done()
            return
        tickets = [self.engine.gate.open(key) for key in wanted]
        asked_ms = self.engine.now_ms()

        def answered(reply: Future[Any]) -> None:
            found = _pulled(reply, len(wanted))
            for key, ticket, fields in zip(wanted, tickets, found or (), strict=False):
                if fields is not None:
                    self.pulled += 1
                    self.engine.install(key, ticket, fields, asked_ms)
            for ticket in tickets:
                self.engine.gate.close(ticket)
            if found is None:
                self.after(SYNC_AGAIN_MS, failed)
            else:
                self._sync_batch(peer, left[len(found) :], done, failed)

        self._hear(peer, (b"SC.PULL", *wanted), answered)


def _pulled(answer: Future[Any], count: int) -> list[list[Any] | None] | None:
    """The entries of an answer to SC.PULL, of the first keys at least, None for those that the peer lacks.

    None when it is no such answer.
    """
    found = answer.result() if answer.exception() is None else None
    if not isinstance(found, list) or not 1 <= len(found) <= count:
        return None
    return found if all(fields is None or _is_entry(fields) for fields in found) else None


def _is_entry(fields: Any) -> bool:
    match fields:
        case [int(), bytes(), int(), bytes(cost), bytes(), *tags]:
            return _is_number(cost) and all(isinstance(tag, bytes) for tag in tags)
    return False


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _listed(answer: Future[Any]) -> tuple[int, list[bytes]] | None:
    """Where to go on, and the keys, of an answer to SC.SHARED; None when it is no such answer."""
    match answer.result() if answer.exception() is None else None:
        case [bytes(cursor), [*keys]] if cursor.isdigit() and all(isinstance(key, bytes) for key in keys):
            return int(cursor), keys
    return None


def _nobody(peer: str, _words: Words) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(UnavailableError(f"{peer} can't be asked"))
    return future


def _unheard(_why: str, _error: BaseException) -> None:
    """No shell yet."""


def _never(_ms: float, _fn: Callable[[], None]) -> None:
    """No shell yet."""
