"""Access patterns of one node: what is known of a key, how it merges, and that it stays within its memory."""

from __future__ import annotations

import statistics
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratacache.node.patterns import (
    KEY_BYTES_MAX,
    KEYS_MAX,
    ROW_BYTES,
    VISITS_KEPT,
    AccessPatterns,
    Pattern,
    merged,
)

times = st.lists(st.integers(1, 10_000), min_size=1, max_size=60)


def pattern_of(seconds: list[int]) -> Pattern:
    """What one observer knows who saw these accesses in their order."""
    patterns: AccessPatterns[str] = AccessPatterns()
    for second in sorted(seconds):
        patterns.note("key", second)
    patterns.validate()
    known = patterns.get("key")
    assert known is not None
    return known


@given(times)
def test_mean_variance_and_regularity_are_those_of_the_kept_intervals(seconds: list[int]) -> None:
    """They agree with the plain formulas over the last visits, and the count is that of all accesses."""
    known = pattern_of(seconds)
    visits = sorted(set(seconds))[-VISITS_KEPT:]
    assert known.count == len(seconds)
    assert list(known.visits_s) == visits
    assert known.last_ms == visits[-1] * 1000
    intervals = [1000 * (later - earlier) for earlier, later in pairwise(visits)]
    if not intervals:
        assert (known.mean_ms, known.variance_ms2, known.regular) == (0, 0, False)
        return
    assert known.mean_ms == pytest.approx(statistics.fmean(intervals))
    assert known.variance_ms2 == pytest.approx(statistics.pvariance(intervals))
    variation = statistics.pstdev(intervals) / statistics.fmean(intervals)
    if len(visits) < 3:
        assert not known.regular
    elif abs(variation - 0.5) > 1e-9:
        assert known.regular == (variation <= 0.5)


@given(times, st.randoms(use_true_random=False), st.integers(1, 4))
def test_the_patterns_of_several_observers_merge_exactly(seconds: list[int], random: object, observers: int) -> None:
    """However accesses are shared out among shards and near caches, merging gives what one observer would know."""
    choose = random.randrange  # type: ignore[attr-defined]
    shares: list[list[int]] = [[] for _ in range(observers)]
    for second in seconds:
        shares[choose(observers)].append(second)
    parts = [pattern_of(share) for share in shares if share]
    assert merged(parts) == pattern_of(seconds)
    assert merged([merged(parts[:1]), merged(parts[1:])] if len(parts) > 1 else parts) == merged(reversed(parts))


def test_a_new_habit_replaces_the_old_one() -> None:
    """A pause over night does not make a dashboard irregular for ever."""
    evening = [1000 + 300 * number for number in range(20)]
    morning = [evening[-1] + 43_200 + 300 * number for number in range(VISITS_KEPT)]
    assert pattern_of(evening).regular
    assert not pattern_of(evening + morning[:1]).regular
    assert pattern_of(evening + morning).regular
    assert pattern_of(evening + morning).next_ms == (morning[-1] + 300) * 1000


def test_a_scan_does_not_push_out_what_is_known() -> None:
    """A hundred thousand keys that are read once leave a quarter of the places to themselves, no more."""
    patterns: AccessPatterns[bytes] = AccessPatterns(keys_max=1000)
    for second in (10, 20, 30):
        for number in range(750):
            patterns.note(b"known-%d" % number, second)
    for number in range(100_000):
        patterns.note(b"scan-%d" % number, 40)
    assert sum(patterns.get(b"known-%d" % number) is not None for number in range(750)) == 750
    patterns.validate()


def test_memory_stays_within_the_limit_and_the_charge_is_no_less_than_what_is_used() -> None:
    """Fifteen thousand keys in a table that is full: traced memory is below what is charged, and below the limit.

    `python -m benchmarks.prefetch --only memory` does the same with ten million.
    """
    tracemalloc.start()
    try:
        patterns: AccessPatterns[bytes] = AccessPatterns(keys_max=4096, bytes_max=1_250_000)
        before, _ = tracemalloc.get_traced_memory()
        for number in range(30_000):
            patterns.note(b"ai_operations:embed:%032x" % (number // 2), 1 + number)
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    patterns.validate()
    assert used <= patterns.bytes_used <= patterns.bytes_max


def test_long_keys_are_not_followed_and_a_budget_in_bytes_holds() -> None:
    """A key past the limit costs nothing; keys of some length fill the budget before the number of keys does."""
    patterns: AccessPatterns[bytes] = AccessPatterns(bytes_max=100 * (ROW_BYTES + 400))
    patterns.note(b"k" * (KEY_BYTES_MAX + 1), 5)
    assert len(patterns) == 0
    for number in range(500):
        patterns.note(b"%0400d" % number, 5)
    assert len(patterns) == 100 < KEYS_MAX


def test_what_changed_is_given_once_and_the_best_known_first() -> None:
    """A reader gets every change in slices, nothing twice, and everything when it begins anew."""
    patterns: AccessPatterns[bytes] = AccessPatterns()
    for second in (1, 2, 3):
        patterns.note(b"known", second)
    for number in range(5):
        patterns.note(b"new-%d" % number, 4)
    first = patterns.take_changed(3)
    assert first.keys[0] == b"known"
    assert list(first.visits[:VISITS_KEPT]) == [0] * 5 + [1, 2, 3]
    assert first.counts[0] == 3
    second_slice = patterns.take_changed(100)
    assert len({*first.keys, *second_slice.keys}) == len(first.keys) + len(second_slice.keys) == 6
    assert patterns.take_changed(100).keys == []
    patterns.note(b"new-1", 4)  # the same second: a count, no visit
    assert patterns.take_changed(100).keys == []
    patterns.forget_taken()
    assert len(patterns.take_changed(100).keys) == 6
    patterns.validate()
