"""Which keys a shard answers for, also while a view with another ring is being prepared.

Invariant: from the moment a shard has prepared a view until it is activated, or another is prepared, it answers for
those keys only that it owns under both: a key that moves has nobody to change it meanwhile.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from stratacache.client.ring import Ring
from stratacache.client.view import ShardInfo, View
from stratacache.node.resp.replies import CommandError

MOVING: Final = "TRYAGAIN the key is just moving to another shard"


@lru_cache(maxsize=64)
def _ring(shards: tuple[tuple[str, float], ...]) -> Ring:
    """The primary of a key depends on ids and weights alone, which most views share."""
    return Ring(View(epoch=0, shards=tuple(ShardInfo(id=shard, weight=weight) for shard, weight in shards)))


def ring_of(view: View) -> Ring:
    """The ring of a view, for primaries only: its shards have no addresses and no machines."""
    return _ring(tuple((shard.id, shard.weight) for shard in view.shards))


class Ownership:
    """One shard's part of the ring in force and of the one that comes next."""

    def __init__(self, shard: str) -> None:
        self.shard = shard
        self._ring: Ring | None = None
        self._next: Ring | None = None

    def prepare(self, view: View) -> None:
        """The shard has prepared a view; the one before it, if it was not activated, will not be."""
        ring = ring_of(view)
        self._next = None if ring is self._ring else ring

    def activate(self, view: View) -> None:
        """Answer by this view from now on."""
        self._ring, self._next = ring_of(view), None

    @property
    def is_moving(self) -> bool:
        """Whether the view that was prepared has another ring than the one in force."""
        return self._next is not None

    def owner(self, key: bytes) -> str | None:
        """The shard that answers for a canonical key, None when it is this one; CommandError for one that moves."""
        ring = self._ring
        if ring is None:
            return None
        shard = ring.primary(key).id
        if shard != self.shard:
            return shard
        if self._next is not None and self._next.primary(key).id != shard:
            raise CommandError(MOVING)
        return None

    def keeps(self, key: bytes) -> bool:
        """Whether the shard owns a key now and will go on to."""
        shard = self.shard
        if self._ring is None or self._ring.primary(key).id != shard:
            return False
        return self._next is None or self._next.primary(key).id == shard

    def owns(self, key: bytes) -> bool:
        """Whether the shard owns a key under the ring in force."""
        return self._ring is not None and self._ring.primary(key).id == self.shard

    def primary(self, key: bytes) -> str:
        """The owner of a key under the ring in force."""
        return self.shard if self._ring is None else self._ring.primary(key).id
