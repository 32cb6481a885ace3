"""Miniature caches, one for each score function, that tell which function misses least at present.

Each follows the requests whose key falls into a sample of all keys, and is as much smaller than the cache as the sample
is smaller than the whole [1]; in a cache of up to 4,000 entries the sample is everything. What a miss costs is added up
for each; every 64 sampled requests the function with the smallest sum is the best.

The cache follows the best, but a switch comes late for what the other function would have kept from the beginning. So
the rows are shared out: a function whose sum is larger than the best's by no more than chance can do has some of the
rows, and in these its entries, should it turn out to be the best (evidence.py). And the evidence comes in an order:
that recent entries are used again shows within a fill, that old ones are shows later, when the recency functions would
have given them up. So the patient functions begin, and the others with a handicap, by how little patience they have:
the larger, the less the first fill hit, since then there is little that patience could miss.

There are two memories, of the last 20 fills and of the last 4. Where it would have been better to follow the short one
the workload has changed, and it is followed; once that has lasted for 4 fills, the long one starts anew from it.

Invariants: what is known of a key is shared by all shadows (sample.py); about 24,000 keys are known at most, more only
where more are held; a request that hits in all shadows costs one look-up.

[1] Waldspurger et al.: Cache modeling and optimization using miniature simulations, USENIX ATC 2017.
Choosing among experts by their regret: Rodriguez et al.: CACHEUS, FAST 2021.
"""

from __future__ import annotations

from itertools import accumulate
from math import exp, inf
from typing import Final

from mypy_extensions import i64

from .evidence import Evidence
from .miniature import BATCH_MAX, BATCH_SHARE, Miniature
from .sample import HOLDERS_MAX, Sample
from .scores import Score
from .stamps import (
    AGE_SHIFT,
    LEVEL_MASK,
    TICK_SHIFT,
    TICKS,
    first_use,
    levels_after,
    next_use,
    return_use,
    value_bits,
)

ENTRIES_MAX: Final = 4000
KNOWN_MAX: Final = 6 * ENTRIES_MAX
_BYTES_MAX: Final = float(1 << 60)
JUDGE_EVERY: Final = 64
MEASURE_EVERY: Final = 8
LONG: Final = 20
SHORT: Final = 4
"""Fills of the cache over which the memories fade."""
BETTER_BY: Final = 0.01
"""The share of what following the long memory has cost by which following the short one must have been better."""
FORGET_AFTER: Final = 4.0
"""Fills of following the short memory, after which the long one is of another workload."""
HANDICAP: Final = 0.03
"""Misses, as a share of the first fill's, that functions without patience are charged with before they begin."""
HITS_EXPECTED: Final = 0.05
"""In the first fill, as a share of its requests: where fewer hit, there is less to lose, and the handicap is larger."""
HANDICAP_TIMES_MAX: Final = 10.0


class Shadows:
    """Follows the sampled requests; `best` is the index of the score function to use."""

    __slots__ = (
        "_all",
        "_asked",
        "_changed_for",
        "_disputed",
        "_entries",
        "_filled",
        "_left",
        "_long",
        "_phase",
        "_sample",
        "_shadows",
        "_shares",
        "_short",
        "best",
        "divisor",
        "limit",
    )

    def __init__(self, scores: list[Score]) -> None:
        if len(scores) > HOLDERS_MAX:
            raise ValueError(f"{len(scores)} score functions are given, and {HOLDERS_MAX} can be followed at most")
        self._shadows = [Miniature(score, number) for number, score in enumerate(scores)]
        self._all: i64 = (1 << len(scores)) - 1
        self._sample = Sample()
        self._entries = 1
        self._phase = 0.0
        self._left = JUDGE_EVERY
        self._filled = False
        self._asked = 0.0  # what would have been lost, had nothing been held while the cache filled
        self._disputed = 0.0  # squares of what misses cost that some had and others had not, since the last judgement
        self._long = Evidence(len(scores), LONG)
        self._short = Evidence(len(scores), SHORT)
        self._changed_for = 0.0  # fills for which the short memory has been followed
        self._shares: list[float] = []  # of the rows, each with those of the functions before it; empty: all to `best`
        patience = [score.patience for score in scores]
        self.best = patience.index(max(patience))
        self.divisor = 1
        self.limit = 1 << 32
        """Keys with a 32-bit hash below it are the sample."""

    def function_at(self, turn: float) -> int:
        """Index of the function for a row that stands there among all rows (from 0 to 1); for -1 the best."""
        if turn < 0:
            return self.best
        for number, share in enumerate(self._shares):
            if turn < share:
                return number
        return self.best

    def request(self, digest: i64, size: i64, cost_s: float, bytes_max: float) -> i64:
        """Follow a request for a sampled key; gives the level of its uses as far as they are known here.

        `bytes_max` is what the cache may hold, infinite while it fills.
        """
        self._phase += TICKS / self._entries
        tick: i64 = 1 + int(self._phase)
        if not self._filled:
            self._asked += cost_s
        sample = self._sample
        slot = sample.find(digest)
        if slot < 0:
            stamp = first_use(tick, value_bits(cost_s, size))
            slot = sample.add(digest, stamp, size)
        else:
            stamp = sample.stamps[slot]
            if not sample.held[slot]:
                remembered = tick - (stamp >> TICK_SHIFT) << AGE_SHIFT | stamp & LEVEL_MASK
                stamp = return_use(remembered, tick << TICK_SHIFT | value_bits(cost_s, size), levels_after(tick))
                sample.resize(slot, size)
            elif stamp >> TICK_SHIFT < tick:
                stamp = next_use(stamp, tick << TICK_SHIFT, levels_after(tick))
            sample.stamps[slot] = stamp
        if sample.held[slot] != self._all:
            self._miss(slot, cost_s, bytes_max, tick)
        self._left -= 1
        if not self._left % MEASURE_EVERY:
            self._entries = max(1, sum([len(shadow) for shadow in self._shadows]) // len(self._shadows))
            if not self._left:
                self._judge()
        return stamp & LEVEL_MASK

    def _miss(self, slot: i64, cost_s: float, bytes_max: float, tick: i64) -> None:
        sample = self._sample
        bytes_whole: i64 = int(min(bytes_max, _BYTES_MAX))
        room = max(bytes_whole // self.divisor, 1)
        fits = i64(sample.sizes[slot]) <= bytes_whole
        batch: i64 = min(BATCH_MAX, self._entries // BATCH_SHARE + 1)
        held = i64(sample.held[slot])
        if held:
            self._disputed += cost_s * cost_s
        if not self._filled and bytes_max < inf:
            self._begin()
        bit: i64 = 1
        for shadow in self._shadows:
            if not held & bit:
                shadow.lost += cost_s
                if fits:
                    shadow.take(sample, slot, room, batch, tick)
            bit <<= 1

    def _begin(self) -> None:
        """The cache is full: from now on the functions differ."""
        self._filled = True
        self._gather()
        lost = self._long.losses[0]  # all have lost the same
        hits = 1 - lost / self._asked if self._asked else 0.0
        times = min(max(HITS_EXPECTED / max(hits, 1e-9), 1.0), HANDICAP_TIMES_MAX)
        factors = [1 + HANDICAP * times * (1 - shadow.score.patience) for shadow in self._shadows]
        for evidence in (self._long, self._short):
            evidence.charge(factors)
            evidence.share_out()
        self._shares = list(accumulate(self._long.shares))

    def _judge(self) -> None:
        self._left = JUDGE_EVERY
        self._gather()
        fills = JUDGE_EVERY / max(self._entries, TICKS)
        if self._filled:
            self._choose(fills)
        self._asked *= exp(-fills / LONG)
        for evidence in (self._long, self._short):
            evidence.fade(fills)
        if len(self._sample) > KNOWN_MAX:
            self._sample.forget()
        if self._entries > ENTRIES_MAX:
            self._halve()

    def _gather(self) -> None:
        lost = [shadow.lost for shadow in self._shadows]
        for evidence in (self._long, self._short):
            evidence.take(lost, self._disputed)
        for shadow in self._shadows:
            shadow.lost = 0.0
        self._disputed = 0.0

    def _choose(self, fills: float) -> None:
        long, short = self._long, self._short
        long.share_out()
        short.share_out()
        chosen = long
        if short.followed < long.followed * (1 - BETTER_BY):
            chosen = short
            self._changed_for += fills
            if self._changed_for > FORGET_AFTER:
                self._changed_for = 0.0
                long.become(short)
        else:
            self._changed_for = 0.0
        self.best = chosen.best
        self._shares = list(accumulate(chosen.shares))

    def _halve(self) -> None:
        """The cache has grown: follow half as many keys, so that the shadows stay small."""
        self.divisor *= 2
        self._asked /= 2
        self._long.halve()
        self._short.halve()
        self.limit //= 2
        moved = self._sample.shrink(self.limit)
        for shadow in self._shadows:
            shadow.move(self._sample, moved)

    def validate(self) -> None:
        """Check the invariants; raises AssertionError with what is wrong."""
        sample = self._sample
        sample.validate()
        for number, shadow in enumerate(self._shadows):
            name = shadow.score.name
            held = list(shadow)
            if shadow.bytes_held != sum([i64(sample.sizes[slot]) for slot in held]):
                raise AssertionError(f"{name}: the bytes do not add up")
            if sorted(held) != [slot for slot, bits in enumerate(sample.held) if bits >> number & 1]:
                raise AssertionError(f"{name}: what it holds is not what the sample says")
