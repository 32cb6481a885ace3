"""From a connection's bytes to executed commands: the two parsers, and the read loop with its short cuts.

GETs and SETs are known by their bytes (known.py), alone or in a pipeline, while their entries are in memory; a chunk
that is one whole command of few words is read in one pass there, too. hiredis takes what is left of chunks that begin
at a command boundary and declare nothing huge (`parser.is_harmless`); the exact parser takes everything else, and what
hiredis could not finish. SC.GET and SC.MGET on entries in memory are answered in the read loop itself as well; all
other commands go through `dispatch`.

Invariants: commands are executed in the order in which they came, each once, whichever parser read it; one turn of the
event loop executes about `TURN_COMMANDS` of them; a change of mode (MULTI, AUTH) holds from the next command on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import hiredis

from stratacache.node.entry import NEVER_MS
from stratacache.node.keys import canonical
from stratacache.node.resp import known
from stratacache.node.resp.dispatch import stored
from stratacache.node.resp.output import LARGE_REPLY_BYTES, Output
from stratacache.node.resp.parser import Oversize, RequestParser, offset_after
from stratacache.node.resp.replies import OK
from stratacache.node.resp.table import Access, Reply

if TYPE_CHECKING:
    from stratacache.node.engine import MultiLevelCache
    from stratacache.node.entry import Entry
    from stratacache.node.resp.server import NodeServer

SLICE_BYTES: Final = 16 * 1024
"""Requests that hiredis gets at a time: at most some 600 SETs."""

TURN_COMMANDS: Final = 500
"""Commands after which others get their turn: 1 to 5 ms."""

HITS_KEPT: Final = 64
"""Hits that may wait for the policy to be told: telling them one by one costs as much as the read itself."""

_ONLY_BYTES: Final = {bytes}
_END: Final = object()
_CODEC_HEADS: Final = tuple(b"*2\r\n:%d\r\n" % codec for codec in range(256))

ShortCuts = tuple["dict[bytes, Entry]", bool]  # where to find entries, and whether to put any


class MalformedError(Exception):
    """hiredis stands at something that is no plain request: the exact parser must look at it."""


def _first_frame(entry: Entry) -> bytes | None:
    """The reply frame of an entry that is read for the first time; None for a large one."""
    return entry.build_frame() if entry.size <= LARGE_REPLY_BYTES else None


def _all_bytes(argv: list[object]) -> bool:
    return set(map(type, argv)) == _ONLY_BYTES


_NONE: Final[ShortCuts] = ({}, False)


class ReadLoop(Output):
    """The reading half of a connection. `Connection` brings the order of the replies and the client's state."""

    engine: MultiLevelCache
    access: Access
    active_ms: int

    def __init__(self, server: NodeServer, *, trusted: bool) -> None:
        super().__init__(server)
        self.engine = server.engine
        self.plain = False
        self._hits = self.engine.hit_log
        self._clock = self.engine.clock
        self._unsettled = self.engine.unsettled
        self._short_cuts = _NONE
        self._reader = hiredis.Reader(notEnoughData=_END)
        self._parser = RequestParser(server.config.parser_limits, trusted=trusted)
        self._in_step = True  # the next byte begins a command, and the exact parser holds nothing
        self._chunk = b""  # what hiredis works on,
        self._fed = 0  # how much of it hiredis was given,
        self._executed = 0  # and how many of its commands were run
        self._chunk_bytes_max = server.config.value_bytes_max  # in a longer one an argument may be over the limit
        self._sets = known.SetReader()

    def _execute(self, argv: list[bytes]) -> Reply:
        """Run a command through dispatch."""
        raise NotImplementedError

    def _refuse(self, text: str) -> bytes:
        """The error reply for a command that is not run."""
        raise NotImplementedError

    def _failed(self, problem: Exception) -> bytes:
        """The error reply of a command that raised."""
        raise NotImplementedError

    def _take(self, reply: Reply, out: list[bytes]) -> bool:
        """Queue a reply; whether the connection must pause."""
        raise NotImplementedError

    def write(self, out: list[bytes]) -> None:
        """Send replies; while the client reads them, the policy is told of the hits."""
        super().write(out)
        if len(self._hits) > HITS_KEPT:
            self.engine.drain_hits()

    def allow_short_cuts(self, allowed: bool) -> None:
        """Decide whether the read loop may find and put entries by itself, where a command needs no more checks."""
        self.plain = allowed
        server = self.server
        if allowed:
            self._unsettled = self.engine.unsettled
            self._short_cuts = (self.engine.table if server.table_is_owned else _NONE[0], server.forwarder is None)
        else:
            self._short_cuts = _NONE

    def _answer_lone(self, chunk: bytes) -> Reply | None:
        """The reply to a chunk that is just one GET, SC.GET or SET; None, and nothing done, for any other."""
        now_ms = self._clock.now_ms()
        state = self.state
        if now_ms >= state.serve_until_ms:
            return None
        table, may_put = self._short_cuts
        size = len(chunk)
        if size <= known.READ_BYTES_MAX:
            head = known.GET[size]
            plain = chunk.startswith(head)
            if not plain:
                head = known.SC_GET[size]
            if plain or chunk.startswith(head):
                self.active_ms = now_ms
                self.state.commands += 1
                key = chunk[len(head) : -2]
                frame = self._hit(table, key, now_ms)
                if frame is None:
                    return self._execute([b"GET" if plain else b"SC.GET", key])
                if not plain:
                    frame = self._codec_head() + frame
                if len(self._hits) > HITS_KEPT:
                    self.engine.drain_hits()
                return frame
        if not may_put or size > known.SET_BYTES_MAX:
            return None
        key_bytes = known.KEY_BYTES.get(chunk[: known.HEAD_BYTES], 0)
        sets = self._sets
        if key_bytes < 100 or sets.read(chunk, known.HEAD_BYTES, key_bytes) != size:
            return None
        self.active_ms = now_ms
        self.state.commands += 1
        return self._set(sets.key, sets.value, now_ms + sets.ttl_ms if sets.ttl_ms else NEVER_MS)

    def _set(self, key: bytes, value: bytes, expires_ms: int = NEVER_MS) -> Reply:
        """Carry out a SET that has no other option than a time."""
        if key.startswith(b"default:"):
            key = canonical(key)
        try:
            done = self.engine.put(key, value, expires_ms=expires_ms)
            return OK if done is True else stored(done)
        except Exception as problem:  # noqa: BLE001 (answered, and logged when it is unforeseen)
            return self._failed(problem)

    def _run_lone(self, argv: list[bytes], out: list[bytes]) -> bool:
        """Execute the only command of a chunk; whether the connection must pause."""
        now_ms = self.active_ms = self._clock.now_ms()
        self.state.commands += 1
        many = argv[0] == b"SC.MGET" and now_ms < self.state.serve_until_ms
        if many and self._many_at_once(argv, self._short_cuts[0], now_ms, out):
            return False
        return self._take(self._execute(argv), out)

    def _run_known(self, chunk: bytes, out: list[bytes]) -> tuple[int, int, bool]:
        """Execute the GETs and SETs at the front of a chunk that are known by their bytes (known.py).

        Gives where the next one begins, how many were executed (one turn at most), and whether the connection is to
        pause.
        """
        now_ms = self.active_ms = self._clock.now_ms()
        table, may_put = self._short_cuts
        if table is _NONE[0] or now_ms >= self.state.serve_until_ms:
            return 0, 0, False
        sets = self._sets
        position = executed = 0
        size = len(chunk)
        pause = False
        while position < size and executed < TURN_COMMANDS and not pause:
            start = position + known.HEAD_BYTES
            key_bytes = known.KEY_BYTES.get(chunk[position:start], 0)
            if not key_bytes:
                break
            if key_bytes < 100:
                end = start + key_bytes
                if chunk[end : end + 2] != b"\r\n":
                    break
                position = end + 2
                executed += 1
                key = chunk[start:end]
                frame = self._hit(table, key, now_ms)
                if frame is not None:
                    out.append(frame)
                else:
                    pause = self._take(self._execute([b"GET", key]), out)
                continue
            after = sets.read(chunk, start, key_bytes) if may_put else -1
            if after < 0:
                break
            position = after
            reply = self._set(sets.key, sets.value, now_ms + sets.ttl_ms if sets.ttl_ms else NEVER_MS)
            executed += 1
            if reply is OK:
                out.append(OK)
            else:
                pause = self._take(reply, out)
        self.state.commands += executed
        return position, executed, pause

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
        except MalformedError:
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

    def _run_fast(self, out: list[bytes]) -> bool:  # noqa: PLR0912 (the hot loop: a call costs more than a branch)
        """Execute what hiredis holds, the hottest commands right here; whether the connection must pause."""
        gets = self._reader.gets
        append = out.append
        now_ms = self.active_ms = self._clock.now_ms()
        mode = self.plain
        table, may_put = self._short_cuts if now_ms < self.state.serve_until_ms else _NONE
        executed = 0
        try:
            while (argv := gets()) is not _END:
                if type(argv) is not list:
                    raise MalformedError  # a map or a push, whose elements can be had like a list's
                name = argv[0]
                if name == b"GET":
                    if len(argv) == 2 and (frame := self._hit(table, argv[1], now_ms)) is not None:
                        append(frame)
                        executed += 1
                        continue
                elif name == b"SET":
                    if may_put and len(argv) == 3 and isinstance(argv[1], bytes) and isinstance(argv[2], bytes):
                        executed += 1
                        reply = self._set(argv[1], argv[2])
                        if reply is OK:
                            append(OK)
                        elif self._take(reply, out):
                            return True
                        continue
                elif name == b"SC.GET":
                    if len(argv) == 2 and (frame := self._hit(table, argv[1], now_ms)) is not None:
                        append(self._codec_head() + frame)
                        executed += 1
                        continue
                elif name == b"SC.MGET" and self._many_at_once(argv, table, now_ms, out):
                    executed += 1
                    continue
                if not _all_bytes(argv):
                    raise MalformedError
                executed += 1
                if self._take(self._execute(argv), out):
                    return True
                if self.plain is not mode:  # MULTI, AUTH, CLIENT TRACKING: the rest of the chunk is under another rule
                    mode = self.plain
                    table, may_put = self._short_cuts if now_ms < self.state.serve_until_ms else _NONE
        except (hiredis.HiredisError, TypeError, IndexError, KeyError) as problem:
            raise MalformedError from problem  # handlers' own errors do not come up here: `run` answers them
        finally:
            self._executed += executed
            self.state.commands += executed
        return False

    def _hit(self, table: dict[bytes, Entry], key: bytes, now_ms: int) -> bytes | None:
        """The reply for a key whose entry may be sent just as it lies there, and the hit is logged; None for others."""
        entry = table.get(key)
        if entry is None or entry.expires_ms <= now_ms or key in self._unsettled:
            return None
        frame = entry.frame or _first_frame(entry)
        if frame is not None:
            self._hits.append(entry)
        return frame

    def _codec_head(self) -> bytes:
        """What SC.GET answers before the frame of the entry that was hit just now."""
        return _CODEC_HEADS[self._hits[-1].page.group.codec]

    def _many_at_once(self, argv: list[bytes], table: dict[bytes, Entry], now_ms: int, out: list[bytes]) -> bool:
        """SC.MGET when all its keys are in L1: the frames go out as they lie. False, and nothing done, otherwise."""
        # Comprehensions rather than one loop: a third of the time, and this is half of what such a command costs.
        keys = argv[1:]
        entries = [entry for entry in map(table.get, keys) if entry is not None and entry.expires_ms > now_ms]
        if len(entries) != len(keys) or not entries or not self._unsettled.keys().isdisjoint(keys):
            return False
        frames = [entry.frame or _first_frame(entry) or b"" for entry in entries]
        if not all(frames) or sum(map(len, frames)) > self.server.config.output_bytes_max:
            return False
        codecs = bytes([entry.page.group.codec for entry in entries])
        out.append(b"*%d\r\n$%d\r\n%b\r\n" % (1 + len(entries), len(entries), codecs))
        out += frames
        self._hits.extend(entries)
        return True

    def _run_parser(self, out: list[bytes]) -> bool:
        """Execute what the exact parser holds; whether the connection must pause."""
        parser = self._parser
        turn = 0
        while True:
            parser.trusted = self.access > Access.NONE
            if self.plain and parser.between_commands and parser.front(known.HEAD_BYTES) in known.KEY_BYTES:
                rest = parser.take_rest()
                done, executed, pause = 0, 0, False
                if len(rest) <= self._chunk_bytes_max:
                    done, executed, pause = self._run_known(rest, out)
                parser.feed(rest[done:])
                turn += executed
                if pause or turn >= TURN_COMMANDS:
                    return True
            argv = parser.next()
            if argv is None:
                self._in_step = parser.idle
                return False
            if argv:
                self.state.commands += 1
                if self._take(self._run_exact(argv), out):
                    return True
            turn += 1  # for an empty line, too: nobody fills a turn of the loop with them
            if turn >= TURN_COMMANDS:
                return True

    def _run_exact(self, argv: list[bytes | Oversize]) -> Reply:
        for argument in argv:
            if isinstance(argument, Oversize):
                limit = self.server.config.value_bytes_max
                return self._refuse(
                    f"LIMIT an argument has {argument.length} bytes, the limit is {limit}: split the value"
                )
        return self._execute(cast("list[bytes]", argv))
