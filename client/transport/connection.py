"""One blocking connection to a shard: bare socket, hiredis parser, one write and as few reads as the kernel allows.

Timeouts are the kernel's (SO_RCVTIMEO, SO_SNDTIMEO): Python's own would add a poll() to every call, a tenth of a small
get. Only TLS, whose retry loop ignores them, uses `settimeout`.

Invariants: a connection that raised anything is closed and never used again (its stream may hold half a reply); one
thread uses it at a time (the pool's part).
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import time
from functools import partial
from pathlib import Path
from typing import Any

from hiredis import HiredisError, Reader

from stratacache.client.core.effects import ShardFailure
from stratacache.client.core.state import Core
from stratacache.client.options import ClientOptions
from stratacache.client.transport.values import receive_values
from stratacache.client.transport.wire import check_greeting, greeting, pack
from stratacache.client.view import ShardInfo
from stratacache.node.errors import AccessError

RECEIVE_BYTES = 256 * 1024  # what the parser is given at a time: past it, it is slower for every byte
BATCH_BYTES = 1 << 20  # a reply to SC.MGET in one read, where it fits; memory that is not used is not taken
PARSER_KEEPS_BYTES = 4 << 20  # hiredis would give its buffer back after each reply over 16 KiB, and fault it in again
IOV_MAX = 1024  # as Linux and macOS have it
TLS_RECORDS_MAX = 16  # more pieces are joined before they are enciphered
LARGE_BYTES = 256 * 1024  # a payload from this size on is received into memory of its own
LARGE_BEGINS_BYTES = 4096  # what the first read of such a reply brings at least
UNIX_SEND_BYTES = 1 << 20


class Connection:
    """A greeted connection to `shard`."""

    __slots__ = (
        "_buffer",
        "_pushes",
        "_reader",
        "_sent_much",
        "_timeout_s",
        "_view",
        "shard",
        "sock",
        "tls",
        "used_at",
    )

    def __init__(self, shard: ShardInfo, sock: socket.socket, *, tls: bool) -> None:
        self.shard = shard
        self.sock = sock
        self.tls = tls
        self.used_at = time.monotonic()
        self._reader = Reader(notEnoughData=_INCOMPLETE)
        self._reader.setmaxbuf(PARSER_KEEPS_BYTES)
        self._buffer = bytearray(BATCH_BYTES)
        self._view = memoryview(self._buffer)
        self._timeout_s = -1.0
        self._sent_much = False
        self._pushes: list[Any] = []

    def set_timeout(self, timeout_s: float) -> None:
        """How long one read or write may take; near enough the last value, nothing is set anew."""
        if 0.9 * timeout_s <= self._timeout_s <= 1.1 * timeout_s:
            return
        timeout_s = max(timeout_s, 0.001)
        self._timeout_s = timeout_s
        if self.tls:
            self.sock.settimeout(timeout_s)
            return
        value = struct.pack("ll", int(timeout_s), int(timeout_s % 1 * 1_000_000))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    def send(self, buffers: list[Any]) -> None:
        """Write everything; raises OSError."""
        if len(buffers) == 1:
            self.sock.sendall(buffers[0])
        elif self.tls:
            for buffer in buffers if len(buffers) <= TLS_RECORDS_MAX else (b"".join(buffers),):
                self.sock.sendall(buffer)
        else:
            self._sent_much = True
            for at in range(0, len(buffers), IOV_MAX):
                part = buffers[at : at + IOV_MAX]
                sent = self.sock.sendmsg(part)
                if sent < sum(map(len, part)):
                    self._send_rest([memoryview(buffer).cast("B") for buffer in part if len(buffer)], sent)

    def _send_rest(self, views: list[memoryview], sent: int) -> None:
        while True:
            done = 0
            while done < len(views) and sent >= len(views[done]):
                sent -= len(views[done])
                done += 1
            del views[:done]
            if not views:
                return
            views[0] = views[0][sent:]
            sent = self.sock.sendmsg(views)

    def ask(self, request: bytes) -> Any:
        """Send one request and read its reply; as `receive`, but for the usual reply that one read brings whole."""
        sock = self.sock
        sock.sendall(request)
        size = sock.recv_into(self._buffer, RECEIVE_BYTES)
        if not size:
            raise EOFError("the connection was closed")
        if size >= LARGE_BEGINS_BYTES and (large := self._large_value(size)) is not None:
            self.used_at = time.monotonic()
            return large
        reader = self._reader
        reader.feed(self._buffer, 0, size)  # type: ignore[arg-type]  # any buffer will do
        reply = reader.gets()
        self.used_at = time.monotonic()
        if reply is not _INCOMPLETE:
            return reply
        return self.receive(1, self.used_at + self._timeout_s)[0]

    def _large_value(self, size: int) -> list[Any] | None:
        """The reply `[codec, payload]` with a large payload, read into its own memory; None for any other reply.

        The parser would take it in pieces into a string that it grows, and copy it out again.
        """
        buffer = self._buffer
        if not buffer.startswith(b"*2\r\n:") or buffer.startswith(b":0\r", 4):
            return None  # raw bytes end as a bytes object: the parser's copy is the only one they need
        codec_end = buffer.find(b"\r\n", 5, 16)
        length_end = buffer.find(b"\r\n", codec_end + 2, codec_end + 24)
        if codec_end < 0 or length_end < 0 or buffer[codec_end + 2] != ord("$"):
            return None
        if not (buffer[5:codec_end].isdigit() and buffer[codec_end + 3 : length_end].isdigit()):
            return None  # nonsense, or no value: the parser says which
        length = int(buffer[codec_end + 3 : length_end])
        begin = length_end + 2
        if length < LARGE_BYTES or size - begin >= length:
            return None
        payload = bytearray(length + 2)  # with the line end behind it
        view = memoryview(payload)
        done = size - begin
        view[:done] = self._view[begin:size]
        until = time.monotonic() + self._timeout_s + length / (16 << 20)
        while done < length + 2:
            more = self.sock.recv_into(view[done:])
            if not more:
                raise EOFError("the connection was closed")
            done += more
            if time.monotonic() > until:
                raise TimeoutError
        return [int(buffer[5:codec_end]), view[:length].toreadonly()]

    def receive(self, count: int, until: float) -> list[Any]:
        """Read `count` replies; raises OSError, HiredisError or EOFError. `until` bounds a shard that dribbles."""
        reader = self._reader
        replies: list[Any] = []
        sock = self.sock
        buffer = self._buffer
        if self._sent_much:
            self._await_reply()
        while True:
            size = sock.recv_into(buffer, RECEIVE_BYTES)
            if not size:
                raise EOFError("the connection was closed")
            reader.feed(buffer, 0, size)  # type: ignore[arg-type]  # any buffer will do
            while (reply := reader.gets()) is not _INCOMPLETE:
                replies.append(reply)
            if len(replies) > count:  # pushes that came with the answer to SC.WATCH
                self._pushes = replies[count:]
                del replies[count:]
            if len(replies) >= count:
                return replies
            if time.monotonic() > until:
                raise TimeoutError

    def _await_reply(self) -> None:
        """Sleep until something has come. Raises TimeoutError.

        A thread that sleeps in recv() on a Unix socket is also woken with each piece of what it has sent that the shard
        takes: the shard pays for that, a tenth of its time for a batch of puts.
        """
        self._sent_much = False
        readable = select.poll()
        readable.register(self.sock, select.POLLIN)
        if not readable.poll(self._timeout_s * 1000):
            raise TimeoutError

    def receive_values(self, until: float) -> Any:
        """Read the one reply to an SC.MGET; raises as `receive`."""
        return receive_values(self.sock.recv_into, self._buffer, until, partial(self._parse, until))

    def _parse(self, until: float, begun: bytes, start: int, stop: int) -> Any:
        """One reply that begins with `begun` and goes on with a part of the buffer."""
        reader = self._reader
        if begun:
            reader.feed(begun)
        reply: Any = _INCOMPLETE
        for at in range(start, stop, RECEIVE_BYTES):
            reader.feed(self._buffer, at, min(RECEIVE_BYTES, stop - at))  # type: ignore[arg-type]  # any buffer will do
            if (reply := reader.gets()) is not _INCOMPLETE and at + RECEIVE_BYTES < stop:
                raise EOFError("the shard sent more than was asked for")
        return reply if reply is not _INCOMPLETE else self.receive(1, until)[0]

    def receive_pushes(self) -> tuple[list[Any], bool]:
        """What a watching connection has got so far, and whether that is all that the kernel had.

        Raises OSError, HiredisError or EOFError when the connection is of no more use.
        """
        messages, self._pushes = self._pushes, []
        for _ in range(16):
            try:
                size = self.sock.recv_into(self._buffer, RECEIVE_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError):
                return messages, True
            if not size:
                raise EOFError("the connection was closed")
            self._reader.feed(self._buffer, 0, size)  # type: ignore[arg-type]  # any buffer will do
            while (message := self._reader.gets()) is not _INCOMPLETE:
                messages.append(message)
        return messages, False

    def alive(self) -> bool:
        """Whether the other side still holds the connection, as far as the kernel knows."""
        if self.tls:  # what comes unasked is the end of the session, or the end of the stream
            readable = select.poll()
            readable.register(self.sock, select.POLLIN)
            return not readable.poll(0)
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def close(self) -> None:
        """Give the socket back; never raises."""
        with contextlib.suppress(OSError):
            self.sock.close()


class _Incomplete:
    """What the parser returns while a reply is not complete; None would be the null reply."""


_INCOMPLETE = _Incomplete()


def failure_of(shard: ShardInfo, error: BaseException, *, sent: bool) -> ShardFailure:
    """An error of a socket or a parser as an outcome."""
    timed_out = isinstance(error, BlockingIOError | TimeoutError)
    reason = "no answer within the deadline" if timed_out else (str(error) or type(error).__name__)
    if shard.id != shard.address:  # one that was given by its address has no other name
        reason = f"{shard.address}: {reason}"
    return ShardFailure(shard.id, reason, sent=sent, timed_out=timed_out)


CONNECTION_ERRORS = (OSError, EOFError, HiredisError)


def open_connection(
    shard: ShardInfo, core: Core, tls: ssl.SSLContext | None, deadline: float, *, watch: bool = False
) -> Connection:
    """Connect and greet: by the Unix socket when the shard that answers there is the expected one, else by TCP.

    With `watch` the connection is one for pushes and does not block. Raises ShardFailure.
    """
    options = core.options
    left_s = max(0.001, min(options.connect_deadline_s, deadline - core.monotonic()))
    until = core.monotonic() + left_s
    if shard.unix and (not shard.port or _unix_is_worth_a_try(shard, options)):
        unix_s = left_s / 2 if shard.port else left_s  # whoever hangs there leaves time to ask at the port
        try:
            sock = _connect_unix(shard.unix, unix_s)
            by = until - left_s + unix_s
            return _greeted(shard, sock, core, None, by, exact=bool(shard.port), watch=watch)
        except (OSError, ShardFailure) as error:
            if not shard.port:
                raise error if isinstance(error, ShardFailure) else failure_of(shard, error, sent=False) from error
    try:
        sock = socket.create_connection((shard.host, shard.port), max(0.001, until - core.monotonic()))
    except OSError as error:
        raise failure_of(shard, error, sent=False) from error
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            sock = tls.wrap_socket(sock, server_hostname=core.tls_name or shard.host)
    except OSError as error:
        sock.close()
        raise failure_of(shard, error, sent=False) from error
    return _greeted(shard, sock, core, tls, until, exact=False, watch=watch)


def _unix_is_worth_a_try(shard: ShardInfo, options: ClientOptions) -> bool:
    return options.use_unix and bool(shard.incarnation) and Path(shard.unix).exists()


def _connect_unix(path: str, timeout_s: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNIX_SEND_BYTES)  # a batch of puts in one go
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


def _greeted(
    shard: ShardInfo,
    sock: socket.socket,
    core: Core,
    tls: ssl.SSLContext | None,
    until: float,
    *,
    exact: bool,
    watch: bool,
) -> Connection:
    connection = Connection(shard, sock, tls=tls is not None)
    try:
        if tls is None:
            sock.settimeout(None)
        connection.set_timeout(until - core.monotonic())
        commands = greeting(core.token, watch=watch)
        connection.send(pack(commands))
        replies = connection.receive(len(commands), until)
        if watch:
            sock.setblocking(False)
    except CONNECTION_ERRORS as error:
        connection.close()
        raise failure_of(shard, error, sent=False) from error
    wrong = check_greeting(replies, shard, exact=exact, watch=watch)
    if wrong is not None:
        connection.close()
        refused = wrong if isinstance(wrong, AccessError) else None
        raise ShardFailure(shard.id, str(wrong), sent=False, refused=refused)
    return connection
