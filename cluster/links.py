"""One native connection from this shard to another, for commands of plain Redis clients that came to the wrong shard.

Invariants: commands are pipelined and answered in order; a link that breaks, or that answers late, fails everything
that waits on it and is never used again; what waits is bounded.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, cast

import hiredis

from stratacache.client.view import ShardInfo
from stratacache.node.errors import DeadlineError, UnavailableError

WAITING_MAX: Final = 10_000


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What one shard shows another, and by what it believes that one. Without `tls` the link is not encrypted."""

    token: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    tls_name: str = ""


class Link(asyncio.Protocol):
    """A connection to one incarnation of one shard. `open` makes it, `call` uses it."""

    def __init__(self, shard: ShardInfo) -> None:
        self.shard = shard
        self.broken = False
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._waiting: deque[asyncio.Future[object]] = deque()

    @classmethod
    async def open(cls, shard: ShardInfo, credentials: Credentials) -> Link:
        """Connect over TCP and say that this is a native client; raises UnavailableError."""
        loop = asyncio.get_running_loop()
        tls = credentials.tls
        name = credentials.tls_name if tls is not None else None
        try:
            _, link = await loop.create_connection(
                lambda: cls(shard), shard.host, shard.port, ssl=tls, server_hostname=name
            )
        except OSError as error:
            raise UnavailableError(f"{shard.id} at {shard.address} can't be reached: {error}") from error
        try:
            await link._greet(credentials.token)
        except BaseException:
            link.close()
            raise
        return link

    async def _greet(self, token: str | None) -> None:
        """Make sure that the right process answers: a port may have been taken over by another."""
        shard = self.shard
        if token is not None:
            await self.call((b"AUTH", token.encode()))
        hello = await self.call((b"SC.HELLO", b"1"))
        if isinstance(hello, hiredis.ReplyError):
            raise UnavailableError(f"{shard.id} at {shard.address} does not take this shard's connection: {hello}")
        words = hello if isinstance(hello, list) else []
        pairs = zip(words[::2], words[1::2], strict=False)
        who = {name: value for name, value in pairs if isinstance(name, bytes)}  # a stranger may say anything
        if who.get(b"shard") != shard.id.encode() or _text(who.get(b"incarnation")) != shard.incarnation:
            raise UnavailableError(f"{shard.address} is no longer {shard.id} of this view")

    def call(self, argv: Sequence[bytes]) -> asyncio.Future[object]:
        """Send a command; the reply comes with the future, an error reply as hiredis.ReplyError in it."""
        if self.broken:
            raise UnavailableError(f"the connection to {self.shard.id} is gone")
        if len(self._waiting) >= WAITING_MAX:
            raise UnavailableError(f"{WAITING_MAX} commands wait for {self.shard.id}: try again later")
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._transport.write(hiredis.pack_command(tuple(argv)))  # type: ignore[arg-type]  # its stub names one item
        return future

    def close(self) -> None:
        """End the connection; what waits fails."""
        self._fail("it was closed")
        if self._transport is not None:
            self._transport.abort()

    def give_up(self, deadline_s: float) -> DeadlineError:
        """End a connection that is late: its later replies would be taken for others."""
        self.close()
        return DeadlineError(f"{self.shard.id} gave no answer within {deadline_s:g} s")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Give each reply to the one who waits longest."""
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _NOTHING:
                future = self._waiting.popleft()
                if not future.done():
                    future.set_result(reply)
        except (hiredis.HiredisError, IndexError) as error:
            self._fail(repr(error))
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail everything that waits."""
        self._fail(str(exc or "it was closed by the other side"))

    def _fail(self, reason: str) -> None:
        self.broken = True
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(UnavailableError(f"the connection to {self.shard.id} broke: {reason}"))


_NOTHING: Final = object()


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
