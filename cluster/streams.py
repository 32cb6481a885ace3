"""Changes on their way to other shards: one numbered FIFO stream to each peer, resumed after a break.

Pure: what is to be sent is taken from a Stream by whoever holds the connection, what was answered is told to it.

Invariants: items reach a peer in the order of their numbers, each is applied once, however often the connection breaks;
a stream ends with the incarnation that it leads to; what waits is bounded, and past the bound a change is refused
before it is made; a change is settled when every peer that it was sent to has answered, or is out of the view.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Final

from stratacache.node.errors import UnavailableError
from stratacache.node.resp.replies import CommandError

ITEMS_MAX: Final = 50_000
QUEUED_BYTES_MAX: Final = 128 << 20
"""Of all changes of a shard that wait for others: `ClusterConfig.memory_bytes` counts it. Half of it may wait for one,
or a peer that is slow would keep changes from the others too."""
ITEM_BYTES: Final = 512
"""What an item takes beside its words."""
WINDOW: Final = 4_000
"""Items that may be on a connection without an answer."""
WINDOW_BYTES: Final = 16 << 20
"""And how much of them."""

Words = tuple[bytes, ...]
OWN: Final = 0
RELAYED: Final = 1
Lane = tuple[str, int]
"""A peer, and whether the stream to it carries what began here or what is handed on for another.

A connection answers in order, so what began here waits for what is handed on there. In one stream three shards could
wait for each other in a circle; what is handed on ends at the third owner and waits for nothing.
"""


class Change:
    """Something that was done here and is on its way; `keys` are the ones that nobody may read here meanwhile."""

    __slots__ = ("future", "keys", "number", "waiting")

    def __init__(self, keys: Sequence[bytes], number: int) -> None:
        self.keys = keys
        self.number = number
        self.waiting = 0
        self.future: Future[None] = Future()


class Stream:
    """What goes to one incarnation of one peer in one lane."""

    def __init__(self, lane: Lane, incarnation: str) -> None:
        self.lane = lane
        self.peer = lane[0]
        self.incarnation = incarnation
        self.is_open = False
        self.bytes = 0
        self._seq = 0
        self._items: deque[tuple[int, Words, Change, int]] = deque()
        self._sent = 0
        self._sent_bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def add(self, words: Words, change: Change) -> None:
        """Queue an item; `words` are the command without its name and number."""
        self._seq += 1
        size = ITEM_BYTES + sum(map(len, words))
        self.bytes += size
        self._items.append((self._seq, (b"SC.REPL", b"%d" % self._seq, *words), change, size))

    def may_have(self, applied: int) -> bool:
        """Whether a peer can have applied items up to this number: no more than there ever were."""
        return 0 <= applied <= self._seq

    @property
    def has_more(self) -> bool:
        """Whether something waits for room on the connection."""
        return self.is_open and self._sent < min(len(self._items), WINDOW) and self._sent_bytes < WINDOW_BYTES

    def unsent(self) -> list[Words]:
        """What is to be written to the open connection now."""
        fresh: list[Words] = []
        if not self.has_more:
            return fresh
        for _, words, _, size in islice(self._items, self._sent, WINDOW):
            fresh.append(words)
            self._sent_bytes += size
            if self._sent_bytes >= WINDOW_BYTES:
                break
        self._sent += len(fresh)
        return fresh

    def opened(self, applied: int) -> list[Change]:
        """A connection stands, and the peer has applied items up to `applied`; gives the changes that it has."""
        self.is_open, self._sent, self._sent_bytes = True, 0, 0
        return self.answered(applied)

    def answered(self, seq: int) -> list[Change]:
        """The peer has applied everything up to `seq`; gives the changes that are done there."""
        done = []
        while self._items and self._items[0][0] <= seq:
            _, _, change, size = self._items.popleft()
            self.bytes -= size
            if self._sent:
                self._sent -= 1
                self._sent_bytes -= size
            done.append(change)
        return done

    def broken(self) -> None:
        """The connection is gone."""
        self.is_open, self._sent, self._sent_bytes = False, 0, 0

    def abandon(self) -> list[Change]:
        """The peer is out of the view: the changes that it may not have, in their order."""
        left = [item[2] for item in self._items]
        self._items.clear()
        self.bytes = 0
        self.broken()
        return left


class Outbox:
    """All streams of a shard, and the changes that are not settled."""

    def __init__(self) -> None:
        self.streams: dict[Lane, Stream] = {}
        self.unsettled: dict[bytes, Change] = {}
        """The last change of each key that not all who must have it have."""
        self.wake: Callable[[Lane], None] = _nobody
        """Told of a lane in which something was queued."""
        self.bytes = 0
        """What waits in all streams."""
        self._changes = 0
        self._open: dict[int, Change] = {}
        self._drains: deque[tuple[int, Future[None]]] = deque()

    def follow(self, peers: Mapping[str, str], *, relays: bool) -> list[tuple[str, Change]]:
        """Keep streams to these peers and incarnations; gives what those that are dropped may not have."""
        left: list[tuple[str, Change]] = []
        for lane, stream in list(self.streams.items()):
            if peers.get(stream.peer) != stream.incarnation:
                self.bytes -= stream.bytes
                left += [(stream.peer, change) for change in self.streams.pop(lane).abandon()]
        for peer, incarnation in peers.items():
            for number in (OWN, RELAYED)[: 1 + relays]:
                self.streams.setdefault((peer, number), Stream((peer, number), incarnation))
        return left

    def check_room(self, peer: str, size: int = 0) -> None:
        """Refuse a change of so many bytes that could not be queued; raises UnavailableError, and nothing was done."""
        stream = self.streams[peer, OWN]
        size += ITEM_BYTES
        share = QUEUED_BYTES_MAX // 2 if len(stream) else QUEUED_BYTES_MAX  # a value may be larger than half
        if len(stream) >= ITEMS_MAX or stream.bytes + size > share or self.bytes + size > QUEUED_BYTES_MAX:
            raise UnavailableError(f"{len(stream)} changes wait for {peer}: try again later")

    def send(self, items: Mapping[str, Words], keys: Sequence[bytes] = (), lane: int = OWN) -> Change:
        """Queue one change for some peers."""
        self._changes += 1
        change = Change(keys, self._changes)
        change.waiting = len(items)
        self._open[change.number] = change
        for key in keys:
            self.unsettled[key] = change
        for peer, words in items.items():
            self._add((peer, lane), words, change)
        return change

    def resend(self, change: Change, peer: str, words: Words) -> None:
        """Send a change to another peer than the one that is gone; it goes on waiting."""
        self._add((peer, OWN), words, change)

    def _add(self, lane: Lane, words: Words, change: Change) -> None:
        stream = self.streams[lane]
        before = stream.bytes
        stream.add(words, change)
        self.bytes += stream.bytes - before
        self.wake(lane)

    def opened(self, stream: Stream, applied: int) -> None:
        """A connection for a stream stands."""
        if self.streams.get(stream.lane) is stream:
            before = stream.bytes
            self._settle(stream.opened(applied), before - stream.bytes)

    def answered(self, stream: Stream, seq: int) -> None:
        """The peer has applied everything up to `seq`."""
        if self.streams.get(stream.lane) is stream:
            before = stream.bytes
            self._settle(stream.answered(seq), before - stream.bytes)

    def _settle(self, changes: Sequence[Change], freed: int) -> None:
        self.bytes -= freed
        for change in changes:
            self.settle(change)

    def settle(self, change: Change) -> None:
        """One peer less to wait for."""
        change.waiting -= 1
        if change.waiting > 0:
            return
        self._open.pop(change.number, None)
        for key in change.keys:
            if self.unsettled.get(key) is change:
                del self.unsettled[key]
        self._check_drains()
        change.future.set_result(None)

    def set_aside(self, change: Change) -> None:
        """A change can't be settled before the next view is in force: nobody is to wait for it until then."""
        self._open.pop(change.number, None)
        self._check_drains()

    def drained(self) -> Future[None]:
        """Done when everything that is on its way now is settled or set aside."""
        future: Future[None] = Future()
        self._drains.append((self._changes, future))
        self._check_drains()
        return future

    def _check_drains(self) -> None:
        while self._drains and next(iter(self._open), self._changes + 1) > self._drains[0][0]:
            self._drains.popleft()[1].set_result(None)


class Inflow:
    """The streams of other shards as they arrive here."""

    def __init__(self) -> None:
        self._peers: Mapping[str, str] = {}
        self._applied: dict[tuple[str, str, int], int] = {}
        self._pending: dict[tuple[str, str, int], dict[int, Future[None]]] = {}

    def follow(self, peers: Mapping[str, str]) -> None:
        """Take items from these incarnations only."""
        self._peers = dict(peers)
        for gone in [sender for sender in self._applied if peers.get(sender[0]) != sender[1]]:
            del self._applied[gone]
            self._pending.pop(gone, None)

    def _check(self, peer: str, incarnation: str) -> None:
        if self._peers.get(peer) != incarnation:
            raise CommandError(f"SUSPENDED 0 {peer} is not in the view")

    def open(self, sender: tuple[str, str, int]) -> tuple[int, list[Future[None]]]:
        """A connection of a peer's lane begins: the last number that was applied, and what of it is not done yet."""
        self._check(*sender[:2])
        pending = self._pending.setdefault(sender, {})
        return self._applied.setdefault(sender, 0), list(pending.values())

    def take(
        self, sender: tuple[str, str, int], seq: int, apply: Callable[[], Future[None] | None]
    ) -> Future[None] | None:
        """Apply an item unless it has been; done with the future, or now. Raises CommandError for a gap.

        An item that raises has not been applied; one whose future fails stays what its connection waits for.
        """
        self._check(*sender[:2])
        pending = self._pending.setdefault(sender, {})
        applied = self._applied.get(sender, 0)
        if seq <= applied:
            return pending.get(seq)
        if seq != applied + 1:
            raise CommandError(f"ERR item {seq} follows {applied}: one is missing")
        future = apply()
        self._applied[sender] = seq
        if future is None:
            return None
        pending[seq] = future
        future.add_done_callback(lambda done: None if done.exception() else pending.pop(seq, None))
        return pending.get(seq)


def _nobody(_lane: Lane) -> None:
    """No shell yet."""
