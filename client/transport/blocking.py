"""The blocking shell: runs operations on the calling thread, over pooled connections.

Invariants: every call of an Exchange is written before any is read; the outcome of each stands alone; a connection that
was interrupted (an exception of any kind) is closed, not returned.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from hiredis import ReplyError, pack_command

from stratacache.client.core.effects import Call, Command, Exchange, ShardFailure
from stratacache.client.core.reads import KEYS_PER_COMMAND
from stratacache.client.core.state import Core
from stratacache.client.transport.connection import (
    CONNECTION_ERRORS,
    Connection,
    failure_of,
    open_connection,
)
from stratacache.client.transport.pool import Pool
from stratacache.client.transport.runner import CLOSED, SLOW, Runner
from stratacache.client.transport.watch import Watcher
from stratacache.client.transport.wire import pack, pack_mget
from stratacache.client.view import ShardInfo, View
from stratacache.node.errors import UsageError

IDLE_CHECK_S = 1.0  # a connection that rested longer is looked at before a command that must not run twice


class BlockingShell(Runner):
    """Sockets, sleeping and the user's functions, for the operations of one core."""

    def __init__(self, core: Core, *, discover: Callable[[float], View | None]) -> None:
        super().__init__(discover)
        self._core = core
        self._lock = threading.Lock()
        self.pools: dict[str, Pool] = {}
        self.closed = False
        self._watcher: Watcher | None = None
        if core.near is not None:
            core.near.listen = self._listen

    def ask_one(self, key: bytes, command: Command, *, repeatable: bool = True) -> Any:
        """One command, one reply, on an idle connection of the primary: what most calls are, without the machinery.

        Anything out of the ordinary (no idle connection, a shard that failed lately, replicas, an error reply) is SLOW:
        the operation is run from the start and decides. A lost connection is SLOW too, but a ShardFailure when the
        command is not `repeatable`, for it may have been run, and when the deadline is over.
        """
        core = self._core
        ring = core.ring
        if not ring.usable or ring.view.replicas != 1:
            return SLOW
        shard = ring.primary(key)
        circuit = core.circuits.get(shard.id)
        pool = self.pools.get(shard.id)
        if pool is None or pool.shard is not shard or (circuit is not None and circuit.failures):
            return SLOW
        try:
            connection = pool.idle.pop()
        except IndexError:
            return SLOW
        if not repeatable and time.monotonic() - connection.used_at > IDLE_CHECK_S:
            pool.give(connection)
            return SLOW
        try:
            connection.set_timeout(core.options.deadline_s)
            reply = connection.ask(pack_command(command))
        except BaseException as error:
            pool.drop_after(connection, error)
            if isinstance(error, CONNECTION_ERRORS):
                core.shard_failed(shard.id)
                failure = failure_of(shard, error, sent=True)
                return SLOW if repeatable and not failure.timed_out else failure
            raise
        pool.give(connection)
        return SLOW if reply.__class__ is ReplyError else reply

    def ask_many(self, keys: list[Any], prefix: bytes) -> Any:
        """As `ask_one`, for many keys of a cache with one shard. `prefix` is that of their namespace."""
        core = self._core
        ring = core.ring
        if len(ring.shards) != 1 or not ring.usable or not 1 < len(keys) <= KEYS_PER_COMMAND:
            return SLOW
        shard = ring.shards[0]
        circuit = core.circuits.get(shard.id)
        pool = self.pools.get(shard.id)
        if pool is None or pool.shard is not shard or (circuit is not None and circuit.failures):
            return SLOW
        request = pack_mget(keys, prefix)
        if request is None:
            return SLOW
        try:
            connection = pool.idle.pop()
        except IndexError:
            return SLOW
        try:
            connection.set_timeout(core.options.deadline_s)
            connection.sock.sendall(request)
            reply = connection.receive_values(time.monotonic() + core.options.deadline_s)
        except BaseException as error:
            pool.drop_after(connection, error)
            if isinstance(error, CONNECTION_ERRORS):
                core.shard_failed(shard.id)
                failure = failure_of(shard, error, sent=True)
                return failure if failure.timed_out else SLOW
            raise
        connection.used_at = time.monotonic()
        pool.give(connection)
        return SLOW if reply.__class__ is ReplyError else reply

    def exchange(self, exchange: Exchange) -> list[list[Any] | ShardFailure]:
        """Write to every shard, then read from each."""
        if self.closed:
            raise UsageError(CLOSED)
        outcomes: list[Any] = []
        flying: list[tuple[int, Call, Pool, Connection]] = []
        try:
            for at, call in enumerate(exchange.calls):
                try:
                    pool, connection = self._send(call, exchange.deadline)
                except ShardFailure as failure:
                    outcomes.append(failure)
                else:
                    outcomes.append(None)
                    flying.append((at, call, pool, connection))
            while flying:
                at, call, pool, connection = flying[0]
                outcomes[at] = self._receive(call, pool, connection, exchange.deadline)
                del flying[0]
        except BaseException:
            for _, _, pool, connection in flying:
                pool.drop(connection)
            raise
        return outcomes

    def pool(self, shard: ShardInfo) -> Pool:
        """The pool of a shard; a new address or a new incarnation begins a new one."""
        found = self.pools.get(shard.id)
        if found is not None and found.shard is shard:
            return found
        with self._lock:
            found = self.pools.get(shard.id)
            if found is not None and found.shard == shard:
                found.shard = shard
                return found
            if found is not None:
                found.close()
            fresh = self.pools[shard.id] = Pool(shard, self._core.options.connections_max, self._open)
            return fresh

    def _open(self, shard: ShardInfo, deadline: float) -> Connection:
        return open_connection(shard, self._core, self._core.tls, deadline)

    def _send(self, call: Call, deadline: float) -> tuple[Pool, Connection]:
        pool = self.pool(call.shard)
        connection = pool.take(deadline)
        now = time.monotonic()
        while not call.repeatable and now - connection.used_at > IDLE_CHECK_S and not connection.alive():
            pool.drop(connection)
            connection = pool.take(deadline)
        try:
            connection.set_timeout(deadline - now)
            connection.send(pack(call.commands))
        except CONNECTION_ERRORS as error:
            pool.drop_after(connection, error)
            raise failure_of(call.shard, error, sent=True) from error
        except BaseException:
            pool.drop(connection)
            raise
        return pool, connection

    def _receive(self, call: Call, pool: Pool, connection: Connection, deadline: float) -> list[Any] | ShardFailure:
        try:
            if len(call.commands) == 1 and call.commands[0][0] == b"SC.MGET":
                replies = [connection.receive_values(deadline)]
            else:
                replies = connection.receive(len(call.commands), deadline)
        except CONNECTION_ERRORS as error:
            pool.drop_after(connection, error)
            return failure_of(call.shard, error, sent=True)
        connection.used_at = time.monotonic()
        pool.give(connection)
        return replies

    def _listen(self) -> None:
        """Begin to hear pushes, if nobody does in this process."""
        near = self._core.near
        if self._watcher is not None or near is None or self.closed:
            return
        with self._lock:
            if self._watcher is None:
                self._watcher = Watcher(self._core, near, self._open_watching, self.run)

    def _open_watching(self, shard: ShardInfo, deadline: float) -> Connection:
        return open_connection(shard, self._core, self._core.tls, deadline, watch=True)

    def close(self) -> None:
        """Close all connections and stop listening."""
        self.closed = True
        if self._watcher is not None:
            self._watcher.stop()
        for pool in list(self.pools.values()):
            pool.close()

    def reset_after_fork(self) -> None:
        """Begin with no connections in a forked child."""
        self._lock = threading.Lock()
        if self._watcher is not None:
            self._watcher.abandon()
            self._watcher = None
        for pool in self.pools.values():
            pool.forget()
