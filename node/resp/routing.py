"""What a shard needs of its cluster to serve keys that are not its own.

A plain Redis client may talk to any shard: that shard asks the owner, in one hop. A call that was forwarded arrives on
a native connection (`SC.HELLO`), and what comes over a native connection is never forwarded again: that is the marker
which makes a second hop impossible.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from stratacache.node.entry import Entry


class Forwarder(Protocol):
    """Knows the ring and how to reach the other shards; the cluster implements it over the client's data path."""

    def owner(self, key: bytes) -> str | None:
        """Shard that answers for a canonical key, None when it is this one. Called on the event loop: must be fast."""
        ...

    def reader(self, key: bytes) -> str | None:
        """As `owner`, for those who only read: None too when this shard is one of several owners."""
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


class Arrivals(Protocol):
    """Knows of keys that this shard has begun to own, and whose entries may still lie with their former owner."""

    def settle(self, keys: Sequence[bytes]) -> Future[None] | None:
        """Have the entries of these canonical keys here before a command sees them; None when there is no waiting."""
        ...

    def touch(self, key: bytes) -> None:
        """Note that a key is about to be put whatever was there: nothing is to come for it any more."""
        ...


class Departures(Protocol):
    """Gives away the entries of keys that this shard has ceased to own."""

    def take(self, epoch: int, taker: str, incarnation: bytes, keys: Sequence[bytes]) -> Future[list[bytes | None]]:
        """Single keys: a blob for each, None for what is not here. Raises CommandError."""
        ...

    def drain(self, epoch: int, taker: str, incarnation: bytes) -> Future[list[bytes] | None] | None:
        """The next batch, key and blob in turn, or None for the end; None at once: not yet. Raises CommandError."""


class Copies(Protocol):
    """What a shard does for the other owners of its keys; the cluster sets it when there are any."""

    def open(self, sender: tuple[str, str, int]) -> tuple[int, list[Future[None]]]:
        """A stream begins, of another shard, its incarnation and lane: the last number that was applied, and what of
        all those is not recorded yet.

        Raises CommandError for one that is not in the view.
        """
        ...

    def take(self, sender: tuple[str, str, int], seq: int, words: Sequence[bytes]) -> Future[None] | None:
        """Apply a change of that stream, once; it is recorded when the future is done, or already."""
        ...

    def held(self, key: bytes) -> Entry | Future[Entry | None] | None:
        """What is held under a key here, without asking anybody else."""
        ...

    def shared(self, shard: str, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """About `count` keys from `cursor` on that a shard owns too, and the next cursor (0: the end)."""
        ...
