"""Reads whose answers a near cache may keep: what they ask for is what its gates need to know.

Invariant: the gates' numbers are taken before anything is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stratacache.client.core.effects import Command
from stratacache.client.core.reads import slices
from stratacache.client.view import ShardInfo
from stratacache.node.types import MISS

if TYPE_CHECKING:
    from stratacache.client.core.near import NearCache
    from stratacache.client.core.state import Core


class GetxPlan:
    """`SC.GETX` and `SC.MGETX`: values with what the gates need to know."""

    read = True
    repeatable = True
    persist = False

    def __init__(self, core: Core, near: NearCache, keys: Sequence[bytes]) -> None:
        self._core = core
        self._near = near
        self._keys = keys
        self._ticket = near.ticket()
        self.values: dict[int, Any] = {}

    def build(self, indices: list[int]) -> list[tuple[list[int], Command]]:
        """One command for one key, or for up to 512."""
        keys = self._keys
        if len(indices) == 1:
            return [(indices, (b"SC.GETX", keys[indices[0]]))]
        return [(part, (b"SC.MGETX", *[keys[index] for index in part])) for part in slices(indices)]

    def accept(self, indices: list[int], reply: Any, shard: ShardInfo) -> None:
        """Decode, hand out, and keep."""
        for index, found in zip(indices, (reply,) if len(indices) == 1 else reply, strict=True):
            if found is None:
                continue
            value = self._core.decode(found[0], found[1])
            if value is not MISS:
                self.values[index] = value
                self._near.admit(self._keys[index], found, value, shard.id, self._ticket)
