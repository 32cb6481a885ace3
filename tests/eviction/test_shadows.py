"""Which function the shadows choose, how the rows are shared out, and what the patient functions keep."""

from __future__ import annotations

import pytest
from librt.vecs import vec
from mypy_extensions import i64

from stratacache.node.policies.intelligent.scores import PLACE_MASK, Score, all_scores, keeping
from stratacache.node.policies.intelligent.shadows import Shadows
from stratacache.node.policies.intelligent.stamps import TICK_SHIFT, first_use, levels_after, next_use, value_bits

VALUE = value_bits(1.0, 1)


def worst_first(score: Score, stamps: list[int], tick: int) -> list[int]:
    """Places in the order in which they would leave."""
    return [rank & PLACE_MASK for rank in score.lowest(vec[i64](stamps), tick, len(stamps))]


def used_twice(first: int, second: int) -> int:
    """The stamp of an entry that was used in these two ticks."""
    return next_use(first_use(first, VALUE), second << TICK_SHIFT | VALUE, levels_after(second))


def test_keeping_takes_entries_that_were_used_once_for_level_however_old() -> None:
    """Of them the one that stands first (the newcomer) leaves; an old one that was used twice stays."""
    newest, middle, oldest = (first_use(tick, VALUE) for tick in (99, 50, 2))
    twice = used_twice(2, 40)
    assert worst_first(keeping(64), [newest, middle, oldest, twice], 100) == [0, 1, 2, 3]
    assert worst_first(keeping(64), [twice, oldest, middle, newest], 100) == [1, 2, 3, 0]


def test_a_patient_function_is_the_first() -> None:
    """Nothing is known yet: what only time shows must not be given up before."""
    scores = all_scores()
    assert scores[Shadows(scores).best].patience == 1
    assert {score.name for score in scores if score.patience == 1} == {"keeping 64", "reuse"}


def fed(requests: list[int], bytes_max: int) -> Shadows:
    """Shadows of a cache that filled, and then had these requests."""
    shadows = Shadows(all_scores())
    for digest in range(bytes_max):
        shadows.request(digest, 1, 1.0, float("inf"))
    for digest in requests:
        shadows.request(digest, 1, 1.0, bytes_max)
    return shadows


def functions(shadows: Shadows) -> list[int]:
    """How many rows of a hundred each function has."""
    found = [shadows.function_at(row / 100) for row in range(100)]
    return [found.count(number) for number in range(len(all_scores()))]


def test_rows_are_shared_out_while_chance_may_have_decided() -> None:
    """Just after the first fill several functions have rows; for a cache of few rows the best has all."""
    shadows = fed([200, 201, 202], 200)
    assert sum(share > 0 for share in functions(shadows)) >= 2
    assert shadows.function_at(-1) == shadows.best


@pytest.mark.parametrize("loops", [False, True])
def test_the_kind_of_function_that_is_clearly_better_gets_the_rows(loops: bool) -> None:
    """In a loop half again as large as the cache one that keeps residents; where each key comes back soon, another."""
    size = 200
    requests = [1000 + number % 300 for number in range(12_000)] if loops else []
    if not loops:
        for number in range(6_000):
            requests += [1000 + number, 1000 + number - 50]
    shadows = fed(requests, size)
    right = ("reuse", "keeping") if loops else ("recency", "rate")
    names = [score.name for score in all_scores()]
    assert names[shadows.best].startswith(right)
    shares = functions(shadows)
    assert sum(share for name, share in zip(names, shares, strict=True) if name.startswith(right)) > 90


def needed_to_change(hits: int) -> int:
    """After how many keys that are soon used again a function without patience is the best.

    `hits`: how many requests hit in the first fill.
    """
    size = 600
    scores = all_scores()
    shadows = Shadows(scores)
    for digest in [*range(size), *range(hits)]:
        shadows.request(digest, 1, 1.0, float("inf"))
    for number in range(10 * size):
        for digest in (1000 + number, 1000 + number - 50):
            shadows.request(digest, 1, 1.0, size)
        if not scores[shadows.best].patience:
            return number
    raise AssertionError("patience is never given up")


def test_patience_lasts_longer_where_the_first_fill_hit_seldom() -> None:
    """There is less to lose by it; and it is given up in the end, however little hit."""
    often, seldom = needed_to_change(100), needed_to_change(0)
    assert often < 120
    assert 2 * often < seldom < 1_000
