"""Connections to one shard, shared by the threads of a process.

Invariants: the last one returned is the first one taken (it is warm, and the others may age out); at most `limit` are
open at a time and a thread that finds none waits until the deadline; a failure closes all that are idle, for they lead
to the same process; a forked child starts with none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from stratacache.client.core.effects import ShardFailure
from stratacache.client.transport.connection import Connection
from stratacache.client.view import ShardInfo


class Pool:
    """Idle connections as a stack; `open_new` makes one more."""

    __slots__ = ("_condition", "_limit", "_open", "_open_new", "closed", "idle", "shard")

    def __init__(self, shard: ShardInfo, limit: int, open_new: Callable[[ShardInfo, float], Connection]) -> None:
        self.shard = shard
        self.idle: list[Connection] = []  # list.pop and list.append are atomic: the fast path takes no lock
        self.closed = False
        self._limit = limit
        self._open = 0
        self._open_new = open_new
        self._condition = threading.Condition(threading.Lock())

    def take(self, deadline: float) -> Connection:
        """An idle connection, or a new one. Raises ShardFailure."""
        try:
            return self.idle.pop()
        except IndexError:
            pass
        with self._condition:
            while self._open >= self._limit and not self.idle:
                left_s = deadline - time.monotonic()  # whoever comes past takes what a waiter was woken for
                if left_s <= 0 or not self._condition.wait(left_s):
                    raise ShardFailure(
                        self.shard.id, f"all {self._limit} connections are busy", sent=False, timed_out=True
                    )
            if self.idle:
                return self.idle.pop()
            self._open += 1
        try:
            return self._open_new(self.shard, deadline)
        except BaseException:
            self._gone()
            raise

    def give(self, connection: Connection) -> None:
        """Return a connection in good order."""
        if self.closed:
            self.drop(connection)
            return
        self.idle.append(connection)
        if self._open >= self._limit:
            with self._condition:
                self._condition.notify()

    def drop(self, connection: Connection) -> None:
        """Close a connection that must not be used again."""
        connection.close()
        self._gone()

    def drop_after(self, connection: Connection, error: BaseException) -> None:
        """Close a connection that failed; unless the shard was only slow, the idle ones are dead as well."""
        self.drop(connection)
        if not isinstance(error, BlockingIOError | TimeoutError):
            self.drop_idle()

    def drop_idle(self) -> None:
        """Close those that nobody uses now."""
        while True:
            try:
                connection = self.idle.pop()
            except IndexError:
                return
            self.drop(connection)

    def _gone(self) -> None:
        with self._condition:
            self._open -= 1
            self._condition.notify()

    def close(self) -> None:
        """Close the idle ones now and the others when they come back."""
        self.closed = True
        self.drop_idle()

    def forget(self) -> None:
        """After a fork: the sockets are the parent's; this process only closes its copies of their descriptors."""
        for connection in self.idle:
            connection.close()
        self.idle = []
        self._open = 0
        self._condition = threading.Condition(threading.Lock())
