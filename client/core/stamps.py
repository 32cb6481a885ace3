"""The gate in front of the near cache: was this reply read before something that touches it?

Every change gets a number (a shard's push sequence, or this process's own counter) and leaves a stamp: on a key, a tag,
a namespace, or on everything. A reply that was asked for at number `n` passes only if no stamp that covers it is
greater (docs/CORRECTNESS.md, "one gate for everything that arrives late").

Invariants: the table is bounded; when it is full its stamps are given up for a floor, which refuses every reply that is
older than the newest of them. Refusing too much costs a miss; nothing stale passes.
"""

from __future__ import annotations

from collections.abc import Iterable

STAMPS_MAX = 20_000

KEYS = "keys"
TAGS = "tags"
NAMESPACE = "namespace"
ALL = "all"


class Stamps:
    """The newest number at which each key and each group was touched."""

    __slots__ = ("_groups", "_keys", "floor", "newest")

    def __init__(self, floor: int = 0) -> None:
        self.floor = floor
        self.newest = floor
        self._keys: dict[bytes, int] = {}
        self._groups: dict[tuple[str, bytes], int] = {}

    def note(self, kind: str, names: Iterable[bytes], number: int) -> None:
        """Something was touched at `number`, which is not below any before."""
        self.newest = number
        if kind == KEYS:
            for name in names:
                self._keys[name] = number
        elif kind in (TAGS, NAMESPACE):
            for name in names:
                self._groups[kind, name] = number
        else:  # everything, or a kind from the future
            self._give_up()
        if len(self._keys) + len(self._groups) > STAMPS_MAX:
            self._give_up()

    def _give_up(self) -> None:
        self.floor = self.newest
        self._keys.clear()
        self._groups.clear()

    def admits(self, key: bytes, namespace: bytes, tags: Iterable[bytes], since: int) -> bool:
        """Whether nothing with a number above `since` touched this entry."""
        if since < self.floor or self._keys.get(key, 0) > since:
            return False
        groups = self._groups
        if not groups:
            return True
        if groups.get((NAMESPACE, namespace), 0) > since:
            return False
        return all(groups.get((TAGS, tag), 0) <= since for tag in tags)
