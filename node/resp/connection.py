"""One client's connection: bytes to commands to replies, in order, within its limits.

Two parsers: hiredis takes chunks that begin at a command boundary and declare nothing huge (`parser.is_harmless`); the
exact parser takes everything else, and what hiredis could not finish. GET, SET and SC.GET on entries in memory are
answered in the read loop itself (`_run_fast`), everything else goes through `dispatch`.

Invariants: replies leave in the order of their commands, also when one is answered later: then this connection stops
reading, and no other notices. One turn of the event loop executes about `TURN_COMMANDS` commands. What a client
does not read is bounded by `output_bytes_max`: past it the connection is cut.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, cast

import hiredis

from stratacache.node.keys import canonical
from stratacache.node.resp.dispatch import failed, refuse, run, settle, stored
from stratacache.node.resp.parser import Oversize, ProtocolError, RequestParser, is_harmless, offset_after
from stratacache.node.resp.replies import NULLS, OK, CommandError, error
from stratacache.node.resp.table import Access, Later, Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from stratacache.node.entry import Entry
    from stratacache.node.resp.commands.tracking import TrackingClient
    from stratacache.node.resp.commands.transactions import Transaction
    from stratacache.node.resp.server import NodeServer

log = logging.getLogger(__name__)

SLICE_BYTES: Final = 16 * 1024
"""Requests that hiredis gets at a time: at most some 600 SETs."""

TURN_COMMANDS: Final = 500
"""Commands after which others get their turn: 1 to 5 ms."""

HITS_KEPT: Final = 64
"""Hits that may wait for the policy to be told: telling them one by one costs as much as the read itself."""

LARGE_REPLY_BYTES: Final = 64 * 1024
UNIX_SEND_BYTES: Final = 1024 * 1024
_ONLY_BYTES: Final = {bytes}
_END: Final = object()
_CODEC_LINES: Final = tuple(b":%d\r\n" % codec for codec in range(256))
_CODEC_HEADS: Final = tuple(b"*2\r\n:%d\r\n" % codec for codec in range(256))


class ReplyMode(Enum):
    """CLIENT REPLY."""

    ON = "on"
    OFF = "off"
    SKIP_NEXT = "skip_next"  # CLIENT REPLY SKIP itself is not answered either
    SKIP = "skip"


class Connection(asyncio.Protocol):
    """The asyncio protocol of one client; handlers get it as their first argument."""

    def __init__(self, server: NodeServer) -> None:
        self.server = server
        self.engine = server.engine
        self.id = 0
        self.access = server.access_without_token
        self.resp = 2
        self.null = NULLS[2]
        self.native = False
        self.name = b""
        self.library = (b"", b"")
        self.peer = ""
        self.local = ""
        self.connected_ms = 0
        self.active_ms = 0
        self.last_command = "NULL"
        self.transaction: Transaction | None = None
        self.tracking: TrackingClient | None = None
        self.leases: dict[bytes, bytes] = {}  # token -> key of the fill leases that were granted here
        self.reply_mode = ReplyMode.ON
        self.closing = False
        self.output_since_ms = 0  # since when the client has not read what it was sent; 0: it reads
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._reader = hiredis.Reader(notEnoughData=_END)
        self._parser = RequestParser(server.config.parser_limits, trusted=self.access > Access.NONE)
        self._in_step = True  # the next byte begins a command, and the exact parser holds nothing
        self._chunk_bytes_max = server.config.value_bytes_max  # in a longer one an argument may be over the limit
        self._chunk = b""  # what hiredis works on,
        self._fed = 0  # how much of it hiredis was given,
        self._executed = 0  # and how many of its commands were run
        self._stash: deque[bytes] = deque()  # came while a reply was waited for
        self._later: Later | None = None
        self._scheduled = False
        self._ended = False
        self._pushes: list[bytes] = []
        self.plain = False
        self.refresh_mode()

    # -- shell: what asyncio calls ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection in, or refuse it when there are too many."""
        self._transport = cast("asyncio.Transport", transport)
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
        if self._later is not None and self._later.cancel:
            self._later.future.cancel()
        self._later = None
        self._stash.clear()
        self.server.dismiss(self)

    def eof_received(self) -> bool:
        """The client sends no more: keep the writing side open while replies are still due."""
        self._ended = True
        return not self.idle

    def pause_writing(self) -> None:
        """Note that the client does not read as fast as it is answered."""
        self.output_since_ms = self.engine.now_ms()
        self.server.slow.add(self)

    def resume_writing(self) -> None:
        """Note that the client has read."""
        self.output_since_ms = 0
        self.server.slow.discard(self)

    def data_received(self, data: bytes) -> None:
        """Execute what has come."""
        self.server.bytes_in += len(data)
        if self._later is not None or self._scheduled:
            self._stash.append(data)
            return
        if not (self._in_step and self.access and len(data) <= self._chunk_bytes_max and is_harmless(data)):
            self._in_step = False
            self._parser.feed(data)
            self._continue([])
            return
        self._chunk = data
        self._executed = 0
        out: list[bytes] = []
        if len(data) <= SLICE_BYTES:
            self._fed = len(data)
            self._reader.feed(data)
            try:
                if not self._run_fast(out):
                    if self._at_boundary():
                        self._chunk = b""
                        self.write(out)
                        return
                    self._leave_chunk()
            except _MalformedError:
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
        self.write(out)
        if self.closing:
            self._transport.close()
        elif busy:
            self._transport.pause_reading()
            if self._later is None:
                self._scheduled = True
                self.server.loop.call_soon(self._turn)
            else:
                self._await_reply()
        elif self._ended:
            self.close()
        elif not self._transport.is_reading():
            self._transport.resume_reading()

    def _run_chunk(self, out: list[bytes]) -> bool:
        """Execute the chunk through hiredis, one turn of it; whether the connection must pause."""
        chunk = self._chunk
        try:
            if self._run_fast(out):
                return True
            begun = self._executed
            while self._fed < len(chunk):
                if self._executed - begun > TURN_COMMANDS:
                    return True
                end = self._fed + SLICE_BYTES
                self._reader.feed(chunk[self._fed : end])
                self._fed = end
                if self._run_fast(out):
                    return True
            if self._at_boundary():
                self._chunk = b""
                return False
        except _MalformedError:
            pass
        self._leave_chunk()
        return False

    def _at_boundary(self) -> bool:
        """Whether hiredis stands between two commands, with nothing begun.

        Between two elements of an array, or behind a lone type byte, it holds no bytes either, so a probe tells: at a
        boundary it comes back as a reply of its own, anywhere else it becomes an element or an error.
        """
        reader = self._reader
        if reader.has_data():
            return False
        reader.feed(b"+\r\n")
        try:
            return bool(reader.gets() == b"")
        except hiredis.HiredisError:
            return False

    def _leave_chunk(self) -> None:
        """What is incomplete, or no request in the exact sense: the exact parser reads on from there."""
        chunk, self._chunk = self._chunk, b""
        self._in_step = False
        self._reader = hiredis.Reader(notEnoughData=_END)
        self._parser.feed(chunk[offset_after(chunk, self._executed) :])

    def _run_fast(self, out: list[bytes]) -> bool:  # noqa: PLR0912, PLR0915 (the hot loop: a call costs more than a branch)
        """Execute what hiredis holds, the hottest commands right here; whether the connection must pause."""
        engine = self.engine
        gets = self._reader.gets
        append = out.append
        now_ms = self.active_ms = engine.now_ms()
        mode = self.plain
        lookup, put = self._short_cuts(now_ms)
        hit = engine.hit_log.append
        executed = 0
        try:
            while (argv := gets()) is not _END:
                name = argv[0]
                if name == b"GET":
                    if len(argv) == 2 and (entry := lookup(argv[1])) is not None and entry.expires_ms > now_ms:
                        frame = entry.frame
                        if frame is None and entry.size <= LARGE_REPLY_BYTES:
                            frame = entry.build_frame()
                        if frame is not None:
                            append(frame)
                            hit(entry)
                            executed += 1
                            continue
                elif name == b"SET":
                    if put is not None and len(argv) == 3 and argv[1].__class__ is argv[2].__class__ is bytes:
                        executed += 1
                        key = argv[1]
                        if key.startswith(b"default:"):
                            key = canonical(key)
                        try:
                            done = put(key, argv[2])
                            reply = OK if done is True else stored(done)
                        except Exception as problem:  # noqa: BLE001 (answered, and logged when it is unforeseen)
                            reply = failed(self, problem)
                        if reply is OK:
                            append(OK)
                        elif self._take(reply, out):
                            return True
                        continue
                elif name == b"SC.GET":
                    entry = lookup(argv[1]) if len(argv) == 2 else None
                    if entry is not None and entry.expires_ms > now_ms:
                        frame = entry.frame
                        if frame is None and entry.size <= LARGE_REPLY_BYTES:
                            frame = entry.build_frame()
                        if frame is not None:
                            append(_CODEC_HEADS[entry.page.group.codec] + frame)
                            hit(entry)
                            executed += 1
                            continue
                elif name == b"SC.MGET" and self._many_at_once(argv, lookup, now_ms, out):
                    executed += 1
                    continue
                if argv.__class__ is not list or not _all_bytes(argv):
                    raise _MalformedError
                executed += 1
                if self._take(run(self, argv), out):
                    return True
                if self.plain is not mode:  # MULTI, AUTH, CLIENT TRACKING: the rest of the chunk is under another rule
                    mode = self.plain
                    lookup, put = self._short_cuts(now_ms)
        except (hiredis.HiredisError, TypeError, IndexError, KeyError) as problem:
            raise _MalformedError from problem  # handlers' own errors do not come up here: `run` answers them
        finally:
            self._executed += executed
            self.server.commands += executed
            if len(engine.hit_log) > HITS_KEPT:
                engine.drain_hits()
        return False

    def _short_cuts(self, now_ms: int) -> tuple[Callable[[bytes], Any], Callable[..., Any] | None]:
        """How the read loop may find and put entries by itself: not at all where a command needs more checks."""
        server = self.server
        if not self.plain or now_ms >= server.serve_until_ms:
            return _nothing, None
        lookup = self.engine.table.get if server.table_is_owned else _nothing
        return lookup, self.engine.put if server.forwarder is None else None

    def _many_at_once(
        self, argv: list[bytes], lookup: Callable[[bytes], Entry | None], now_ms: int, out: list[bytes]
    ) -> bool:
        """SC.MGET when all its keys are in L1: the frames go out as they lie. False, and nothing done, otherwise."""
        parts = [b"*%d\r\n" % (2 * len(argv) - 2)]
        entries: list[Entry] = []
        for key in argv[1:]:
            entry = lookup(key)
            if entry is None or entry.expires_ms <= now_ms:
                return False
            frame = entry.frame
            if frame is None:
                if entry.size > LARGE_REPLY_BYTES:
                    return False
                frame = entry.build_frame()
            parts += (_CODEC_LINES[entry.page.group.codec], frame)
            entries.append(entry)
        too_much = sum([len(part) for part in parts]) > self.server.config.output_bytes_max
        if not entries or too_much or self.reply_mode is not ReplyMode.ON:
            return False
        out += parts
        self.engine.hit_log.extend(entries)
        return True

    def _run_parser(self, out: list[bytes]) -> bool:
        """Execute what the exact parser holds; whether the connection must pause."""
        parser = self._parser
        turn = 0
        while True:
            parser.trusted = self.access > Access.NONE
            argv = parser.next()
            if argv is None:
                self._in_step = parser.idle
                return False
            if not argv:
                continue
            self.server.commands += 1
            if self._take(self._run_exact(argv), out):
                return True
            turn += 1
            if turn >= TURN_COMMANDS:
                return True

    def _run_exact(self, argv: list[bytes | Oversize]) -> Reply:
        for argument in argv:
            if isinstance(argument, Oversize):
                limit = self.server.config.value_bytes_max
                return refuse(
                    self, f"LIMIT an argument has {argument.length} bytes, the limit is {limit}: split the value"
                )
        return run(self, cast("list[bytes]", argv))

    # -- replies ------------------------------------------------------------------------------------------------------

    def _take(self, reply: Reply, out: list[bytes]) -> bool:
        """Queue a reply; whether the connection must pause (it is to be waited for, or was the last one)."""
        if reply.__class__ is not bytes:
            self._later = cast("Later", reply)
            return True
        if self.reply_mode is ReplyMode.ON:
            out.append(reply)
        elif self.reply_mode is ReplyMode.SKIP:
            self.reply_mode = ReplyMode.ON
        elif self.reply_mode is ReplyMode.SKIP_NEXT:
            self.reply_mode = ReplyMode.SKIP
        if len(reply) > LARGE_REPLY_BYTES:
            self.write(out)
            out.clear()
        return self.closing

    def _await_reply(self) -> None:
        later = self._later
        assert later is not None
        if isinstance(later.future, Future):
            # A worker thread may complete it: come back to the loop first.
            later.future.add_done_callback(lambda _: self.server.post(self._answer))
        else:
            later.future.add_done_callback(lambda _: self._answer())

    def _answer(self) -> None:
        """Send the reply that was waited for and go on."""
        later = self._later
        if later is None or self.closing:
            return
        self._later = None
        out: list[bytes] = []
        if self._take(settle(self, later), out) and self.waiting:
            self._await_reply()
            return
        self._continue(out)

    def write(self, out: list[bytes]) -> None:
        """Send replies; cuts the client off when it has left too much unread."""
        server = self.server
        if server.dirty:
            server.flush_pushes()
        if len(out) > 1 and (size := sum([len(part) for part in out])) > LARGE_REPLY_BYTES:
            server.bytes_out += size
            self._transport.writelines(out)  # joining would copy all of it once more
        else:
            data = out[0] if len(out) == 1 else b"".join(out)
            if not data:
                return
            server.bytes_out += len(data)
            self._transport.write(data)
        if self.output_since_ms and self.output_bytes > self.server.config.output_bytes_max:
            self.cut("output buffer over its limit")

    def push(self, message: bytes) -> None:
        """Send a message that no command asked for; between replies, never inside one."""
        self._pushes.append(message)
        self.server.dirty = True
        self.server.pushes_pending.add(self)

    def flush_pushes(self) -> None:
        """Send the messages that wait."""
        if self._pushes and not self.closing:
            data = b"".join(self._pushes)
            self._pushes.clear()
            self._transport.write(data)
            if self.output_since_ms and self.output_bytes > self.server.config.output_bytes_max:
                self.cut("output buffer over its limit")

    @property
    def output_bytes(self) -> int:
        """Bytes that the client has not taken yet."""
        return self._transport.get_write_buffer_size()

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

    def reset(self) -> None:
        """Forget everything that the client has set (RESET)."""
        self.access = self.server.access_without_token
        self.set_protocol(2)
        self.native = False
        self.name = b""
        self.transaction = None
        self.reply_mode = ReplyMode.ON
        self.server.forget(self)
        self.refresh_mode()

    def leave_transaction(self) -> None:
        """Forget what MULTI has queued."""
        self.transaction = None
        self.refresh_mode()

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

    def refresh_mode(self) -> None:
        """Decide again whether the read loop may take its short cuts."""
        self.plain = (
            self.access is Access.FULL
            and self.transaction is None
            and self.tracking is None
            and self.reply_mode is ReplyMode.ON
        )

    def set_protocol(self, resp: int) -> None:
        """Speak RESP2 or RESP3 from the next reply on."""
        self.resp = resp
        self.null = NULLS[resp]


class _MalformedError(Exception):
    """hiredis stands at something that is no plain request: the exact parser must look at it."""


def _all_bytes(argv: list[object]) -> bool:
    return set(map(type, argv)) == _ONLY_BYTES


def _nothing(_key: bytes) -> None:
    return None


def _address(peer: object, local: object) -> str:
    """Address as CLIENT LIST shows it."""
    if isinstance(peer, tuple):
        return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"
    path = local if isinstance(local, str) and local else peer
    return f"{path}:0" if path else ""
