"""A server whose connections are fed by hand: no sockets, no threads, every byte under the test's control."""

from __future__ import annotations

import asyncio
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
            fn, args = self.ready.popleft()
            fn(*args)


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

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.closed = True

    abort = close


class InProcess:
    """One engine, one server, as many connections as wanted."""

    def __init__(self, node: NodeConfig | None = None, **settings: Any) -> None:
        self.clock = ManualClock()
        self.engine = MultiLevelCache(node or NodeConfig(l1_bytes_max=64 << 20), clock=self.clock)
        self.server = NodeServer(self.engine, ServerConfig(**settings), identity=Identity(incarnation=1))
        self.loop = Loop()
        self.server.loop = self.loop  # type: ignore[assignment]

    def connect(self) -> tuple[Connection, Transport]:
        connection = Connection(self.server)
        transport = Transport()
        connection.connection_made(transport)
        return connection, transport

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
