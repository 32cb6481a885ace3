"""Which keys a shard answers for: the decision half of the actor's forwarder, with the real ring."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from stratacache.client.ring import Ring
from stratacache.client.view import ShardInfo, View
from stratacache.cluster.chains import Chains
from stratacache.node.errors import UnavailableError


@lru_cache(maxsize=256)
def _ring(shards: tuple[tuple[str, float], ...]) -> Ring:
    """Owners depend on ids and weights alone, which most views share."""
    return Ring(View(epoch=0, shards=tuple(ShardInfo(id=shard, weight=weight) for shard, weight in shards)))


class RingRouter:
    """The server's Forwarder for native clients, which are sent to the owner by MOVED."""

    def __init__(self, shard: str, chains: Chains | None = None) -> None:
        self.shard = shard
        self._chains = chains
        self._ring: Ring | None = None

    def set_view(self, view: View) -> None:
        """Route by this view from now on."""
        self._ring = _ring(tuple((shard.id, shard.weight) for shard in view.shards))

    def owner(self, key: bytes) -> str | None:
        """The shard that answers for a canonical key, None when it is this one."""
        if self._chains is not None:
            return self._chains.owner(key)
        if self._ring is None:
            return None
        shard = self._ring.primary(key).id
        return None if shard == self.shard else shard

    def reader(self, key: bytes) -> str | None:
        """As `owner`, for those who only read."""
        return self._chains.reader(key) if self._chains is not None else self.owner(key)

    def shards(self) -> Sequence[str]:
        """No plain clients here, so nobody asks."""
        return ()

    async def call(self, shard: str, argv: Sequence[bytes]) -> object:
        """No plain clients here."""
        raise UnavailableError(f"{shard} is not asked for others in the simulation")
