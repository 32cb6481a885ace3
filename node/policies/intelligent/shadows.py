"""Miniature caches, one for each score function, that tell which function misses least at present.

Each follows the requests whose key falls into a sample of all keys, and is as much smaller than the cache as the sample
is smaller than the whole [1]; in a cache of up to 768 entries the sample is everything. What a miss costs is added up
for each, fading with a time constant of 20 times what a shadow holds; every 64 sampled requests the function with the
smallest sum is chosen if it is 0.3 % better than the present one.

Invariants: what is known of a key is shared by all shadows, one record a key; bit i of the record's `held` says whether
shadow i holds it; at most 3,072 keys are known; a request that hits in all shadows costs one look-up.

[1] Waldspurger et al.: Cache modeling and optimization using miniature simulations, USENIX ATC 2017.
Choosing among experts by their regret: Rodriguez et al.: CACHEUS, FAST 2021.
"""

from __future__ import annotations

from math import exp
from typing import Final

from .scores import Score
from .stamps import TICK_SHIFT, TICKS, first_use, next_use, return_use

ENTRIES_MAX: Final = 768
KNOWN_MAX: Final = 4 * ENTRIES_MAX
ROW_LENGTH: Final = 16
JUDGE_EVERY: Final = 64
BETTER_BY: Final = 0.003
FADE_OVER: Final = 20


class _Known:
    """A sampled key: its stamp in the shadows' own ticks, its size, and which shadows hold it."""

    __slots__ = ("digest", "held", "size", "stamp")

    def __init__(self, digest: int, size: int, stamp: int) -> None:
        self.digest = digest
        self.size = size
        self.stamp = stamp
        self.held = 0


class _Shadow:
    """A cache without values under one score function."""

    __slots__ = ("bit", "bytes_held", "hand", "held", "loss", "score")

    def __init__(self, score: Score, bit: int) -> None:
        self.score = score
        self.bit = bit
        self.held: list[_Known] = []
        self.bytes_held = 0
        self.hand = 0
        self.loss = 0.0

    def take(self, known: _Known, bytes_max: float, tick: int) -> None:
        """Hold a key, unless it is larger than one victim and worth less than what would have to go for it."""
        held = self.held
        evicted = 0
        while held and self.bytes_held + known.size > bytes_max:
            start = self.hand if self.hand < len(held) else 0
            row = held[start : start + ROW_LENGTH]
            self.hand = start + ROW_LENGTH
            ranks = self.score.rank([each.stamp for each in row], tick)
            worst = min(ranks)
            at = ranks.index(worst)
            victim = row[at]
            if (evicted or self.bytes_held - victim.size + known.size > bytes_max) and (
                self.score.rank((known.stamp,), tick)[0] < worst
            ):
                return
            evicted += 1
            last = held.pop()
            if last is not victim:
                held[start + at] = last
            victim.held &= ~self.bit
            self.bytes_held -= victim.size
        held.append(known)
        known.held |= self.bit
        self.bytes_held += known.size


class Shadows:
    """Follows the sampled requests; `best` is the index of the score function to use."""

    __slots__ = ("_all", "_known", "_left", "_phase", "_shadows", "_tick", "best", "divisor")

    def __init__(self, scores: tuple[Score, ...]) -> None:
        self._shadows = [_Shadow(score, 1 << number) for number, score in enumerate(scores)]
        self._all = (1 << len(scores)) - 1
        self._known: dict[int, _Known] = {}
        self._tick = 1
        self._phase = 0.0
        self._left = JUDGE_EVERY
        self.best = 0
        self.divisor = 1

    def samples(self, digest: int) -> bool:
        """Whether the key with this 32-bit hash belongs to the sample."""
        return digest * 0x9E3779B1 & 0xFFFFFFFF < (1 << 32) // self.divisor

    def request(self, digest: int, size: int, cost_s: float, value: int, bytes_max: float) -> None:
        """Follow a request for a sampled key; `bytes_max` is what the cache may hold, infinite while it fills."""
        entries = max(1, sum(len(shadow.held) for shadow in self._shadows) // len(self._shadows))
        self._phase += TICKS / entries
        self._tick = tick = 1 + int(self._phase)
        known = self._known.get(digest)
        if known is None:
            known = self._known[digest] = _Known(digest, size, first_use(tick, value))
        elif not known.held:
            known.stamp = return_use(known.stamp >> TICK_SHIFT, known.stamp & 255, tick, value)
            known.size = size
        elif known.stamp >> TICK_SHIFT < tick:
            known.stamp = next_use(known.stamp, tick)
        if known.held != self._all:
            room = bytes_max / self.divisor
            for shadow in self._shadows:
                if not known.held & shadow.bit:
                    shadow.loss += cost_s
                    if size <= bytes_max:
                        shadow.take(known, max(room, 1.0), tick)
            if len(self._known) > KNOWN_MAX:
                self._forget()
            if entries > ENTRIES_MAX:
                self._halve()
        self._left -= 1
        if not self._left:
            self._judge(entries)

    def _judge(self, entries: int) -> None:
        self._left = JUDGE_EVERY
        losses = [shadow.loss for shadow in self._shadows]
        least = min(losses)
        if least < losses[self.best] * (1 - BETTER_BY):
            self.best = losses.index(least)
        fade = exp(-JUDGE_EVERY / (FADE_OVER * max(entries, TICKS)))
        for shadow in self._shadows:
            shadow.loss *= fade

    def _halve(self) -> None:
        """The cache has grown: follow half as many keys, so that the shadows stay small."""
        self.divisor *= 2
        self._known = {digest: known for digest, known in self._known.items() if self.samples(digest)}
        for shadow in self._shadows:
            shadow.held = [known for known in shadow.held if self.samples(known.digest)]
            shadow.bytes_held = sum(known.size for known in shadow.held)

    def _forget(self) -> None:
        """Forget the older half of the keys that no shadow holds."""
        gone = sorted((known for known in self._known.values() if not known.held), key=lambda known: known.stamp)
        for known in gone[: len(gone) // 2 + 1]:
            del self._known[known.digest]

    def validate(self) -> None:
        """Check the invariants; raises AssertionError with what is wrong."""
        for shadow in self._shadows:
            if shadow.bytes_held != sum(known.size for known in shadow.held):
                raise AssertionError(f"{shadow.score.name}: the bytes do not add up")
            if any(not known.held & shadow.bit for known in shadow.held):
                raise AssertionError(f"{shadow.score.name}: holds a key whose record does not say so")
