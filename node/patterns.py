"""Access patterns: which keys come again at regular intervals, and when the next access is due.

A leaf: it imports nothing, reads no clock, and is fed with keys and times. Intervals are kept as a running mean and
variance (Welford, Technometrics 1962), so a key costs the same after ten accesses as after ten million.

Invariants: at most `keys_max` keys are known, the least recently read leave first; a key with fewer than three
accesses, or whose intervals are all zero, is never regular.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

ACCESSES_MIN: Final = 3
VARIATION_MAX: Final = 0.5
KEY_BYTES: Final = 400
"""About what one known key costs in memory, its own bytes not counted."""


class Pattern:
    """What is known of one key's accesses: how many, when the last, and mean and variance of the time between them."""

    __slots__ = ("_squares", "count", "last_ms", "mean_ms")

    def __init__(self, now_ms: int) -> None:
        self.count = 1
        self.last_ms = now_ms
        self.mean_ms = 0.0
        self._squares = 0.0

    def read(self, now_ms: int) -> None:
        """Take note of an access; a time before the last one counts as the last one's."""
        interval = max(0, now_ms - self.last_ms)
        away = interval - self.mean_ms
        self.mean_ms += away / self.count  # `count` accesses so far make `count` intervals with this one
        self._squares += away * (interval - self.mean_ms)
        self.count += 1
        self.last_ms = max(self.last_ms, now_ms)

    @property
    def variance_ms2(self) -> float:
        """Variance of the intervals in square milliseconds."""
        return self._squares / (self.count - 1) if self.count > 1 else 0.0

    @property
    def regular(self) -> bool:
        """Whether the intervals vary by half of their mean at most, over three accesses or more."""
        if self.count < ACCESSES_MIN or self.mean_ms <= 0:
            return False
        deviation: float = self.variance_ms2**0.5
        return deviation <= VARIATION_MAX * self.mean_ms

    @property
    def next_ms(self) -> int:
        """When the next access is due, if the pattern goes on."""
        return self.last_ms + round(self.mean_ms)


class AccessPatterns:
    """The patterns of up to `keys_max` keys, about `keys_max * KEY_BYTES` bytes."""

    def __init__(self, keys_max: int = 50_000) -> None:
        self.keys_max = keys_max
        self._patterns: OrderedDict[str, Pattern] = OrderedDict()

    def read(self, key: str, now_ms: int) -> Pattern:
        """Take note of an access."""
        pattern = self._patterns.get(key)
        if pattern is None:
            pattern = self._patterns[key] = Pattern(now_ms)
            if len(self._patterns) > self.keys_max:
                self._patterns.popitem(last=False)
        else:
            pattern.read(now_ms)
            self._patterns.move_to_end(key)
        return pattern

    def upcoming(self, now_ms: int, horizon_ms: int) -> Iterator[tuple[str, Pattern]]:
        """The regular keys whose next access is due within the horizon, or has been for no longer than that."""
        for key, pattern in self._patterns.items():
            if pattern.regular and abs(pattern.next_ms - now_ms) <= horizon_ms:
                yield key, pattern

    def get(self, key: str) -> Pattern | None:
        """What is known of a key."""
        return self._patterns.get(key)

    def __len__(self) -> int:
        return len(self._patterns)
