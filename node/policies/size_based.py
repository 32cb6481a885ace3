"""SIZE_BASED: give up the largest entry; of those of one size, the least recently used."""

from __future__ import annotations

from .base import Evictable
from .ranked import RankedPolicy


def _largest_first(entry: Evictable) -> int:
    return -entry.size


class SizeBasedPolicy(RankedPolicy):
    """Largest first, then least recently used. O(log n)."""

    name = "size_based"

    def __init__(self) -> None:
        super().__init__(_largest_first)
