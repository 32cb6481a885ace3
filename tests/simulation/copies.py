"""Replication in a simulated shard: the real decisions, and `cluster/stream_links.py` mirrored over simulated pipes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from stratacache.client.transport.wire import check_greeting, pack
from stratacache.client.view import ACTIVE, ShardInfo, View
from stratacache.cluster.replication import Replication
from stratacache.cluster.streams import Lane, Stream, Words
from stratacache.node.errors import UnavailableError
from tests.simulation.sockets import Socket

if TYPE_CHECKING:
    from tests.simulation.shards import ShardProcess

AGAIN_MS = 50.0
ASK_DEADLINE_MS = 2000.0


class StreamSocket(Socket):
    """A connection whose answers come one by one, once it is open."""

    each: Callable[[Any], None] | None = None

    def _arrive(self, chunk: bytes | None) -> None:
        each = self.each
        if each is None or chunk is None or self.closed:
            super()._arrive(chunk)
            return
        self._reader.feed(chunk)
        while (reply := self._reader.gets()) is not self.nothing:
            each(reply)

    def write(self, commands: list[Words]) -> None:
        """Send without counting the answers."""
        if not self.closed and self._requests is not None:
            self._requests.send(b"".join(pack(commands)))


class SimLinks:
    """Connections of one shard process to the other shards."""

    def __init__(self, process: ShardProcess, replication: Replication) -> None:
        self._process = process
        self._replication = replication
        self._outbox = replication.outbox
        self._runs: dict[Lane, Stream] = {}
        self._sockets: dict[Lane, StreamSocket] = {}
        self._woken: set[Lane] = set()
        self._view: View | None = None
        self._open: dict[Socket, None] = {}
        self._outbox.wake = self._wake
        replication.ask = self._ask
        replication.after = process.after
        process.on_death.append(self._end_all)

    def _end_all(self) -> None:
        for socket in list(self._open):
            socket.close()

    def follow(self, view: View) -> None:
        """As StreamLinks.follow."""
        self._view = view
        streams = self._outbox.streams
        for lane, stream in list(self._runs.items()):
            if streams.get(lane) is not stream:
                del self._runs[lane]
                socket = self._sockets.pop(lane, None)
                if socket is not None:
                    socket.close()
        for lane, stream in streams.items():
            info = view.by_id.get(stream.peer)
            if lane not in self._runs and info is not None:
                self._runs[lane] = stream
                self._run(stream, info)

    def _connect(self, info: ShardInfo, kind: type[Socket], done: Callable[[Any], None]) -> None:
        """`done` gets an open connection to that incarnation, or None."""
        socket = kind(self._process, self._process.cluster, info)
        self._open[socket] = None

        def greeted(replies: Any) -> None:
            if isinstance(replies, str) or check_greeting(replies, info, exact=True) is not None:
                self._close(socket)
                done(None)
            else:
                done(socket)

        socket.open(greeted)

    def _close(self, socket: Socket) -> None:
        socket.close()
        self._open.pop(socket, None)

    def _run(self, stream: Stream, info: ShardInfo) -> None:
        lane = stream.lane

        def again() -> None:
            stream.broken()
            if self._runs.get(lane) is stream:
                self._process.after(AGAIN_MS, lambda: self._run(stream, info))

        def connected(socket: StreamSocket | None) -> None:
            if socket is None or self._runs.get(lane) is not stream:
                if socket is not None:
                    self._close(socket)
                again()
                return
            shard, incarnation = self._process.shard, self._process.incarnation
            socket.send(
                pack([(b"SC.STREAM", shard.encode(), b"%d" % incarnation, b"%d" % lane[1])]),
                1,
                lambda r: opened(socket, r),
            )

        def opened(socket: StreamSocket, replies: Any) -> None:
            if isinstance(replies, str) or not isinstance(replies[0], int) or self._runs.get(lane) is not stream:
                self._close(socket)
                again()
                return
            self._outbox.opened(stream, replies[0])
            self._sockets[lane] = socket

            def ended(_: Any) -> None:
                self._close(socket)
                if self._sockets.get(lane) is socket:
                    del self._sockets[lane]
                again()

            socket._done = ended
            socket.each = lambda reply: answered(socket, reply)
            self._pump(lane)

        def answered(socket: StreamSocket, reply: Any) -> None:
            if not isinstance(reply, int):
                socket._end("a gap, or another view")
                return
            self._outbox.answered(stream, reply)
            if stream.has_more:
                self._wake(lane)

        if self._runs.get(lane) is stream:
            self._connect(info, StreamSocket, connected)

    def _wake(self, lane: Lane) -> None:
        if lane not in self._woken:
            self._woken.add(lane)
            self._process.after(0, lambda: self._pump(lane))

    def _pump(self, lane: Lane) -> None:
        self._woken.discard(lane)
        stream, socket = self._outbox.streams.get(lane), self._sockets.get(lane)
        if stream is not None and socket is not None and not socket.closed:
            fresh = stream.unsent()
            if fresh:
                socket.write(fresh)

    def _ask(self, peer: str, words: Words) -> Future[Any]:
        """As the actor's forwarder: one question, one answer, a deadline."""
        result: Future[Any] = Future()
        info = self._view.by_id.get(peer) if self._view is not None else None

        def end(reply: Any) -> None:
            if result.done():
                return
            if reply is None or isinstance(reply, Exception):
                result.set_exception(UnavailableError(f"{peer} gave no answer"))
            else:
                result.set_result(reply)

        def connected(socket: Socket | None) -> None:
            if socket is None:
                end(None)
                return

            def answered(replies: Any) -> None:
                self._close(socket)
                end(None if isinstance(replies, str) else replies[0])

            socket.send(pack([words]), 1, answered)

        self._process.after(ASK_DEADLINE_MS, lambda: end(None))
        if info is None or info.state != ACTIVE:
            self._process.after(1, lambda: end(None))
        else:
            self._connect(info, Socket, connected)
        return result
