"""Which keys a shard answers for: the decision half of the actor's forwarder, with the real ring."""

from __future__ import annotations

from collections.abc import Sequence

from stratacache.client.view import View
from stratacache.cluster.chains import Chains
from stratacache.cluster.ownership import Ownership
from stratacache.node.errors import UnavailableError


class RingRouter:
    """The server's Forwarder for native clients, which are sent to the owner by MOVED."""

    def __init__(self, shard: str, chains: Chains | None = None) -> None:
        self.ownership = Ownership(shard)
        self._chains = chains

    def set_view(self, view: View) -> None:
        """Route by this view from now on."""
        self.ownership.activate(view)

    def owner(self, key: bytes) -> str | None:
        """The shard that answers for a canonical key, None when it is this one; CommandError for one that moves."""
        return self._chains.owner(key) if self._chains is not None else self.ownership.owner(key)

    def reader(self, key: bytes) -> str | None:
        """As `owner`, for those who only read."""
        return self._chains.reader(key) if self._chains is not None else self.owner(key)

    def shards(self) -> Sequence[str]:
        """No plain clients here, so nobody asks."""
        return ()

    async def call(self, shard: str, argv: Sequence[bytes]) -> object:
        """No plain clients here."""
        raise UnavailableError(f"{shard} is not asked for others in the simulation")
