"""What a node does for keys that move to another node: lists them, drops them, and ends their leases.

Invariants: a key that is dropped is gone from every level when that is acknowledged, as after an invalidation; every
key that stays in the node is listed at least once by `hottest_first` or by a walk with `on_disk`.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING

from .types import RemovalCause

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .engine import MultiLevelCache


class MovingKeys:
    """The keys of an engine, for who hands them over."""

    def __init__(self, engine: MultiLevelCache) -> None:
        self._engine = engine

    def hottest_first(self) -> list[bytes]:
        """All keys in memory, L1 before L2, in each those first that its policy would keep longest, as far as it says.

        Takes some 50 ns for each.
        """
        self._engine.drain_hits()
        keys: list[bytes] = []
        for level in (self._engine.l1, self._engine.l2):
            if level is not None:
                hottest = getattr(level.policy, "hottest_first", None)
                keys.extend(hottest() if hottest is not None else reversed(level.table))
        return keys

    def on_disk(self, start: bytes, count: int) -> Future[tuple[bytes, list[bytes]]] | None:
        """About `count` keys of L3 from the mark `start` on (b"" at first), and the next mark (b"": the end).

        None without an L3. What waits to be written is listed with the first.
        """
        l3 = self._engine.l3
        return l3.keys_from(start, count) if l3 is not None else None

    def drop(self, keys: Sequence[bytes]) -> int | Future[int]:
        """Forget keys that another node holds now; like an invalidation, but counted as dropped."""
        return self._engine.invalidation.keys(keys, RemovalCause.DROPPED)

    def drop_leases(self, moves: Callable[[bytes], bool]) -> None:
        """End the leases of the keys for which `moves` says so; who waits for them is sent away."""
        self._engine.leases.drop(moves)
