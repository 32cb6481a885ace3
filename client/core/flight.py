"""One computation that several callers of this process wait for: threads and asyncio tasks alike.

Invariants: a flight lands exactly once, with a value or an error; nobody who waits can end it. Who joined before its
computation began is given what it brings: that is not older than he is. Who joined later may come after an invalidation
that the computation does not know of, and is given a value only with the owner's word that its lease was good.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any


class Flight:
    """The outcome to come of one computation."""

    __slots__ = ("_callbacks", "_event", "_lock", "begun", "error", "landed", "proven", "value", "void")

    def __init__(self) -> None:
        self.landed = False
        self.begun = False  # to compute
        self.proven = True  # no invalidation came between what it brings and its landing, as far as its owner knew
        self.void = False  # it brings nothing for those who want a value all the same
        self.value: Any = None
        self.error: BaseException | None = None
        self._lock = threading.Lock()
        self._event: threading.Event | None = None
        self._callbacks: list[Callable[[], None]] = []

    def land(self, value: Any = None, error: BaseException | None = None) -> None:
        """Give all waiters the outcome; only the first call counts."""
        with self._lock:
            if self.landed:
                return
            self.value, self.error, self.landed = value, error, True
            callbacks, self._callbacks = self._callbacks, []
            if self._event is not None:
                self._event.set()
        for callback in callbacks:
            callback()

    def when_landed(self, callback: Callable[[], None]) -> None:
        """Call back once, from the landing thread, or at once when it has landed already."""
        with self._lock:
            if not self.landed:
                self._callbacks.append(callback)
                return
        callback()

    def wait(self, timeout_s: float) -> bool:
        """Block this thread until it has landed; False when the time is over."""
        with self._lock:
            if self.landed:
                return True
            if self._event is None:
                self._event = threading.Event()
            event = self._event
        return event.wait(timeout_s)

    def serves(self, early: bool) -> bool:
        """Whether the outcome is for who joined, `early`: before the computation began."""
        return self.error is not None or (not self.void and (early or self.proven))

    @property
    def abandoned(self) -> bool:
        """Whether it ended because its caller was stopped (Ctrl-C, exit), which is no outcome of the computation."""
        return self.error is not None and not isinstance(self.error, Exception)

    def result(self) -> Any:
        """The value, or the error raised again."""
        if self.error is not None:
            raise self.error
        return self.value


class Flights:
    """The flights of a process by key."""

    __slots__ = ("_flights", "_lock")

    def __init__(self) -> None:
        self._flights: dict[tuple[bytes, bool], Flight] = {}
        self._lock = threading.Lock()

    def board(self, key: bytes, *, refresh: bool) -> tuple[Flight, bool]:
        """The flight of a key, and whether the caller is the one who must run it.

        One that refreshes a cached value is apart from one that fills a miss: who asks for a new value must not be
        given the old one.
        """
        with self._lock:
            flight = self._flights.get((key, refresh))
            if flight is not None:
                return flight, False
            flight = self._flights[key, refresh] = Flight()
            return flight, True

    def leave(self, key: bytes, flight: Flight, *, refresh: bool) -> None:
        """Take a flight out before it lands, so that the next caller begins another."""
        with self._lock:
            if self._flights.get((key, refresh)) is flight:
                del self._flights[key, refresh]

    def forget(self, keys: Iterable[bytes] | None = None) -> None:
        """These keys, or all, were invalidated: who comes from now on begins anew, and is not given what is older."""
        with self._lock:
            if keys is None:
                self._flights.clear()
            elif self._flights:
                for key in keys:
                    self._flights.pop((key, False), None)
                    self._flights.pop((key, True), None)

    def reset_after_fork(self) -> None:
        """Forget the flights of the parent: their threads do not exist here."""
        self._flights = {}
        self._lock = threading.Lock()
