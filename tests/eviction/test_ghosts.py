"""What is remembered of keys that have left."""

from __future__ import annotations

import random

from stratacache.node.policies.base import Evictable, evictable
from stratacache.node.policies.intelligent.ghosts import Ghosts
from stratacache.node.policies.intelligent.stamps import (
    AGE_SHIFT,
    LEVEL_MAX,
    LOG2_USES,
    TICK_SHIFT,
    first_use,
    levels_after,
    next_use,
    return_use,
)


def used(tick: int, level: int) -> Evictable:
    """An entry that was last used then, and about so often."""
    entry = evictable(b"", 0)
    entry.stamp = tick << TICK_SHIFT | level
    return entry


def test_age_and_level_come_back_once() -> None:
    """For every level and across the wrap of the tick field; a second recall finds nothing."""
    ghosts = Ghosts()
    for tick in (1, 4_000, 4_095, 4_096, 70_000):
        for level in range(1, LEVEL_MAX + 1):
            ghosts.remember([0xABC00012], [used(tick, level)])
            assert ghosts.recall([0xABC00012, 0xABC00012], tick + 100) == [100 << AGE_SHIFT | level, 0]


def test_of_three_in_two_slots_the_least_valuable_goes() -> None:
    """A key of many uses is not forgotten for one that was used once; after long enough it is."""
    ghosts = Ghosts()
    dear, cheap, new = 0x12300001, 0x45600001, 0x78900001

    ghosts.remember([dear, cheap, new], [used(100, 9), used(105, 1), used(110, 1)])
    assert ghosts.recall([cheap, new, dear], 111) == [0, 1 << AGE_SHIFT | 1, 11 << AGE_SHIFT | 9]
    ghosts.remember([dear, cheap, new], [used(100, 9), used(300, 1), used(300, 1)])
    assert ghosts.recall([new, dear], 301) == [1 << AGE_SHIFT | 1, 0]


def test_most_of_the_last_that_left_are_remembered() -> None:
    """Of as many keys as entries are held at least three quarters; none of another key is invented often."""
    draw = random.Random(4)
    ghosts = Ghosts()
    ghosts.grow(1_000)
    left = [draw.getrandbits(32) for _ in range(1_000)]
    for number, digest in enumerate(left):
        ghosts.remember([digest], [used(1 + number // 60, 1)])
    assert sum(map(bool, ghosts.recall([draw.getrandbits(32) for _ in range(10_000)], 20))) < 20
    assert sum(map(bool, ghosts.recall(left, 20))) > 750


def test_uses_are_counted_on_average() -> None:
    """A use in each of 600 ticks counts between 150 and 2,400; a use after a long absence counts as the first."""
    stamp = first_use(1, 0)
    for tick in range(2, 602):
        stamp = next_use(stamp, tick << TICK_SHIFT, levels_after(tick))
    assert 150 <= 2 ** LOG2_USES[stamp & 255] <= 2_400
    now = 5_000 << TICK_SHIFT
    assert return_use(2_000 << AGE_SHIFT | 5, now, levels_after(5_000)) == now | 1
    assert return_use(3 << AGE_SHIFT | 2, now, levels_after(5_000)) & 255 == 3
