"""The asyncio shell: runs the same operations as the blocking one, on the loop of the caller.

Invariants: every call of an Exchange is written before any is awaited; cancelling a caller leaves its connection and
everybody else's calls intact; background operations are held until they end or the shell is closed.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any, TypeVar

from stratacache.client.core.counters import LOGGER
from stratacache.client.core.effects import (
    Call,
    Compute,
    Discover,
    Exchange,
    Join,
    Operation,
    ShardFailure,
    Sleep,
    Spawn,
)
from stratacache.client.core.flight import Flight
from stratacache.client.core.leases import LEASING, release_in_background, unclaimed
from stratacache.client.core.state import Core
from stratacache.client.transport.aio_connection import AioConnection, AioPool, Late, open_aio
from stratacache.client.transport.aio_watch import AioWatcher
from stratacache.client.transport.connection import CONNECTION_ERRORS, failure_of
from stratacache.client.transport.runner import CLOSED
from stratacache.client.view import ShardInfo, View
from stratacache.node.errors import UsageError

T = TypeVar("T")


class AioShell:
    """Streams, sleeping and the user's functions, for the operations of one core in one loop."""

    def __init__(self, core: Core, *, discover: Callable[[float], View | None]) -> None:
        self._core = core
        self._discover = discover
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.pools: dict[str, AioPool] = {}
        self.closed = False
        self._watching: asyncio.Task[None] | None = None
        if core.near is not None:
            core.near.listen = self._listen

    def _listen(self) -> None:
        """Begin to hear pushes, if nobody does in this loop."""
        near = self._core.near
        if self._watching is None and near is not None and not self.closed:
            watcher = AioWatcher(self._core, near, self._open_watching, self.run)
            self._watching = self._loop.create_task(watcher.listen())

    async def _open_watching(self, shard: ShardInfo) -> AioConnection:
        return await open_aio(shard, self._core, self._core.tls, watch=True)

    async def run(self, operation: Operation[T]) -> T:
        """Carry an operation out to its result."""
        try:
            effect = operation.send(None)
            while True:
                try:
                    outcome = await self._perform(effect)
                except BaseException as error:  # noqa: BLE001 - the operation decides
                    effect = operation.throw(error)
                else:
                    effect = operation.send(outcome)
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def _perform(self, effect: Any) -> Any:
        kind = type(effect)
        if kind is Exchange:
            return await self.exchange(effect)
        if kind is Compute:
            begun = time.perf_counter()
            result = effect.function(*effect.arguments)
            if inspect.isawaitable(result):
                result = await result
            return result, time.perf_counter() - begun
        if kind is Sleep:
            return await asyncio.sleep(effect.seconds)
        if kind is Join:
            return await self._join(effect.flight, effect.deadline - time.monotonic())
        if kind is Discover:
            return await self._loop.run_in_executor(None, self._discover, effect.timeout_s)
        if kind is Spawn:
            self.spawn(effect.operation).add_done_callback(_note_failure)
            return None
        raise TypeError(f"{effect!r} is no effect")

    def spawn(self, operation: Operation[Any]) -> asyncio.Task[Any]:
        """Run an operation as a task of its own, which no caller's cancellation reaches."""
        task = self._loop.create_task(self.run(operation))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            LOGGER.debug("a background operation ended with %r", error)  # a flight: those who wait for it hear of it

    async def _join(self, flight: Flight, timeout_s: float) -> bool:
        landed = self._loop.create_future()

        def wake() -> None:
            if not landed.done():
                landed.set_result(None)

        def tell() -> None:
            self._loop.call_soon_threadsafe(wake)

        flight.when_landed(tell)
        if not flight.landed:
            await asyncio.wait((landed,), timeout=max(0.0, timeout_s))
        return flight.landed

    async def exchange(self, exchange: Exchange) -> list[list[Any] | ShardFailure]:
        """Write to every shard, then await each."""
        if self.closed:
            raise UsageError(CLOSED)
        asked_at = self._loop.time()
        deadline = exchange.deadline - time.monotonic() + asked_at
        calls = exchange.calls
        asked: list[Any] = []
        for call in calls:
            connection = self.pool(call.shard).shared
            if call.wait_s > 0 or connection is None or connection._room is not None:
                asked.append(asyncio.ensure_future(self._slowly(call, deadline)))
            else:
                asked.append((connection, connection.ask(call.commands, self._late(call))))
        try:
            return [
                await self._outcome(call, each, asked_at, deadline) for call, each in zip(calls, asked, strict=True)
            ]
        except BaseException:
            for call, each in zip(calls, asked, strict=True):
                self._abandon(call, each if isinstance(each, asyncio.Task) else each[1])
            raise

    def _late(self, call: Call) -> Late | None:
        """What to do with replies to a call that nobody waits for any more: leases are given back."""
        if call.commands[0][0] not in LEASING:
            return None

        def give_back(replies: list[Any]) -> None:
            held = unclaimed(call.commands, replies)
            if held and not self.closed:
                self.spawn(release_in_background(self._core, held))

        return give_back

    def _abandon(self, call: Call, asked: asyncio.Future[Any]) -> None:
        """Nobody waits for these replies any more: those that will come are late, and those that have come too."""
        if asked.cancel() or asked.cancelled() or asked.exception() is not None:
            return
        late = self._late(call)
        if late is not None and isinstance(replies := asked.result(), list):
            late(replies)

    async def _outcome(self, call: Call, asked: Any, asked_at: float, deadline: float) -> list[Any] | ShardFailure:
        if isinstance(asked, asyncio.Task):
            outcome: list[Any] | ShardFailure = await asked
            return outcome
        connection, future = asked
        return await self._replies(call, connection, future, asked_at, deadline)

    async def _replies(
        self, call: Call, connection: AioConnection, future: asyncio.Future[list[Any]], asked_at: float, deadline: float
    ) -> list[Any] | ShardFailure:
        try:
            async with asyncio.timeout_at(deadline):
                return await future
        except TimeoutError as error:
            if connection.heard_at <= asked_at:  # silent all the while: whoever waits on it would wait in vain
                connection.close()
            return failure_of(call.shard, error, sent=True)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever ended the connection ends this call
            return failure_of(call.shard, error, sent=True)

    async def _slowly(self, call: Call, deadline: float) -> list[Any] | ShardFailure:
        """The path of a call that has to open a connection, wait for room, or needs one of its own."""
        pool = self.pool(call.shard)
        try:
            async with asyncio.timeout_at(deadline):
                if call.wait_s > 0:
                    async with pool.alone() as connection:
                        replies: list[Any] = await connection.ask(call.commands)
                        return replies
                connection = await pool.open_shared()
                await connection.room()
        except ShardFailure as failure:
            return failure
        except CONNECTION_ERRORS as error:  # TimeoutError among them
            return failure_of(call.shard, error, sent=call.wait_s > 0)
        asked = connection.ask(call.commands, self._late(call))
        try:
            return await self._replies(call, connection, asked, self._loop.time(), deadline)
        except asyncio.CancelledError:
            self._abandon(call, asked)
            raise

    def pool(self, shard: ShardInfo) -> AioPool:
        """The pool of a shard; a new address or a new incarnation begins a new one."""
        found = self.pools.get(shard.id)
        if found is not None:
            if found.shard is shard:
                return found
            if found.shard == shard:
                found.shard = shard
                return found
            found.close()
        fresh = self.pools[shard.id] = AioPool(shard, self._core, self._core.tls)
        return fresh

    async def close(self) -> None:
        """End background operations and connections."""
        self.closed = True
        tasks = [*self._tasks, *([self._watching] if self._watching is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for pool in self.pools.values():
            pool.close()


def _note_failure(task: asyncio.Task[Any]) -> None:
    """For what nobody waits for."""
    if not task.cancelled() and (error := task.exception()) is not None:
        LOGGER.error("a background operation failed", exc_info=error)
