"""The server's side of a simulated connection: the transport of a real `Connection`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from stratacache.node.resp.server import Connection
from tests.simulation.network import Pipe
from tests.simulation.world import Process

if TYPE_CHECKING:
    from tests.simulation.shards import ShardProcess


class ServerEnd:
    """The server's end of a connection: a transport for the real `Connection`, over two pipes."""

    def __init__(self, shard: ShardProcess, client: Process, deliver: Callable[[bytes | None], None]) -> None:
        self._shard = shard
        self._reading = True
        self._held: deque[bytes | None] = deque()
        self._open = True
        network = shard.cluster.network
        self.requests = Pipe(network, client, shard, self._arrive)
        self._replies = Pipe(network, shard, client, deliver)
        self._connection = Connection(shard.server)
        self._connection.connection_made(cast("Any", self))
        shard.on_death.append(lambda: self._replies.send(None))

    def _arrive(self, chunk: bytes | None) -> None:
        if not self._open:
            return
        if not self._reading and chunk is not None:
            self._held.append(chunk)
            return
        if chunk is None:
            self._end()
            return
        if self._shard.may_serve():
            self._shard.cluster.oracle.serves(self._shard)
        self._connection.data_received(chunk)

    def _end(self) -> None:
        if self._open:
            self._open = False
            self._replies.send(None)
            self._connection.connection_lost(None)

    # what a Connection asks of its transport

    def write(self, data: bytes) -> None:
        if self._open and self._shard.alive:
            self._replies.send(bytes(data))

    def close(self) -> None:
        self._shard.after(0, self._end)

    abort = close

    def is_closing(self) -> bool:
        return not self._open

    def is_reading(self) -> bool:
        return self._reading

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        while self._held and self._reading:
            self._arrive(self._held.popleft())

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, **_: int) -> None:
        """Nothing is buffered here."""
