"""One native connection from this shard to another: commands of plain Redis clients, changes on their way, questions.

Who waits for a large value over a slow network waits as long as its bytes move (`ask`, `quiet_s`): a deadline for the
whole of it would end the same transfer at the same place each time. What is written is handed to the kernel in pieces,
and the kernel is asked how much the other side has not taken yet.

Invariants: commands are pipelined and answered in order; a link that breaks, or that answers late, fails everything
that waits on it and is never used again; what waits is bounded.
"""

from __future__ import annotations

import asyncio
import fcntl
import ssl
import struct
import termios
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

import hiredis

from stratacache.client.view import ShardInfo
from stratacache.node.errors import DeadlineError, UnavailableError
from stratacache.node.resp.keepalive import PEER, keep_alive

WAITING_MAX: Final = 10_000
PIECE_BYTES: Final = 64 * 1024
LOOKS: Final = 4
"""How often it is looked, within the time that may pass in silence, whether anything moves."""


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
        self._unwritten: deque[Sequence[bytes]] = deque()
        self._pieces: deque[memoryview] = deque()
        """Of the command that is being written."""
        self._may_write = True
        self._loop = asyncio.get_running_loop()
        self._moved_s = 0.0
        self._in_kernel = 0
        self.replies = 0

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
        future = self._loop.create_future()
        if not self._waiting:
            self._moved_s = self._loop.time()
        self._waiting.append(future)
        self._unwritten.append(argv)
        self._write_on()
        return future

    async def ask(self, argv: Sequence[bytes], silent_s: float) -> object:
        """Send a command and wait for its reply as long as anything moves; DeadlineError after `silent_s` without."""
        future = self.call(argv)
        while not future.done():
            if self.quiet_s() >= silent_s:
                raise self.give_up(silent_s)
            await asyncio.wait((future,), timeout=silent_s / LOOKS)
        return future.result()

    def quiet_s(self) -> float:
        """For how long nothing has been seen to move in either direction while answers are due; 0 when none is."""
        if not self._waiting:
            return 0.0
        now_s, before = self._loop.time(), self._in_kernel
        self._in_kernel = _untaken(self._transport)
        if self._in_kernel < before:
            self._moved_s = now_s
        return now_s - self._moved_s

    def _write_on(self) -> None:
        """Write as much as is taken. What waits is only referred to: it lies with who wants it sent."""
        pieces = self._pieces
        while self._may_write and not self.broken:
            if pieces:
                piece = pieces.popleft()
                if len(piece) > PIECE_BYTES:
                    pieces.appendleft(piece[PIECE_BYTES:])
                self._transport.write(piece[:PIECE_BYTES])
            elif not self._unwritten:
                return
            elif sum(map(len, argv := self._unwritten.popleft())) > PIECE_BYTES:
                pieces.extend(_in_pieces(argv))
            else:
                self._transport.write(hiredis.pack_command(tuple(argv)))  # type: ignore[arg-type]  # names one item

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
        sock = transport.get_extra_info("socket")
        if sock is not None:
            keep_alive(sock, PEER)

    def pause_writing(self) -> None:
        """Note that the kernel takes no more for the moment."""
        self._may_write = False

    def resume_writing(self) -> None:
        """Go on writing: the other side has taken some."""
        self._may_write = True
        self._moved_s = self._loop.time()
        self._write_on()

    def data_received(self, data: bytes) -> None:
        """Give each reply to the one who waits longest."""
        self._moved_s = self._loop.time()
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _NOTHING:
                future = self._waiting.popleft()
                self.replies += 1
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
        self._unwritten.clear()
        self._pieces.clear()
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(UnavailableError(f"the connection to {self.shard.id} broke: {reason}"))


_NOTHING: Final = object()


def _in_pieces(argv: Sequence[bytes]) -> Iterator[memoryview]:
    """A command as it is written, without copying its large words."""
    small = bytearray(b"*%d\r\n" % len(argv))
    for word in argv:
        small += b"$%d\r\n" % len(word)
        if len(word) > PIECE_BYTES:
            yield memoryview(bytes(small))
            yield memoryview(word)
            small.clear()
        else:
            small += word
        small += b"\r\n"
    yield memoryview(bytes(small))


def _untaken(transport: asyncio.Transport) -> int:
    """Bytes that the kernel holds because the other side has not taken them; 0 where it can't be asked."""
    sock = transport.get_extra_info("socket")
    try:
        answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, struct.pack("i", 0))
    except (AttributeError, OSError, ValueError):
        return 0
    return int(struct.unpack("i", answer)[0])


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
