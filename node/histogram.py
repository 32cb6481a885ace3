"""A histogram of durations that merges exactly.

Invariants: buckets are fixed (8 to each power of two), so the histograms of two nodes add up to the histogram of
both; a quantile is right within an eighth, whatever the distribution; recording is O(1).
"""

from __future__ import annotations

from typing import Final

_STEPS_BITS: Final = 3
_STEPS: Final = 1 << _STEPS_BITS
BUCKETS: Final = 48 * _STEPS


def bucket_of(ns: int) -> int:
    """Bucket of a duration in nanoseconds."""
    if ns < _STEPS:
        return max(ns, 0)
    shift = ns.bit_length() - 1 - _STEPS_BITS
    return min(((shift + 1) << _STEPS_BITS) + (ns >> shift) - _STEPS, BUCKETS - 1)


def upper_ns(bucket: int) -> int:
    """The largest duration in nanoseconds that belongs to a bucket."""
    if bucket < _STEPS:
        return bucket
    shift = (bucket >> _STEPS_BITS) - 1
    return ((bucket & (_STEPS - 1)) + _STEPS + 1 << shift) - 1


class Histogram:
    """Counts of durations by bucket."""

    __slots__ = ("counts", "total_ns")

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.total_ns = 0

    def record(self, ns: int, times: int = 1) -> None:
        """Count a duration, `times` over (a batch is recorded with its mean)."""
        self.counts[bucket_of(ns)] += times
        self.total_ns += ns * times

    def merge(self, counts: dict[int, int]) -> None:
        """Add what `as_dict` gave elsewhere."""
        for bucket, count in counts.items():
            self.counts[bucket] += count

    def quantile_ns(self, fraction: float) -> int:
        """Upper bound of the bucket in which the quantile lies; 0 when nothing was recorded."""
        total = sum(self.counts)
        if not total:
            return 0
        left = fraction * total
        for bucket, count in enumerate(self.counts):
            left -= count
            if count and left <= 0:
                return upper_ns(bucket)
        return upper_ns(BUCKETS - 1)

    def as_dict(self) -> dict[int, int]:
        """The buckets that are not empty."""
        return {bucket: count for bucket, count in enumerate(self.counts) if count}
