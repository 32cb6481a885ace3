"""What misses have cost under each function: shares, memories of two lengths, and which of them to follow."""

from __future__ import annotations

import random

import pytest

from stratacache.node.policies.intelligent.evidence import Evidence

PERIOD = 64 / 1000
"""Fills of the cache between two judgements."""


def live(memories: list[Evidence], costs: list[list[float]]) -> None:
    """Let periods pass in which each function has cost so much."""
    for lost in costs:
        for memory in memories:
            memory.take(lost, sum(lost))
            memory.share_out()
            memory.fade(PERIOD)


def scattered(means: list[float], periods: int, seed: int = 1) -> list[list[float]]:
    """What functions cost that cost so much on average."""
    draw = random.Random(seed)
    return [[draw.gauss(mean, 3.0) for mean in means] for _ in range(periods)]


def test_who_costs_least_has_the_rows_and_equals_share_them() -> None:
    """The rest is shared out by how far the others are behind."""
    evidence = Evidence(3, 20)
    assert evidence.shares == pytest.approx([1 / 3] * 3)
    live([evidence], [[10.0, 10.0, 30.0]] * 200)
    assert evidence.shares == pytest.approx([0.5, 0.5, 0.0], abs=1e-3)
    live([evidence], [[10.0, 30.0, 30.0]] * 50)
    assert evidence.best == 0
    assert evidence.shares == pytest.approx([1.0, 0.0, 0.0], abs=1e-3)


def test_a_handicap_is_made_up_for() -> None:
    """A function that was charged for what it had not cost has no rows until it has proved itself."""
    evidence = Evidence(2, 20)
    evidence.take([100.0, 100.0], 0.0)
    evidence.charge([1.0, 1.2])
    evidence.share_out()
    assert evidence.shares == pytest.approx([1.0, 0.0], abs=1e-3)
    live([evidence], [[10.0, 8.0]] * 40)
    assert evidence.best == 1


def test_after_a_change_it_is_better_to_follow_the_short_memory() -> None:
    """Before it the two are level, and the long one is less misled by chance."""
    long, short = Evidence(2, 20), Evidence(2, 4)
    live([long, short], scattered([20.0, 22.0], 1000))
    assert long.followed < short.followed < 1.01 * long.followed
    live([long, short], scattered([22.0, 18.0], 100, seed=2))
    assert long.best == 0
    assert short.best == 1
    assert short.followed < 0.99 * long.followed
    long.become(short)
    assert (long.best, long.shares, long.followed) == (1, short.shares, short.followed)
    live([long, short], scattered([22.0, 18.0], 10, seed=3))
    assert long.best == 1


def test_what_is_half_as_much_of_everything_changes_nothing() -> None:
    """Half as many keys are followed: the function that is best, and what is shared out, stay as they are."""
    evidence = Evidence(2, 20)
    live([evidence], [[10.0, 11.0]] * 30)
    best, followed = evidence.best, evidence.followed
    evidence.halve()
    assert evidence.best == best
    assert evidence.followed == followed / 2
