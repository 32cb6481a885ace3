"""How one shard asks another of the same cluster over the wire, for a handoff.

Invariants: one link to each process, opened on first use; every question is answered once, with a reply, a refusal or
None, or the process ends, as it does when a step that comes later fails; a link on which nothing moved in time is never
used again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import hiredis

from stratacache.client.view import ShardInfo
from stratacache.cluster.background import Background, Fall
from stratacache.cluster.intake import Refused
from stratacache.cluster.links import Credentials, Link
from stratacache.node.errors import UnavailableError


class LinkPeers:
    """The `Peers` of a shard process, on its event loop."""

    def __init__(self, credentials: Credentials, fall: Fall) -> None:
        self._credentials = credentials
        self._background = Background(fall)
        self._links: dict[tuple[str, str], Link] = {}
        self._opening: dict[tuple[str, str], asyncio.Lock] = {}

    def after(self, ms: int, fn: Callable[[], None]) -> None:
        """Call `fn` in so many milliseconds."""
        asyncio.get_running_loop().call_later(ms / 1000, self._call, fn)

    def _call(self, fn: Callable[[], None]) -> None:
        with self._background.must_not_fail("a step of a handoff"):
            fn()

    def ask(self, shard: ShardInfo, argv: Sequence[bytes], deadline_ms: int, done: Callable[[Any], None]) -> None:
        """Send a command to this process of a shard."""
        self._background.keep(self._ask(shard, argv, deadline_ms / 1000, done))

    async def _ask(
        self, shard: ShardInfo, argv: Sequence[bytes], deadline_s: float, done: Callable[[Any], None]
    ) -> None:
        try:
            async with asyncio.timeout(deadline_s):
                link = await self._link(shard)
            reply = await link.ask(argv, deadline_s)
        except (TimeoutError, UnavailableError):
            reply = None
        done(Refused(str(reply)) if isinstance(reply, hiredis.ReplyError) else reply)

    async def _link(self, shard: ShardInfo) -> Link:
        name = (shard.id, shard.incarnation)
        async with self._opening.setdefault(name, asyncio.Lock()):
            link = self._links.get(name)
            if link is None or link.broken:
                self._forget_broken()
                link = self._links[name] = await Link.open(shard, self._credentials)
            return link

    def _forget_broken(self) -> None:
        """Of processes that are gone nothing is kept."""
        self._links = {name: link for name, link in self._links.items() if not link.broken}
        self._opening = {name: lock for name, lock in self._opening.items() if name in self._links or lock.locked()}

    def close(self) -> None:
        """End all links; what waits on them gets None."""
        for link in self._links.values():
            link.close()
        self._links.clear()
