"""A server whose connections are fed by hand: no sockets, no threads, every byte under the test's control."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from stratacache.node.clock import ManualClock
from stratacache.node.config import NodeConfig
from stratacache.node.engine import MultiLevelCache
from stratacache.node.resp.config import ServerConfig
from stratacache.node.resp.connection import Connection
from stratacache.node.resp.server import Identity, NodeServer


class Loop:
    """What a server asks of its event loop, run by hand."""

    def __init__(self) -> None:
        self.ready: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()

    def call_soon(self, fn: Callable[..., Any], *args: Any) -> None:
        self.ready.append((fn, args))

    call_soon_threadsafe = call_soon

    def run(self) -> None:
        while self.ready:
            self._step()

    def _step(self) -> None:
        fn, args = self.ready.popleft()
        fn(*args)

    def run_until(self, condition: Callable[[], bool], deadline_s: float = 10.0) -> None:
        """Run what is posted until a condition holds, and nothing behind it.

        The worker thread posts whenever it is done with something.
        """
        until = time.monotonic() + deadline_s
        while not condition():
            assert time.monotonic() < until, "what was waited for did not happen"
            if self.ready:
                self._step()
            else:
                time.sleep(0.0005)


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False
        self.reading = True

    def write(self, data: Any) -> None:
        assert not self.closed
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

    def is_reading(self) -> bool:
        return self.reading

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.closed = True

    abort = close


class InProcess:
    """One engine, one server, as many connections as wanted. `posts`: the disk is waited for as on a real loop."""

    def __init__(self, node: NodeConfig | None = None, *, posts: bool = False, **settings: Any) -> None:
        self.clock = ManualClock()
        self.loop = Loop()
        post = self.loop.call_soon_threadsafe if posts else None
        self.engine = MultiLevelCache(node or NodeConfig(l1_bytes_max=64 << 20), clock=self.clock, post=post)
        self.server = NodeServer(self.engine, ServerConfig(**settings), identity=Identity(incarnation=1))
        self.server.loop = self.loop  # type: ignore[assignment]

    def connect(self, transport: Transport | None = None) -> tuple[Connection, Transport]:
        connection = Connection(self.server)
        transport = transport or Transport()
        connection.connection_made(transport)
        return connection, transport

    def settle(self) -> None:
        """Write out what waits for the disk."""
        l3 = self.engine.l3
        assert l3 is not None
        until = time.monotonic() + 10
        while not l3.idle:
            assert time.monotonic() < until, "the disk does not come to rest"
            self.engine.flush()
            self.engine._handoff.run_done_for(0.05)
            self.loop.run()

    def run(self, chunks: list[bytes]) -> tuple[bytes, bool]:
        """Feed chunks to a new connection; gives what it answered and whether it was closed."""
        connection, transport = self.connect()
        for chunk in chunks:
            if transport.closed:
                break
            connection.data_received(chunk)
            self.loop.run()
        connection.connection_lost(None)
        return bytes(transport.written), transport.closed
