"""How a shard finds and asks the owner of a key that a plain Redis client brought to it.

Invariants: one hop (the link is native, and what comes over a native connection is never forwarded again); one link to
each shard, opened on first use and thrown away with the view's endpoint; no call waits while nothing moves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import hiredis

from stratacache.client.view import SUSPENDED, View
from stratacache.cluster.chains import Chains
from stratacache.cluster.links import Credentials, Link
from stratacache.cluster.ownership import Ownership
from stratacache.node.errors import UnavailableError
from stratacache.node.resp.replies import CommandError

CALL_DEADLINE_S: Final = 2.0


class RingForwarder:
    """The server's Forwarder, over the ring of the view that is in force here."""

    def __init__(self, shard: str, credentials: Credentials, chains: Chains | None = None) -> None:
        self.shard = shard
        self._chains = chains
        self.ownership = Ownership(shard)
        self._credentials = credentials
        self._view: View | None = None
        self._links: dict[str, Link] = {}
        self._opening: dict[str, asyncio.Lock] = {}

    def set_view(self, view: View) -> None:
        """Route by this view from now on."""
        self.ownership.activate(view)
        self._view = view
        for shard, link in list(self._links.items()):
            if link.shard != view.by_id.get(shard):
                self._links.pop(shard).close()

    def owner(self, key: bytes) -> str | None:
        """The shard that answers for a canonical key, None when it is this one; CommandError for one that moves."""
        return self._chains.owner(key) if self._chains is not None else self.ownership.owner(key)

    def reader(self, key: bytes) -> str | None:
        """As `owner`, for those who only read: None too when this shard is one of several owners."""
        return self._chains.reader(key) if self._chains is not None else self.owner(key)

    def shards(self) -> Sequence[str]:
        """The other shards of the view."""
        view = self._view
        return () if view is None else tuple(shard.id for shard in view.shards if shard.id != self.shard)

    async def call(self, shard: str, argv: Sequence[bytes]) -> object:
        """Run a command on another shard; raises UnavailableError, or CommandError with the shard's error text."""
        try:
            async with asyncio.timeout(CALL_DEADLINE_S):
                link = await self._link(shard)
        except TimeoutError:
            raise UnavailableError(f"{shard} could not be reached within {CALL_DEADLINE_S:g} s") from None
        reply = await link.ask(argv, CALL_DEADLINE_S)
        if isinstance(reply, hiredis.ReplyError):
            raise CommandError(str(reply))
        return reply

    async def _link(self, shard: str) -> Link:
        async with self._opening.setdefault(shard, asyncio.Lock()):
            link = self._links.get(shard)
            if link is not None and not link.broken:
                return link
            info = self._view.by_id.get(shard) if self._view is not None else None
            if info is None or info.state == SUSPENDED:
                raise UnavailableError(f"{shard} does not serve now")
            link = await Link.open(info, self._credentials)
            if self._view is None or self._view.by_id.get(shard) != info:
                link.close()
                raise UnavailableError(f"{shard} was replaced meanwhile")
            self._links[shard] = link
            return link

    async def close(self) -> None:
        """End all links."""
        for link in self._links.values():
            link.close()
        self._links.clear()
