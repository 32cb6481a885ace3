"""One asyncio connection to a shard: many tasks write to it, replies come back in order.

Invariants: replies are matched by position alone, so a caller that was cancelled or timed out leaves its place in the
queue and what arrives for it is handed to `late`, or thrown away; when the stream breaks, everybody in the queue is
told; what is queued for writing is bounded by the transport's high-water mark; a pool that was closed opens nothing and
keeps nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from hiredis import HiredisError, PushNotification, Reader

from stratacache.client.core.effects import Command, ShardFailure
from stratacache.client.core.state import Core
from stratacache.client.transport.connection import PARSER_KEEPS_BYTES, failure_of
from stratacache.client.transport.wire import check_greeting, greeting, pack
from stratacache.client.view import ShardInfo
from stratacache.node.errors import AccessError

Late: TypeAlias = Callable[[list[Any]], None]


class _Expected:
    """A place in the queue: `count` replies for one caller; `late` gets them when that one has gone."""

    __slots__ = ("count", "future", "late", "replies")

    def __init__(self, count: int, future: asyncio.Future[list[Any]], late: Late | None) -> None:
        self.count = count
        self.future = future
        self.late = late
        self.replies: list[Any] = []


class _Incomplete:
    """What the parser returns while a reply is not complete; None would be the null reply."""


_INCOMPLETE = _Incomplete()


class AioConnection(asyncio.Protocol):
    """A pipelined connection. `on_push` gets the pushes of a watching connection, `on_lost` its end."""

    def __init__(self, shard: ShardInfo, loop: asyncio.AbstractEventLoop) -> None:
        self.shard = shard
        self.closed = False
        self.heard_at = loop.time()
        self.on_push: Callable[[list[Any]], None] | None = None
        self.on_lost: Callable[[], None] | None = None
        self.on_read: Callable[[int], None] | None = None
        self._loop = loop
        self._joins = isinstance(loop, asyncio.BaseEventLoop)  # in 3.12.1 and 3.13.0 its writelines lets nobody pause
        self._reader = Reader(notEnoughData=_INCOMPLETE)
        self._reader.setmaxbuf(PARSER_KEEPS_BYTES)
        self._expected: deque[_Expected] = deque()
        self._transport: asyncio.Transport | None = None
        self._room: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = transport  # type: ignore[assignment]  # a stream protocol gets a stream transport
        self._transport.set_write_buffer_limits(high=8 << 20)  # type: ignore[union-attr]

    def data_received(self, data: bytes) -> None:
        """Called by the loop: hand complete replies to those who wait."""
        self.heard_at = self._loop.time()
        reader = self._reader
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _INCOMPLETE:
                if isinstance(reply, PushNotification):
                    if self.on_push is not None:
                        self.on_push(reply)
                    continue
                expected = self._expected[0]
                expected.replies.append(reply)
                if len(expected.replies) == expected.count:
                    self._expected.popleft()
                    if not expected.future.done():
                        expected.future.set_result(expected.replies)
                    elif expected.late is not None:
                        expected.late(expected.replies)
        except HiredisError as error:
            self._fail(error)
        except IndexError:
            self._fail(EOFError("the shard sent more than was asked for"))
        if self.on_read is not None and not self.closed:
            self.on_read(len(data))

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the loop."""
        self._fail(error or EOFError("the connection was closed"))

    def pause_writing(self) -> None:
        """Called by the loop: the kernel does not take more."""
        if self._room is None:
            self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        """Called by the loop."""
        if self._room is not None:
            if not self._room.done():
                self._room.set_result(None)
            self._room = None

    async def room(self) -> None:
        """Wait until more may be written."""
        while self._room is not None:
            await asyncio.shield(self._room)

    def ask(self, commands: Sequence[Command], late: Late | None = None) -> asyncio.Future[list[Any]]:
        """Write commands; the future of their replies. Nothing is awaited here.

        `late` is told the replies if they come when the future is done: who waited was cancelled, or had no more time.
        """
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        if self.closed or self._transport is None or self._transport.is_closing():
            future.set_exception(EOFError("the connection is closed"))
            return future
        self._expected.append(_Expected(len(commands), future, late))
        parts = pack(commands)
        if len(parts) > 1 and not self._joins:
            self._transport.writelines(parts)
        else:
            self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))
        return future

    def _fail(self, error: BaseException) -> None:
        if self.closed:
            return
        self.closed = True
        self.resume_writing()
        if self._transport is not None:
            self._transport.abort()
        for expected in self._expected:
            if not expected.future.done():
                expected.future.set_exception(error)
        self._expected.clear()
        if self.on_lost is not None:
            self.on_lost()

    def close(self) -> None:
        """End the connection; whoever waits is told."""
        self._fail(EOFError("the client closed the connection"))


async def open_aio(shard: ShardInfo, core: Core, tls: ssl.SSLContext | None, *, watch: bool = False) -> AioConnection:
    """Connect and greet, by the same rules as the blocking shell. Raises ShardFailure."""
    if shard.unix and (not shard.port or _worth_a_try(shard, core)):
        try:
            return await _attempt(shard, core, None, by_unix=True, watch=watch)
        except ShardFailure:
            if not shard.port:
                raise
    return await _attempt(shard, core, tls, by_unix=False, watch=watch)


def _worth_a_try(shard: ShardInfo, core: Core) -> bool:
    return core.options.use_unix and bool(shard.incarnation) and Path(shard.unix).exists()


async def _attempt(
    shard: ShardInfo, core: Core, tls: ssl.SSLContext | None, *, by_unix: bool, watch: bool
) -> AioConnection:
    loop = asyncio.get_running_loop()
    connection = AioConnection(shard, loop)
    try:
        async with asyncio.timeout(core.options.connect_deadline_s):
            if by_unix:
                await loop.create_unix_connection(lambda: connection, shard.unix)
            else:
                name = (core.tls_name or shard.host) if tls is not None else None
                await loop.create_connection(lambda: connection, shard.host, shard.port, ssl=tls, server_hostname=name)
            replies = await connection.ask(greeting(core.token, watch=watch))
    except (OSError, EOFError, HiredisError) as error:
        connection.close()
        raise failure_of(shard, error, sent=False) from error
    except BaseException:
        connection.close()
        raise
    wrong = check_greeting(replies, shard, exact=by_unix and bool(shard.port), watch=watch)
    if wrong is not None:
        connection.close()
        refused = wrong if isinstance(wrong, AccessError) else None
        raise ShardFailure(shard.id, str(wrong), sent=False, refused=refused)
    return connection


class AioPool:
    """The connections to one shard in one loop: one that all share, and others for calls that the shard may hold."""

    def __init__(self, shard: ShardInfo, core: Core, tls: ssl.SSLContext | None) -> None:
        self.shard = shard
        self._core = core
        self._tls = tls
        self._shared: AioConnection | None = None
        self._opening: asyncio.Task[AioConnection] | None = None
        self._alone: list[AioConnection] = []
        self._slots = asyncio.Semaphore(core.options.connections_max)
        self._closed = False

    @property
    def shared(self) -> AioConnection | None:
        """The shared connection when it is open: the path that awaits nothing."""
        connection = self._shared
        return connection if connection is not None and not connection.closed else None

    async def open_shared(self) -> AioConnection:
        """The shared connection, opened once for all who ask at the same time. Raises ShardFailure."""
        connection = self.shared
        if connection is not None:
            return connection
        if self._closed:
            raise self._gone()
        if self._opening is None:
            self._opening = asyncio.create_task(open_aio(self.shard, self._core, self._tls))
            self._opening.add_done_callback(self._opened)
        opening = self._opening
        await asyncio.wait((opening,))  # whoever is cancelled here leaves it to the others
        if opening.cancelled():  # by close(), which is no cancellation of those who wait
            raise self._gone()
        return opening.result()

    def _opened(self, task: asyncio.Task[AioConnection]) -> None:
        self._opening = None
        if not task.cancelled() and task.exception() is None:
            self._shared = task.result()
            if self._closed:
                self._shared.close()

    def _gone(self) -> ShardFailure:
        return ShardFailure(self.shard.id, f"{self.shard.address} is not called any more", sent=False)

    @contextlib.asynccontextmanager
    async def alone(self) -> Any:
        """A connection of one's own, for as long as a shard may hold its answer back. Raises ShardFailure."""
        async with self._slots:
            if self._closed:
                raise self._gone()
            while self._alone and self._alone[-1].closed:
                self._alone.pop()
            connection = self._alone.pop() if self._alone else await open_aio(self.shard, self._core, self._tls)
            clean = False
            try:
                yield connection
                clean = True
            finally:
                # A call that was given up would answer into the next one's place.
                if clean and not connection.closed and not self._closed:
                    self._alone.append(connection)
                else:
                    connection.close()

    def close(self) -> None:
        """Close all of them: those in use when they come back, and the one that is being opened."""
        self._closed = True
        for connection in [self._shared, *self._alone]:
            if connection is not None:
                connection.close()
        if self._opening is not None:
            self._opening.cancel()
