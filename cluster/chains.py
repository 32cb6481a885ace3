"""Who of a key's owners may change it, who may be read, and to whom a change goes on: one shard's part of two views.

With replicas, the active owners of a key form a chain in the order of the ring: the first one changes the key, each
hands the change on to the next and answers when that one has answered (chain replication: van Renesse and Schneider,
OSDI 2004, with reads of any link as in CRAQ, Terrace and Freedman, USENIX 2009). So whatever one link shows to a reader
is known to all behind it, and no link before it shows anything older.

Invariants:
- the ring depends on ids, weights and groups alone: who is active changes chains, never owners;
- from the moment a view is prepared until it is activated, nobody changes a key whose chain differs between the two;
- a shard that joins is no link of any chain before the view that lets it in is activated.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from stratacache.client.ring import Ring
from stratacache.client.view import ACTIVE, ShardInfo, View
from stratacache.node.resp.replies import CommandError

HELD: Final = "TRYAGAIN the owners of the key are just changing"


@lru_cache(maxsize=64)
def _ring(shards: tuple[tuple[str, float, str], ...], replicas: int) -> Ring:
    infos = tuple(ShardInfo(id=shard, weight=weight, group=group) for shard, weight, group in shards)
    return Ring(View(epoch=0, replicas=replicas, shards=infos))


def ring_of(view: View) -> Ring:
    """The ring of a view's owners; most views share it."""
    return _ring(tuple((shard.id, shard.weight, shard.place) for shard in view.shards), view.replicas)


def active_in(view: View | None) -> dict[str, str]:
    """The active shards of a view with their incarnations."""
    return {} if view is None else {one.id: one.incarnation for one in view.shards if one.state == ACTIVE}


class Chains:
    """One shard's links under the view in force and the newest one that it has prepared."""

    def __init__(self, shard: str) -> None:
        self.shard = shard
        self.view: View | None = None
        self.newest: View | None = None
        self.peers: Mapping[str, str] = {}
        """The other active shards of the newest view, with their incarnations."""
        self._ring: Ring | None = None
        self._active: Mapping[str, str] = {}
        self._live: Mapping[str, str] = {}
        self._away: frozenset[str] = frozenset()
        self._changing: frozenset[str] = frozenset()

    def prepare(self, view: View) -> None:
        """The shard has prepared a view."""
        self.newest = view
        self._ring = ring_of(view)
        self._work_out()

    def activate(self, view: View) -> None:
        """The view is in force here."""
        self.view = view
        self.prepare(view)

    def _work_out(self) -> None:
        before, after = active_in(self.view), active_in(self.newest)
        self._active = before
        both = {shard: number for shard, number in after.items() if before.get(shard) == number}
        self._live = both if self.view is not None else after
        self._changing = frozenset(shard for shard in {**before, **after} if before.get(shard) != after.get(shard))
        self._away = (
            frozenset(shard.id for shard in self.newest.shards if shard.id not in after)
            if self.newest
            else (frozenset())
        )
        self.peers = {shard: number for shard, number in after.items() if shard != self.shard}

    def owners(self, key: bytes) -> tuple[ShardInfo, ...]:
        """The owners of a key, whatever their state."""
        return self._ring.owners(key) if self._ring is not None else ()

    def owner(self, key: bytes) -> str | None:
        """The shard that may change a key under the view in force, None when it is this one."""
        owners = self.owners(key)
        active = self._active
        for one in owners:
            if one.id in active:
                return None if one.id == self.shard else one.id
        return owners[0].id if owners else None

    def reader(self, key: bytes) -> str | None:
        """None when this shard may be read, else one that may."""
        shard = self.shard
        for one in self.owners(key):
            if one.id == shard:
                return None
        return self.owner(key)

    def check_change(self, key: bytes) -> None:
        """Whether this shard may change the key at this moment; raises CommandError."""
        owners = self.owners(key)
        if self._changing and any(one.id in self._changing for one in owners):
            raise CommandError(HELD)
        if self.owner(key) is not None:
            raise CommandError(HELD)

    def successor(self, key: bytes) -> str | None:
        """The next link behind this shard."""
        live = self._live
        behind = False
        for one in self.owners(key):
            if one.id == self.shard:
                behind = True
            elif behind and one.id in live:
                return one.id
        return None

    def behind(self, key: bytes) -> bool:
        """Whether the newest view has an active owner behind this shard."""
        owners = [one.id for one in self.owners(key)]
        if self.shard not in owners:
            return False
        return any(one in self.peers for one in owners[owners.index(self.shard) + 1 :])

    def others(self, key: bytes) -> list[str]:
        """The other active owners, first to last."""
        return [one.id for one in self.owners(key) if one.id in self.peers]

    def away(self, key: bytes) -> list[str]:
        """The owners that are suspended in the newest view, so that they miss what happens to the key."""
        away = self._away
        return [one.id for one in self.owners(key) if one.id in away] if away else []

    def is_owner(self, shard: str, key: bytes) -> bool:
        """Whether a shard is one of the owners."""
        return any(one.id == shard for one in self.owners(key))
