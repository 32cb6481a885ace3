"""The writing half of a connection: replies and pushes to the socket, within what a client may leave unread.

Invariants: what a client does not read is bounded by `output_bytes_max`: past it the connection is cut, and nobody else
notices; who must know of a change is told before its maker is answered.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, cast

from mypy_extensions import i64

from stratacache.node.entry import NEVER_MS
from stratacache.node.resp.lookout import NEVER, Lookout
from stratacache.node.resp.replies import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stratacache.node.resp.commands.tracking import TrackingClient
    from stratacache.node.resp.server import NodeServer

log = logging.getLogger(__name__)

LARGE_REPLY_BYTES: Final = 64 * 1024
"""Replies of more bytes are sent without being joined to others."""


class ServerState:
    """What every command of every connection looks at or counts: apart from the server, so that it can be compiled."""

    def __init__(self) -> None:
        self.serve_until_ms = NEVER_MS  # NodeServer.serve_until_ms says what it means
        self.dirty = False  # changes wait to be pushed
        self.commands: i64 = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.rest: i64 = NEVER  # replies until the loop may stay awake
        self.lookout: Lookout  # there once the server listens


class Output:
    """What a connection sends. `ReadLoop` and `Connection` are built on it."""

    def __init__(self, server: NodeServer) -> None:
        self.server = server
        self.id = 0
        self.peer = ""
        self.closing = False
        self.tracking: TrackingClient | None = None  # which changes it is told of
        self.output_since_ms = 0  # since when the client has not read what it was sent; 0: it reads
        self.state = server.state
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._write = cast("Callable[[bytes], None]", None)  # the transport's; bound once, because each reply needs it
        self._pushes: list[bytes] = []

    def pause_writing(self) -> None:
        """Note that the client does not read as fast as it is answered."""
        self.output_since_ms = self.server.engine.now_ms()
        self.server.slow.add(self)

    def resume_writing(self) -> None:
        """Note that the client has read."""
        self.output_since_ms = 0
        self.server.slow.discard(self)

    def write(self, out: list[bytes]) -> None:
        """Send replies; cuts the client off when it has left too much unread."""
        if len(out) > 1 and (size := sum([len(part) for part in out])) > LARGE_REPLY_BYTES:
            if self.state.dirty:
                self.server.flush_pushes(self)
            self.state.bytes_out += size
            self._transport.writelines(out)  # joining would copy all of it once more
            self._check_output()
            self.flush_pushes()
        else:
            self._send(out[0] if len(out) == 1 else b"".join(out))

    def _send(self, data: bytes) -> None:
        state = self.state
        if state.dirty:
            self.server.flush_pushes(self)  # who else must know of a change knows it before its maker is answered
        if data:
            state.bytes_out += len(data)
            self._write(data)
            state.rest -= 1
            if state.rest == 0:
                state.lookout.begin()
            if self.output_since_ms:
                self._check_output()
        if self._pushes:
            self.flush_pushes()

    def _check_output(self) -> None:
        if self.output_since_ms and self.output_bytes > self.server.config.output_bytes_max:
            self.cut("output buffer over its limit")

    def push(self, message: bytes) -> None:
        """Send a message that no command asked for; between replies, never inside one."""
        self._pushes.append(message)
        self.state.dirty = True
        self.server.pushes_pending.add(self)

    def flush_pushes(self) -> None:
        """Send the messages that wait."""
        if self._pushes and not self._transport.is_closing():
            data = b"".join(self._pushes)
            self._pushes.clear()
            self._transport.write(data)
            self._check_output()

    @property
    def output_bytes(self) -> int:
        """Bytes that the client has not taken yet."""
        return self._transport.get_write_buffer_size()

    def cut(self, reason: str) -> None:
        """Close at once, whatever is still to be sent."""
        log.warning("client %d (%s) cut off: %s, %d bytes unread", self.id, self.peer, reason, self.output_bytes)
        self.server.cut_clients += 1
        self.closing = True
        self._transport.abort()

    def close(self) -> None:
        """Close after what was queued is sent."""
        self.closing = True
        self._transport.close()

    def check_reply_bytes(self, size: int) -> None:
        """Refuse a reply that no client may have outstanding, before it is built; raises CommandError."""
        limit = self.server.config.output_bytes_max
        if size > limit:
            raise CommandError(f"LIMIT the reply would have {size} bytes, the limit is {limit}: ask for fewer keys")

    @property
    def fd(self) -> int:
        """Descriptor of the socket, -1 when it has none."""
        sock = self._transport.get_extra_info("socket")
        return sock.fileno() if sock is not None else -1
