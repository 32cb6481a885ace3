"""Views of three owners, and a key that all of them own."""

from __future__ import annotations

from stratacache.client.view import SUSPENDED, ShardInfo, View
from stratacache.cluster.chains import ring_of


def view_of(epoch: int, states: dict[str, str], replicas: int = 3) -> View:
    """A view of shards by id: an incarnation, or "" for a suspended one."""
    shards = tuple(
        ShardInfo(id=shard, incarnation=number or "1", node=f"node-{shard}", state="active" if number else SUSPENDED)
        for shard, number in states.items()
    )
    return View(epoch=epoch, replicas=replicas, shards=shards)


ALL = view_of(1, {"a": "1", "b": "1", "c": "1"})
KEY = next(b"k%d" % n for n in range(100) if [one.id for one in ring_of(ALL).owners(b"k%d" % n)] == ["a", "b", "c"])
