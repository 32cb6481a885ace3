"""What a shard needs of its cluster to serve keys that are not its own.

A plain Redis client may talk to any shard: that shard asks the owner, in one hop. A call that was forwarded arrives on
a native connection (`SC.HELLO`), and what comes over a native connection is never forwarded again: that is the marker
which makes a second hop impossible.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Forwarder(Protocol):
    """Knows the ring and how to reach the other shards; the cluster implements it over the client's data path."""

    def owner(self, key: bytes) -> str | None:
        """Shard that answers for a canonical key, None when it is this one. Called on the event loop: must be fast."""
        ...

    def shards(self) -> Sequence[str]:
        """The other shards of the view, for commands that span all."""
        ...

    async def call(self, shard: str, argv: Sequence[bytes]) -> object:
        """Run a command on another shard over a native connection, within a deadline.

        Returns the parsed reply: None, int, bytes, list. Raises UnavailableError when the shard can't be reached, and
        CommandError with the error text when the shard refused.
        """
        ...
