"""The gate for everything that arrives late: fills, promotions, pulls from elsewhere.

Whoever begins work whose result will be stored later opens a ticket; when the result arrives it is admitted only if no
invalidation since then touches its key, one of its tags, or its namespace. Tags may be known only at the end, so marks
are compared by sequence number; keys are known from the start, so an invalidation of a key voids its tickets directly.

Invariants: `seq` only grows, and puts and invalidations share it; a mark is kept as long as any open ticket is older;
when there are more marks than the bound, every ticket that is open is refused instead (a miss, never a stale value).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MARKS_MAX: Final = 100_000
TAG: Final = b"t"
NAMESPACE: Final = b"n"


class Marks:
    """The last invalidation of each tag and namespace, and of everything, by sequence number."""

    __slots__ = ("clear_seq", "namespaces", "tags")

    def __init__(self) -> None:
        self.clear_seq = -1
        self.namespaces: dict[bytes, int] = {}
        self.tags: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self.namespaces) + len(self.tags) + (self.clear_seq >= 0)

    def of_kind(self, kind: bytes) -> dict[bytes, int]:
        """The marks of tags (`t`) or of namespaces (`n`)."""
        return self.tags if kind == TAG else self.namespaces

    def clear(self) -> None:
        """Forget all marks."""
        self.clear_seq = -1
        self.namespaces.clear()
        self.tags.clear()

    def covers(self, asked_at: int, namespace: bytes, tags: Iterable[bytes]) -> bool:
        """Whether something that was asked for at `asked_at` has been invalidated since."""
        if asked_at < self.clear_seq:
            return True
        if self.namespaces and asked_at < self.namespaces.get(namespace, -1):
            return True
        marks = self.tags
        return bool(marks) and any(asked_at < marks.get(tag, -1) for tag in tags)


class Ticket:
    """Somebody's right to store a value later, if nothing happens to it meanwhile."""

    __slots__ = ("asked_at", "key", "open", "void")

    def __init__(self, key: bytes, asked_at: int) -> None:
        self.key = key
        self.asked_at = asked_at
        self.void = False
        self.open = True


class Standing:
    """A ticket for whatever arrives from elsewhere while it stands, dated at its opening; see `InvalidationGate.stand`.

    `on_key` hears of each key that is invalidated by key; who puts has to tell of it himself. Too many marks make it
    refuse everything.
    """

    __slots__ = ("asked_at", "full", "marks", "on_key")

    def __init__(self, asked_at: int, on_key: Callable[[bytes], object]) -> None:
        self.asked_at = asked_at
        self.marks = Marks()
        self.on_key = on_key
        self.full = False

    def admits(self, namespace: bytes, tags: Iterable[bytes]) -> bool:
        """Whether nothing since the opening has invalidated what carries these tags in this namespace."""
        return not self.full and not self.marks.covers(self.asked_at, namespace, tags)

    def note(self, kind: bytes, names: Iterable[bytes], seq: int) -> None:
        """Take note of an invalidation."""
        if self.full:
            return
        self.marks.of_kind(kind).update(dict.fromkeys(names, seq))
        if len(self.marks) > MARKS_MAX:
            self.full = True
            self.marks.clear()


class InvalidationGate:
    """Counts puts and invalidations of the node, and judges what arrives late."""

    def __init__(self, seq: int = 0) -> None:
        self.seq = seq
        self._marks = Marks()
        self._floor_seq = -1
        self.by_key: dict[bytes, list[Ticket]] = {}
        """Open tickets; the hot path looks whether there are any."""
        self._by_age: deque[Ticket] = deque()
        self._standing: list[Standing] = []

    def stand(self, on_key: Callable[[bytes], object]) -> Standing:
        """Open a ticket that stands for any number of keys until it is `dismiss`ed; single ones cost memory each."""
        standing = Standing(self.seq, on_key)
        self._standing.append(standing)
        return standing

    def dismiss(self, standing: Standing) -> None:
        """End a standing ticket; ending it twice is harmless."""
        if standing in self._standing:
            self._standing.remove(standing)

    def open(self, key: bytes) -> Ticket:
        """Open a ticket for a key; close it when the work is done or given up."""
        ticket = Ticket(key, self.seq)
        self.by_key.setdefault(key, []).append(ticket)
        self._by_age.append(ticket)
        return ticket

    def close(self, ticket: Ticket) -> None:
        """Give a ticket back; closing twice is harmless."""
        if not ticket.open:
            return
        ticket.open = False
        tickets = self.by_key[ticket.key]
        tickets.remove(ticket)
        if not tickets:
            del self.by_key[ticket.key]
        ages = self._by_age
        while ages and not ages[0].open:
            ages.popleft()
        if not ages and len(self._marks):
            self._marks = Marks()

    def admits(self, ticket: Ticket, namespace: bytes, tags: Iterable[bytes]) -> bool:
        """Whether the value that was asked for with this ticket may still be stored."""
        if ticket.void or not ticket.open or ticket.asked_at < self._floor_seq:
            return False
        return not self._marks.covers(ticket.asked_at, namespace, tags)

    def void_key(self, key: bytes) -> None:
        """Take note that a key was put or invalidated."""
        for ticket in self.by_key.get(key, ()):
            ticket.void = True
        for standing in self._standing:
            standing.on_key(key)

    def next_seq(self) -> int:
        """Count one put or invalidation and give its number."""
        self.seq += 1
        return self.seq

    def mark_tags(self, tags: Iterable[bytes]) -> int:
        """Take note that tags were invalidated; gives the number of the invalidation."""
        seq = self.next_seq()
        if self._by_age:
            self._marks.tags.update(dict.fromkeys(tags, seq))
            self._bound()
        for standing in self._standing:
            standing.note(TAG, tags, seq)
        return seq

    def mark_namespace(self, namespace: bytes) -> int:
        """Take note that a namespace was invalidated; gives the number of the invalidation."""
        seq = self.next_seq()
        if self._by_age:
            self._marks.namespaces[namespace] = seq
            self._bound()
        for standing in self._standing:
            standing.note(NAMESPACE, (namespace,), seq)
        return seq

    def mark_clear(self) -> int:
        """Take note that everything was invalidated; gives the number of the invalidation."""
        seq = self.next_seq()
        if self._by_age:
            self._marks = Marks()
            self._marks.clear_seq = seq
        for standing in self._standing:
            standing.marks.clear_seq = seq
        return seq

    def _bound(self) -> None:
        if len(self._marks) > MARKS_MAX:
            self._floor_seq = self.seq
            self._marks = Marks()

    def validate(self) -> None:
        """Check the internals; raises AssertionError with what is wrong."""
        open_tickets = [ticket for ticket in self._by_age if ticket.open]
        assert sum(map(len, self.by_key.values())) == len(open_tickets)
        assert all(ticket in self.by_key[ticket.key] for ticket in open_tickets)
        assert open_tickets or not len(self._marks)
