"""Pushes to near caches: `SC.WATCH` connections hear of everything that changes on this shard, numbered without gaps.

Invariants: a change is pushed before the command that made it is answered; `seq` grows by one with every push, and a
reply that carries `seq` was read before any push with a greater number was sent; nothing is gathered while nobody
watches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from stratacache.node.resp.replies import bulk, bulks, integer, push

if TYPE_CHECKING:
    from stratacache.node.resp.connection import Connection
    from stratacache.node.resp.server import NodeServer

BEAT_MS: Final = 250
NAMES_MAX: Final = 1000
"""Names in one push; more are split, so that a client never has to take in a huge message at once."""


class Watchers:
    """The watching connections, the sequence number, and the changes that wait to be sent."""

    def __init__(self, server: NodeServer) -> None:
        self._server = server
        self._clients: set[Connection] = set()
        self.seq = 0
        self._keys: dict[bytes, None] = {}
        self._groups: list[tuple[bytes, list[bytes]]] = []
        self._beat_ms = 0

    def __len__(self) -> int:
        return len(self._clients)

    def add(self, client: Connection) -> None:
        """Begin to push to a client."""
        self.flush()
        self._clients.add(client)
        self._server.listen()

    def discard(self, client: Connection) -> None:
        """Stop pushing to a client."""
        self._clients.discard(client)

    def keys_changed(self, keys: Sequence[bytes]) -> None:
        """Note that keys changed or went."""
        if self._clients:
            self._keys.update(dict.fromkeys(keys))

    def group_changed(self, kind: str, names: Sequence[bytes]) -> None:
        """Note that tags, a namespace or everything was invalidated."""
        if self._clients:
            self._groups.append((kind.encode(), list(names)))

    def flush(self) -> None:
        """Hand what was noted to the watching connections."""
        if not self._keys and not self._groups:
            return
        groups, self._groups = self._groups, []
        keys, self._keys = list(self._keys), {}
        for start in range(0, len(keys), NAMES_MAX):
            groups.append((b"keys", keys[start : start + NAMES_MAX]))
        for kind, names in groups:
            self.seq += 1
            self._send(push([bulk(b"sc.inv"), integer(self.seq), bulk(kind), bulks(names)]))

    def _send(self, message: bytes) -> None:
        self._beat_ms = self._server.engine.now_ms()
        for client in self._clients:
            client.push(message)

    def tick(self, now_ms: int) -> None:
        """Send a heartbeat when nothing else was sent for a while.

        A shard that may not serve falls silent, so that near caches drop what they hold of it; the epoch tells them of
        a view under which keys may have moved.
        """
        server = self._server
        if self._clients and now_ms - self._beat_ms >= BEAT_MS and now_ms < server.serve_until_ms:
            self._send(push([bulk(b"sc.beat"), integer(self.seq), integer(server.epoch)]))
