"""One client's connection: bytes to commands to replies, in order, within its limits.

The reading half, bytes to commands, is `ReadLoop`, the writing half `Output`; here are the order of the replies, and
what is known of the client.

Invariants: replies leave in the order of their commands, also when one is answered later: then this connection stops
reading, and no other notices; commands behind a put that only waits for the disk run meanwhile, so that the puts of one
pipeline are committed together.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from concurrent.futures import Future
from enum import Enum
from typing import TYPE_CHECKING, Final, cast

from stratacache.node.resp.dispatch import failed, refuse, run, settle
from stratacache.node.resp.known import HEAD_BYTES, KEY_BYTES, lone
from stratacache.node.resp.output import LARGE_REPLY_BYTES
from stratacache.node.resp.parser import ProtocolError, is_harmless
from stratacache.node.resp.readloop import SLICE_BYTES, MalformedError, ReadLoop
from stratacache.node.resp.replies import NULLS, Notice, error
from stratacache.node.resp.table import Access, Later, Reply

if TYPE_CHECKING:
    from stratacache.node.resp.commands.transactions import Transaction
    from stratacache.node.resp.server import NodeServer

UNIX_SEND_BYTES: Final = 1024 * 1024


class ReplyMode(Enum):
    """CLIENT REPLY."""

    ON = "on"
    OFF = "off"
    SKIP_NEXT = "skip_next"  # CLIENT REPLY SKIP itself is not answered either
    SKIP = "skip"


class Connection(ReadLoop):
    """The protocol of one client, as asyncio asks for one; handlers get it as their first argument.

    Not derived from asyncio.Protocol, which has nothing in it, so that it can be compiled.
    """

    def __init__(self, server: NodeServer) -> None:
        self.access = server.access_without_token
        super().__init__(server, trusted=self.access > Access.NONE)
        self.resp = 2
        self.null = NULLS[2]
        self.native = False
        self.name = b""
        self.client_library = (b"", b"")
        self.local = ""
        self.connected_ms = 0
        self.active_ms = 0
        self.last_command = "NULL"
        self.transaction: Transaction | None = None
        self.leases: dict[bytes, bytes] = {}  # token -> key of the fill leases that were granted here
        self.channels: dict[bytes, None] = {}  # SUBSCRIBE
        self.stream: tuple[str, str, int] | None = None  # the shard, incarnation and lane whose changes come here
        self.reply_mode = ReplyMode.ON
        self._stash: deque[bytes] = deque()  # came while a reply was waited for
        self._later: Later | None = None  # the reply that is waited for,
        self._behind: deque[Reply] = deque()  # and those that leave after it,
        self._held = b""  # then what the commands waited for have told their own client
        self._scheduled = False
        self._ended = False
        self.refresh_mode()

    # -- shell: what asyncio calls ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection in, or refuse it when there are too many."""
        self._transport = cast("asyncio.Transport", transport)
        self._write = self._transport.write
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family == socket.AF_UNIX:
            # A reply of some hundred kilobytes shall not need a wake-up of the client for every 200 KiB.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNIX_SEND_BYTES)
        self.connected_ms = self.active_ms = self.engine.now_ms()
        self.peer = _address(transport.get_extra_info("peername"), transport.get_extra_info("sockname"))
        self.local = _address(transport.get_extra_info("sockname"), None)
        if not self.server.admit(self):
            self._transport.write(error("ERR max number of clients reached"))
            self.closing = True
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        """Forget the client."""
        self.closing = True
        later, self._later = self._later, None
        for reply in (later, *self._behind):
            if isinstance(reply, Later) and reply.cancel and not reply.future.cancel():
                settle(self, reply)  # answered a moment ago: what that grants (a fill lease) ends with this client
        self._behind.clear()
        self._stash.clear()
        self.server.dismiss(self)

    def eof_received(self) -> bool:
        """The client sends no more: keep the writing side open while replies are still due."""
        self._ended = True
        return not self.idle

    def data_received(self, data: bytes) -> None:
        """Execute what has come."""
        self.state.bytes_in += len(data)
        if self._later is not None or self._scheduled:
            self._stash.append(data)
        else:
            self._receive(data)

    def _receive(self, data: bytes) -> None:
        if self.plain and self._in_step and (reply := self._answer_lone(data)) is not None:
            if isinstance(reply, bytes):
                self._send(reply)
            else:
                self._take(reply, [])
                self._continue([])
            return
        if self.plain and self._in_step and len(data) <= self._chunk_bytes_max and data[:HEAD_BYTES] in KEY_BYTES:
            known: list[bytes] = []
            done, _, pause = self._run_known(data, known)
            if done == len(data) and not pause and self._later is None:
                self.write(known)
                return
            if done:
                if done < len(data):  # most often a command that has not come whole
                    self._in_step = False
                    self._parser.feed(data[done:])
                self._continue(known)
                return
        out: list[bytes] = []
        within = self._in_step and bool(self.access) and len(data) <= self._chunk_bytes_max
        if within and (argv := lone(data)) is not None:
            if self._run_lone(argv, out) or self._later is not None:
                self._continue(out)
            else:
                self.write(out)
            return
        if within and is_harmless(data):
            self._read(data, out)
        else:
            self._in_step = False
            self._parser.feed(data)
            self._continue(out)

    def _read(self, data: bytes, out: list[bytes]) -> None:
        """Execute what hiredis finds in a harmless chunk."""
        self._chunk = data
        self._executed = 0
        if len(data) <= SLICE_BYTES:
            self._fed = len(data)
            self._reader.feed(data)
            try:
                if not self._run_fast(out):
                    if not self._at_boundary():
                        self._leave_chunk()
                    elif self._later is None:
                        self._chunk = b""
                        self.write(out)
                        return
                    self._chunk = b""
            except MalformedError:
                self._leave_chunk()
        else:
            self._fed = 0
        self._continue(out)

    # -- turning bytes into commands ----------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._scheduled = False
        self._continue([])

    def _continue(self, out: list[bytes]) -> None:
        """Execute until nothing complete is left, a reply must be waited for, or the turn is over."""
        busy = self._later is not None or self.closing
        try:
            if self._chunk and not busy:
                busy = self._run_chunk(out)
            if not (busy or self._in_step):
                busy = self._run_parser(out)
            while not busy and self._stash:
                self._in_step = False
                self._parser.feed(self._stash.popleft())
                busy = self._run_parser(out)
        except ProtocolError as problem:
            self.server.count_error("ERR")
            out.append(error(f"ERR Protocol error: {problem}"))
            self.closing = True
        if self._later is not None:
            self._behind.extend(out)
            self._transport.pause_reading()
            self._await_reply()
            return
        self.write(out)
        if self.closing:
            self._transport.close()
        elif busy:
            self._transport.pause_reading()
            self._scheduled = True
            self.server.loop.call_soon(self._turn)
        elif self._ended:
            self.close()
        elif not self._transport.is_reading():
            self._transport.resume_reading()

    def _execute(self, argv: list[bytes]) -> Reply:
        return run(self, argv)

    def _refuse(self, text: str) -> bytes:
        return refuse(self, text)

    def _failed(self, problem: Exception) -> bytes:
        return failed(self, problem)

    # -- replies ------------------------------------------------------------------------------------------------------

    def _take(self, reply: Reply, out: list[bytes]) -> bool:
        """Queue a reply; whether the connection must pause (it is to be waited for, or was the last one).

        While one is waited for, `out` gathers what leaves after it.
        """
        if isinstance(reply, Later):
            own = self._own_pushes() if self.tracking is not None else b""
            if self._later is None:
                self.write(out)
                self._later = reply
            else:
                self._behind.extend(out)
                self._behind.append(reply)
            out.clear()
            if not reply.applied or self.reply_mode is not ReplyMode.ON:
                self._held += own
                return True
            self._behind.append(own)  # even if it is empty: so it is answered, whatever CLIENT REPLY says behind it
            return False
        if self.reply_mode is ReplyMode.ON:
            out.append(reply)
        else:
            self._leave_out(reply, out)
        if self._pushes and self.tracking is not None:  # what this command has told its own client follows it
            out.extend(self._pushes)
            self._pushes.clear()
        if len(reply) > LARGE_REPLY_BYTES:
            if self._later is not None:
                return True  # what is held back has no other limit than the number of commands of a turn
            self.write(out)
            out.clear()
        return self.closing

    def _own_pushes(self) -> bytes:
        """What a command has told its own client: it follows the reply."""
        if self.state.dirty:
            self.server.flush_pushes(self)
        own = b"".join(self._pushes)
        self._pushes.clear()
        return own

    def _leave_out(self, reply: bytes, out: list[bytes]) -> None:
        """A command is not answered, unless its answer is messages."""
        if isinstance(reply, Notice):
            out.append(reply)
        if self.reply_mode is ReplyMode.SKIP:
            self.reply_mode = ReplyMode.ON
            self.refresh_mode()
        elif self.reply_mode is ReplyMode.SKIP_NEXT:
            self.reply_mode = ReplyMode.SKIP

    def _await_reply(self) -> None:
        later = self._later
        assert later is not None
        if isinstance(later.future, Future):
            # A worker thread may complete it: come back to the loop first.
            later.future.add_done_callback(lambda _: self.server.post(self._answer))
        else:
            later.future.add_done_callback(lambda _: self._answer())

    def _answer(self) -> None:
        """Send the reply that was waited for, and those behind it that are known by now; then go on."""
        later = self._later
        if later is None or self._transport.is_closing():
            return
        out: list[bytes] = []
        reply: Reply = later
        while True:
            taken = not isinstance(reply, Later)
            own = b""
            if isinstance(reply, Later) and reply.future.done():
                reply = settle(self, reply)
                own = self._own_pushes() if self.tracking is not None else b""
            if isinstance(reply, Later):
                self._held += own
                self._later = reply
                self.write(out)
                self._await_reply()
                return
            if not self._behind:
                break
            out.append(reply)
            out.append(own)
            reply = self._behind.popleft()
        self._later = None
        if taken:
            out.append(reply)
        else:
            self._take(reply, out)
        if self._held or own:
            out.append(self._held + own)
            self._held = b""
        self._continue(out)

    @property
    def query_bytes(self) -> int:
        """Bytes of commands that are not complete or not executed yet."""
        return self._parser.bytes_held + len(self._chunk) + sum(map(len, self._stash))

    @property
    def waiting(self) -> bool:
        """Whether a reply is waited for."""
        return self._later is not None

    @property
    def idle(self) -> bool:
        """Whether everything that was received has been answered."""
        return self._later is None and not self._scheduled and not self._stash

    def reset(self) -> None:
        """Forget everything that the client has set (RESET)."""
        self.access = self.server.access_without_token
        self.set_protocol(2)
        self.native = False
        self.name = b""
        self.transaction = None
        self.channels.clear()
        if self.reply_mode is not ReplyMode.SKIP:  # that is about the reply to RESET itself
            self.reply_mode = ReplyMode.ON
        self.server.forget(self)
        self.refresh_mode()

    def leave_transaction(self) -> None:
        """Forget what MULTI has queued."""
        self.transaction = None
        self.refresh_mode()

    def refresh_mode(self) -> None:
        """Decide again whether the read loop may take its short cuts."""
        self.allow_short_cuts(
            self.access is Access.FULL
            and self.transaction is None
            and self.tracking is None
            and not self.channels
            and self.reply_mode is ReplyMode.ON
        )

    def set_protocol(self, resp: int) -> None:
        """Speak RESP2 or RESP3 from the next reply on."""
        self.resp = resp
        self.null = NULLS[resp]


def _address(peer: object, local: object) -> str:
    """Address as CLIENT LIST shows it."""
    if isinstance(peer, tuple):
        return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"
    path = local if isinstance(local, str) and local else peer
    return f"{path}:0" if path else ""
