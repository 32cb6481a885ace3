"""What one shard notes for others that are away, and how a shard pays what was noted for it.

Invariants: nothing is noted for a shard that is not away; what changes no key (tags, namespaces, all) is noted for all
that are, a key for its owners among them; the engine tells of its changes only while somebody is away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from stratacache.cluster import messages as m
from stratacache.cluster import serving_events as s
from stratacache.cluster.debts import merged

if TYPE_CHECKING:
    from stratacache.cluster.replication import Replication
    from stratacache.cluster.serving import Serving
    from stratacache.node.engine import MultiLevelCache
    from stratacache.node.resp.server import NodeServer
    from stratacache.node.types import RemovalCause


class Owing:
    """Notes in the logs of `serving` what shards that are away miss."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._replication: Replication | None = None

    def listen(self, server: NodeServer, replication: Replication | None) -> None:
        """Be told of the engine's changes only while some shard owes them: each put costs less without."""
        self._replication = replication
        wanted, hears = self._serving.is_logging(), self._note in server.listeners
        if wanted != hears:
            (server.listeners.append if wanted else server.listeners.remove)(self._note)
            server.listen()

    def _note(self, kind: str, names: Sequence[bytes], cause: RemovalCause, seq: int) -> None:  # noqa: ARG002
        if kind != "keys":
            self._serving.handle(s.Invalidated(debt=m.Debt(kind=kind, names=tuple(names))), 0)
        elif self._replication is not None:
            for key in names:
                for shard in self._replication.chains.away(key):
                    self.missed(shard, (key,))

    def missed(self, shard: str, keys: Sequence[bytes]) -> None:
        """Keys have changed without one of their owners."""
        for key in keys:
            self._serving.handle(s.Invalidated(debt=m.Debt(kind="keys", names=(key,)), shard=shard), 0)

    def owe(self, keys: Sequence[bytes]) -> None:
        """A client invalidates keys everywhere, since their owner is suspended."""
        self._serving.handle(s.Invalidated(debt=m.Debt(kind="keys", names=tuple(keys))), 0)


def pay(engine: MultiLevelCache, debts: Sequence[m.Debt]) -> Iterator[int | Future[int]]:
    """Apply what was noted, a step at a time: the next one when the answer to the last is there."""
    for debt in merged(debts):
        match debt.kind:
            case "tags":
                yield engine.invalidate_tags(debt.names)
            case "keys":
                yield engine.invalidate_keys(debt.names)
            case "namespace":
                yield engine.invalidate_namespace(debt.names[0])
            case _:
                yield engine.clear()
