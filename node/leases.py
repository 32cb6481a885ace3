"""Fill leases: on a miss one caller computes, the others wait for its fill (Nishtala et al., NSDI 2013).

Invariants: at most one live lease per key; a lease ends exactly once (filled, voided, released, or run out), and then
its waiters are answered or the next of them gets a new lease, so nobody waits for a caller who is gone; the number of
leases is bounded, past it callers are told to compute without one.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from .entry import Entry
    from .gate import InvalidationGate, Ticket

WAITERS_MAX: Final = 4096


class LeaseState(Enum):
    """What a caller who asked for a lease is told."""

    HIT = "HIT"  # the value is there
    LEASE = "LEASE"  # compute it and put it with the token
    TIMEOUT = "TIMEOUT"  # nobody filled it in time: compute it without a lease
    BUSY = "BUSY"  # another caller holds the lease, and you did not want to wait


@dataclass(frozen=True, slots=True)
class LeaseReply:
    """Answer to a request for a lease: `entry` with HIT, `token` with LEASE."""

    state: LeaseState
    entry: Entry | None = None
    token: bytes = b""


_TIMEOUT: Final = LeaseReply(LeaseState.TIMEOUT)
_BUSY: Final = LeaseReply(LeaseState.BUSY)


class _Waiter:
    __slots__ = ("deadline_ms", "future", "hold_ms")

    def __init__(self, deadline_ms: int, hold_ms: int) -> None:
        self.future: Future[LeaseReply] = Future()
        self.deadline_ms = deadline_ms
        self.hold_ms = hold_ms

    def answer(self, reply: LeaseReply) -> None:
        """Answer, unless the waiter has gone away."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(reply)


class _Lease:
    __slots__ = ("deadline_ms", "ticket", "token", "waiters")

    def __init__(self, token: bytes, ticket: Ticket, deadline_ms: int, waiters: deque[_Waiter]) -> None:
        self.token = token
        self.ticket = ticket
        self.deadline_ms = deadline_ms
        self.waiters = waiters


class LeaseTable:
    """All leases of a node."""

    def __init__(self, gate: InvalidationGate, leases_max: int) -> None:
        self._gate = gate
        self.live: dict[bytes, _Lease] = {}
        """By key; the hot path looks whether there are any."""
        self._leases_max = leases_max
        self._count = 0
        self._deadlines: list[tuple[int, int, bytes]] = []
        self._deadlines_kept = 1024
        self.granted = 0
        self.refused = 0
        self.origin = b""
        """Begins every token: a lease of another shard, or of the process before, must not pass for one of this."""

    def __len__(self) -> int:
        return len(self.live)

    def answer(
        self, key: bytes, entry: Entry | None, wait_ms: int, hold_ms: int, now_ms: int
    ) -> LeaseReply | Future[LeaseReply]:
        """A hit where there is an entry to serve; else as `ask`."""
        if entry is not None:
            return LeaseReply(LeaseState.HIT, entry)
        return self.ask(key, wait_ms, hold_ms, now_ms)

    def ask(self, key: bytes, wait_ms: int, hold_ms: int, now_ms: int) -> LeaseReply | Future[LeaseReply]:
        """Grant the lease of a key that is not cached, or wait for who holds it."""
        lease = self.live.get(key)
        if lease is not None and lease.deadline_ms <= now_ms:
            self._end(key, lease, now_ms)
            lease = self.live.get(key)
        if lease is None:
            if len(self.live) >= self._leases_max:
                return _TIMEOUT
            return self._grant(key, hold_ms, now_ms, deque())
        if wait_ms <= 0:
            return _BUSY
        if len(lease.waiters) >= WAITERS_MAX:
            return _TIMEOUT
        waiter = _Waiter(now_ms + wait_ms, hold_ms)
        lease.waiters.append(waiter)
        self._note_deadline(waiter.deadline_ms, key)
        return waiter.future

    def _grant(self, key: bytes, hold_ms: int, now_ms: int, waiters: deque[_Waiter]) -> LeaseReply:
        self._count += 1
        self.granted += 1
        token = b"%b%x-%x" % (self.origin, self._gate.seq, self._count)
        lease = _Lease(token, self._gate.open(key), now_ms + hold_ms, waiters)
        self.live[key] = lease
        self._note_deadline(lease.deadline_ms, key)
        return LeaseReply(LeaseState.LEASE, token=token)

    def _note_deadline(self, deadline_ms: int, key: bytes) -> None:
        self._count += 1
        deadlines = self._deadlines
        heappush(deadlines, (deadline_ms, self._count, key))
        if len(deadlines) > self._deadlines_kept:
            # Most leases end long before their deadline: forget the deadlines of keys without a lease.
            self._deadlines = [item for item in deadlines if item[2] in self.live]
            heapify(self._deadlines)
            self._deadlines_kept = max(1024, 2 * len(self._deadlines))

    def admits(self, key: bytes, token: bytes, namespace: bytes, tags: tuple[bytes, ...], now_ms: int) -> bool:
        """Whether a fill may be stored. One that may not ends the lease, and the next waiter gets a new one."""
        lease = self.live.get(key)
        if lease is None or lease.token != token:
            self.refused += 1
            return False
        if lease.deadline_ms > now_ms and self._gate.admits(lease.ticket, namespace, tags):
            return True
        self.refused += 1
        self._end(key, lease, now_ms)
        return False

    def filled(self, key: bytes, entry: Entry) -> None:
        """A put of the key was stored: end its lease and answer those who wait."""
        lease = self.live.pop(key, None)
        if lease is None:
            return
        self._gate.close(lease.ticket)
        for waiter in lease.waiters:
            waiter.answer(LeaseReply(LeaseState.HIT, entry))

    def voided(self, key: bytes, now_ms: int) -> None:
        """The key was invalidated: end its lease; the next waiter computes afresh."""
        lease = self.live.get(key)
        if lease is not None:
            self._end(key, lease, now_ms)

    def drop(self, moves: Callable[[bytes], bool]) -> None:
        """End the leases of keys that another node answers for; there is nobody left to wait for."""
        for key in [key for key in self.live if moves(key)]:
            lease = self.live.pop(key)
            self._gate.close(lease.ticket)
            for waiter in lease.waiters:
                waiter.answer(_TIMEOUT)

    def release(self, key: bytes, token: bytes, now_ms: int) -> bool:
        """The holder gives its lease back unused."""
        lease = self.live.get(key)
        if lease is None or lease.token != token:
            return False
        self._end(key, lease, now_ms)
        return True

    def _end(self, key: bytes, lease: _Lease, now_ms: int) -> None:
        """End a lease without a fill: the first waiter who is still there gets a new one."""
        del self.live[key]
        self._gate.close(lease.ticket)
        waiters = lease.waiters
        while waiters:
            waiter = waiters.popleft()
            if waiter.deadline_ms <= now_ms:
                waiter.answer(_TIMEOUT)
                continue
            if waiter.future.set_running_or_notify_cancel():
                waiter.future.set_result(self._grant(key, waiter.hold_ms, now_ms, waiters))
                return

    def tick(self, now_ms: int) -> None:
        """End leases and waits whose time is over."""
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now_ms:
            key = heappop(deadlines)[2]
            lease = self.live.get(key)
            if lease is None:
                continue
            if lease.deadline_ms <= now_ms:
                self._end(key, lease, now_ms)
                continue
            staying: deque[_Waiter] = deque()
            for waiter in lease.waiters:
                if waiter.deadline_ms > now_ms:
                    staying.append(waiter)
                else:
                    waiter.answer(_TIMEOUT)
            lease.waiters = staying

    def validate(self) -> None:
        """Check the internals; raises AssertionError with what is wrong."""
        assert len(self.live) <= self._leases_max
        for key, lease in self.live.items():
            assert lease.ticket.open
            assert lease.ticket.key == key
