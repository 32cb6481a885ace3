"""Miniature caches, one for each score function, that tell which function misses least at present.

Each follows the requests whose key falls into a sample of all keys, and is as much smaller than the cache as the sample
is smaller than the whole [1]; in a cache of up to 1,024 entries the sample is everything. What a miss costs is added up
for each, fading with a time constant of 20 times what a shadow holds; every 64 sampled requests the function with the
smallest sum is the best, if it is 0.3 % better than the one before. A second sum fades five times as fast: where it
shows a function that is clearly better, the workload has changed, and that function is the best at once.

The cache follows the best, but a switch comes late for what the other function would have kept from the beginning. So
the rows are shared out: a function whose sum is larger than the best's by no more than chance can do has some of the
rows, and in these its entries, should it turn out to be the best [2]. And the evidence comes in an order: that recent
entries are used again shows within a fill, that old ones are shows later, when the recency functions would have given
them up. So the patient functions begin, and the others with a handicap: the larger, the less the first fill hit, since
then there is little that patience could miss.

Invariants: what is known of a key is shared by all shadows, one record a key; bit i of the record's `held` says whether
shadow i holds it; at most 6,144 keys are known; a request that hits in all shadows costs one look-up.

[1] Waldspurger et al.: Cache modeling and optimization using miniature simulations, USENIX ATC 2017.
[2] Freund, Schapire: A decision-theoretic generalization of on-line learning, JCSS 1997 (Hedge).
Choosing among experts by their regret: Rodriguez et al.: CACHEUS, FAST 2021.
"""

from __future__ import annotations

from itertools import accumulate
from math import exp, inf, sqrt
from typing import Final

from librt.vecs import vec
from mypy_extensions import i64

from ..base import Stamped
from .scores import PLACE_MASK, Score, read_stamps
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

ENTRIES_MAX: Final = 1024
KNOWN_MAX: Final = 6 * ENTRIES_MAX
ROW_LENGTH: Final = 16
BATCH_MAX: Final = 8
_BATCH_SHARE: Final = 48
JUDGE_EVERY: Final = 64
MEASURE_EVERY: Final = 8
BETTER_BY: Final = 0.003
FADE_OVER: Final = 20
CLEARLY_BETTER_BY: Final = 0.05
FADE_SOON_OVER: Final = 4
HANDICAP: Final = 0.03
"""Misses, as a share of the first fill's, that functions which are not patient are charged with before they begin."""
HITS_EXPECTED: Final = 0.05
"""In the first fill, as a share of its requests: where fewer hit, there is less to lose, and the handicap is larger."""
HANDICAP_TIMES_MAX: Final = 10.0
HEAT: Final = 0.1
"""In what the choice is unsure by (see `_share_out`): so much worse is a function with 1/e of the rows."""


class _Known(Stamped):
    """A sampled key: its stamp in the shadows' own ticks, its size, and which shadows hold it."""

    __slots__ = ("digest", "held", "size")

    def __init__(self, digest: int, size: int, stamp: i64) -> None:
        self.digest = digest
        self.size = size
        self.stamp = stamp
        self.held = 0


class _Shadow:
    """A cache without values under one score function: rows and newcomers, as the cache itself has them."""

    __slots__ = ("bit", "bytes_held", "hand", "loss", "newcomers", "recent", "rows", "score")

    def __init__(self, score: Score, bit: int) -> None:
        self.score = score
        self.bit = bit
        self.rows: list[_Known] = []
        self.newcomers: list[_Known] = []
        self.bytes_held = 0
        self.hand = 0
        self.loss = 0.0
        self.recent = 0.0

    def __len__(self) -> int:
        return len(self.rows) + len(self.newcomers)

    def take(self, known: _Known, bytes_max: float, batch: int, tick: int) -> None:
        """Hold a key; when as many newcomers as a batch have come, let the worst go until the rest fits."""
        newcomers = self.newcomers
        newcomers.append(known)
        known.held |= self.bit
        self.bytes_held += known.size
        if len(newcomers) >= batch or self.bytes_held > bytes_max * (1 + 1 / _BATCH_SHARE):
            if self.bytes_held <= bytes_max:
                self.rows += newcomers
                self.newcomers = []
            while self.bytes_held > bytes_max:
                self._evict(bytes_max, tick)

    def _evict(self, bytes_max: float, tick: int) -> None:
        rows = self.rows
        start = self.hand if self.hand < len(rows) else 0
        end = start + ROW_LENGTH
        together = self.newcomers + rows[start:end]
        stamps = vec[i64]([0] * len(together))
        read_stamps(together, stamps, 0)
        held = self.bytes_held
        bit = self.bit
        for rank in self.score.lowest(stamps, tick, len(self.newcomers) or 1):
            victim = together[rank & PLACE_MASK]
            victim.held ^= bit
            held -= victim.size
            if held <= bytes_max:
                break
        self.bytes_held = held
        left = [known for known in together if known.held & bit]
        rows[start:end] = left
        self.newcomers = []
        self.hand = start + len(left)


class Shadows:
    """Follows the sampled requests; `best` is the index of the score function to use."""

    __slots__ = (
        "_all",
        "_asked",
        "_disputed",
        "_entries",
        "_filled",
        "_known",
        "_left",
        "_phase",
        "_shadows",
        "_shares",
        "_tick",
        "best",
        "divisor",
        "limit",
    )

    def __init__(self, scores: list[Score]) -> None:
        self._shadows = [_Shadow(score, 1 << number) for number, score in enumerate(scores)]
        self._all = (1 << len(scores)) - 1
        self._known: dict[int, _Known] = {}
        self._entries = 1
        self._tick = 1
        self._phase = 0.0
        self._left = JUDGE_EVERY
        self._filled = False
        self._asked = 0.0  # what would have been lost, had nothing been held while the cache filled
        self._disputed = 0.0  # squares of what misses cost that some function had and another had not; fades as losses
        self._shares: list[float] = []  # of the rows, each with those of the functions before it; empty: all to `best`
        self.best = [score.patient for score in scores].index(True)
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

    def request(self, digest: int, size: int, cost_s: float, bytes_max: float) -> int:
        """Follow a request for a sampled key; gives the level of its uses as far as they are known here.

        `bytes_max` is what the cache may hold, infinite while it fills.
        """
        self._phase += TICKS / self._entries
        self._tick = tick = 1 + int(self._phase)
        if not self._filled:
            self._asked += cost_s
        known = self._known.get(digest)
        if known is None:
            known = self._known[digest] = _Known(digest, size, first_use(tick, value_bits(cost_s, size)))
        elif not known.held:
            age = tick - (known.stamp >> TICK_SHIFT)
            remembered = age << AGE_SHIFT | known.stamp & LEVEL_MASK
            now = tick << TICK_SHIFT | value_bits(cost_s, size)
            known.stamp = return_use(remembered, now, levels_after(tick))
            known.size = size
        elif known.stamp >> TICK_SHIFT < tick:
            known.stamp = next_use(known.stamp, tick << TICK_SHIFT, levels_after(tick))
        if known.held != self._all:
            self._miss(known, cost_s, bytes_max)
        self._left -= 1
        if not self._left % MEASURE_EVERY:
            self._entries = max(1, sum(map(len, self._shadows)) // len(self._shadows))
            if not self._left:
                self._judge()
        return known.stamp & LEVEL_MASK

    def _miss(self, known: _Known, cost_s: float, bytes_max: float) -> None:
        room = max(bytes_max / self.divisor, 1.0)
        fits = known.size <= bytes_max
        batch = min(BATCH_MAX, self._entries // _BATCH_SHARE + 1)
        held = known.held
        if held:
            self._disputed += cost_s * cost_s
        if not self._filled and bytes_max < inf:
            self._begin()
        for shadow in self._shadows:
            if not held & shadow.bit:
                shadow.loss += cost_s
                shadow.recent += cost_s
                if fits:
                    shadow.take(known, room, batch, self._tick)

    def _begin(self) -> None:
        """The cache is full: from now on the functions differ."""
        self._filled = True
        hits = 1 - self._shadows[0].loss / self._asked if self._asked else 0.0
        times = min(max(HITS_EXPECTED / max(hits, 1e-9), 1.0), HANDICAP_TIMES_MAX)
        for shadow in self._shadows:
            if not shadow.score.patient:
                shadow.loss *= 1 + HANDICAP * times
                shadow.recent *= 1 + HANDICAP * times
        self._share_out([shadow.loss for shadow in self._shadows])

    def _judge(self) -> None:
        self._left = JUDGE_EVERY
        losses = [shadow.loss for shadow in self._shadows]
        recent = [shadow.recent for shadow in self._shadows]
        long_run = losses.index(min(losses))
        if min(recent) < recent[long_run] * (1 - CLEARLY_BETTER_BY):  # the workload has changed
            self.best = recent.index(min(recent))
            self._share_out(recent)
        else:
            if losses[long_run] < losses[self.best] * (1 - BETTER_BY):
                self.best = long_run
            self._share_out(losses)
        entries = max(self._entries, TICKS)
        fade, fade_soon = exp(-JUDGE_EVERY / (FADE_OVER * entries)), exp(-JUDGE_EVERY / (FADE_SOON_OVER * entries))
        self._asked *= fade
        self._disputed *= fade
        for shadow in self._shadows:
            shadow.loss *= fade
            shadow.recent *= fade_soon
        if len(self._known) > KNOWN_MAX:
            self._forget()
        if self._entries > ENTRIES_MAX:
            self._halve()

    def _share_out(self, losses: list[float]) -> None:
        """Share the rows out among the functions [2].

        Chance moves a difference of losses by the root of the sum of squares of all in which two functions differed.
        """
        lowest = min(losses)
        heat = HEAT * sqrt(self._disputed) + 1e-6 * lowest
        if not self._filled or heat <= 0:
            return
        weights = [exp(max((lowest - loss) / heat, -50.0)) for loss in losses]
        whole = sum(weights)
        self._shares = list(accumulate(weight / whole for weight in weights))

    def _halve(self) -> None:
        """The cache has grown: follow half as many keys, so that the shadows stay small."""
        self.divisor *= 2
        self._asked /= 2
        self._disputed /= 2
        self.limit //= 2
        self._known = {digest: known for digest, known in self._known.items() if digest < self.limit}
        for shadow in self._shadows:
            shadow.loss /= 2
            shadow.recent /= 2
            shadow.rows = [known for known in shadow.rows if known.digest < self.limit]
            shadow.newcomers = [known for known in shadow.newcomers if known.digest < self.limit]
            shadow.bytes_held = sum(known.size for known in shadow.rows + shadow.newcomers)

    def _forget(self) -> None:
        """Forget the older half of the keys that no shadow holds."""
        gone = sorted((known for known in self._known.values() if not known.held), key=lambda known: known.stamp)
        for known in gone[: len(gone) // 2 + 1]:
            del self._known[known.digest]

    def validate(self) -> None:
        """Check the invariants; raises AssertionError with what is wrong."""
        for shadow in self._shadows:
            held = shadow.rows + shadow.newcomers
            if shadow.bytes_held != sum(known.size for known in held):
                raise AssertionError(f"{shadow.score.name}: the bytes do not add up")
            if any(not known.held & shadow.bit for known in held):
                raise AssertionError(f"{shadow.score.name}: holds a key whose record does not say so")
