"""TTL: give up the entry that is soonest to expire; of those without a TTL, the least recently used."""

from __future__ import annotations

from .base import Evictable
from .ranked import RankedPolicy


def _expiry(entry: Evictable) -> int:
    return entry.expires_ms


class TtlPolicy(RankedPolicy):
    """Soonest to expire first, then least recently used. O(log n)."""

    name = "ttl"

    def __init__(self) -> None:
        super().__init__(_expiry)
