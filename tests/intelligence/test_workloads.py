"""Refresh-ahead pays where reads are regular, and stays out of the way where they are not.

A share of what `python -m benchmarks.prefetch` runs, with the same decision code.
"""

from __future__ import annotations

from benchmarks.prefetch.workloads import workload
from benchmarks.prefetch.world import compare


def test_regular_reads_find_their_values_again() -> None:
    """Expiry misses are cut by four fifths at least, and callers wait less than prefetching computes."""
    found = compare(workload("regular", seed=1, scale=0.12))
    assert found["expiry_misses_without"] > 1000
    assert found["expiry_misses_cut"] >= 0.8
    assert found["precision"] >= 0.9
    assert found["total_seconds_with"] < found["total_seconds_without"]


def test_random_reads_cost_next_to_nothing() -> None:
    """Less than two hundredths of extra computing where nothing can be foretold."""
    found = compare(workload("random", seed=1, scale=0.12))
    assert found["reads"] > 5_000
    assert abs(found["extra_compute_share"]) < 0.02


def test_daily_batches_are_ready_before_they_are_read() -> None:
    """Values whose TTL is shorter than a day are computed from recipes that outlive them."""
    found = compare(workload("daily", seed=1, scale=0.6))
    assert found["used"] > 100
    assert found["expiry_misses_with"] < found["expiry_misses_without"]
