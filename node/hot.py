"""The keys of a node that are read most, from samples of its hits.

A leaf: it reads no clock and imports nothing of the node. Space-saving counters (Metwally, Agrawal, El Abbadi,
"Efficient Computation of Frequent and Top-k Elements in Data Streams", ICDT 2005): a new key takes the place of the one
with the least weight and inherits that weight, so a key that is read often is never missed. What it inherited is known
too and taken off what is told: where all keys are read alike, none looks hot.

Invariants: at most `keys_max` keys are known; old hits lose weight, so that what was hot yesterday gives way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

SHORT_LOG: Final = 64
HALVE_AFTER_HITS: Final = 1 << 20


class Hit(Protocol):
    """What a log of hits is made of."""

    key: bytes


class HotKeys:
    """Estimated hits by key."""

    __slots__ = ("_hits", "_inherited", "_logs", "_weights", "keys_max")

    def __init__(self, keys_max: int = 64) -> None:
        self.keys_max = keys_max
        self._weights: dict[bytes, int] = {}
        self._inherited: dict[bytes, int] = {}
        self._hits = 0
        self._logs = 0

    def sample(self, log: Sequence[Hit]) -> None:
        """Take note of hits that were logged, by one of them; of every fourth log when they are long."""
        self._logs = turn = self._logs + 61  # a stride, so that no pattern in the logs is followed
        count = len(log)
        if count < SHORT_LOG:
            self.hit(log[turn % count].key, count)
        elif not turn & 3:
            self.hit(log[turn % count].key, 4 * count)

    def hit(self, key: bytes, hits: int) -> None:
        """Count a sampled hit for the `hits` hits that it stands for. O(1) for a known key, else O(keys_max)."""
        weights = self._weights
        known = weights.get(key)
        if known is not None:
            weights[key] = known + hits
        elif len(weights) < self.keys_max:
            weights[key] = hits
        else:
            least = min(weights, key=weights.__getitem__)
            self._inherited.pop(least, None)
            inherited = self._inherited[key] = weights.pop(least)
            weights[key] = inherited + hits
        self._hits += hits
        if self._hits >= HALVE_AFTER_HITS:
            self._hits = 0
            self._weights = {key: weight // 2 for key, weight in weights.items() if weight > 1}
            self._inherited = {key: part // 2 for key, part in self._inherited.items() if key in self._weights}

    def top(self, count: int) -> list[tuple[bytes, int]]:
        """The `count` keys that have the most hits for certain, the most first."""
        inherited = self._inherited
        certain = [(key, weight - inherited.get(key, 0)) for key, weight in self._weights.items()]
        return sorted(certain, key=lambda item: (-item[1], item[0]))[:count]
