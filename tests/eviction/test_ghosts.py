"""What is remembered of keys that have left."""

from __future__ import annotations

import random
import zlib

from librt.vecs import vec
from mypy_extensions import i64

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


def test_age_and_level_come_back_once() -> None:
    """For every level and across the wrap of the tick field; a second recall finds nothing."""
    ghosts = Ghosts()
    for tick in (1, 4_000, 4_095, 4_096, 70_000):
        for level in range(1, LEVEL_MAX + 1):
            ghosts.remember(vec[i64]([0xABC00012]), vec[i64]([tick << TICK_SHIFT | level]))
            assert ghosts.recall(vec[i64]([0xABC00012]), tick + 100)[0] == 100 << AGE_SHIFT | level
            assert ghosts.recall(vec[i64]([0xABC00012]), tick + 100)[0] == 0


def test_of_three_in_two_slots_the_least_valuable_goes() -> None:
    """A key of many uses is not forgotten for one that was used once; after long enough it is."""
    ghosts = Ghosts()
    dear, cheap, new = 0x12300001, 0x45600001, 0x78900001

    def remembered(*uses: tuple[int, int, int]) -> dict[int, int]:
        for digest, tick, level in uses:
            ghosts.remember(vec[i64]([digest]), vec[i64]([tick << TICK_SHIFT | level]))
        return {digest: ghosts.recall(vec[i64]([digest]), uses[-1][1] + 1)[0] for digest in (dear, cheap, new)}

    found = remembered((dear, 100, 9), (cheap, 105, 1), (new, 110, 1))
    assert found == {dear: 11 << AGE_SHIFT | 9, cheap: 0, new: 1 << AGE_SHIFT | 1}
    found = remembered((dear, 100, 9), (cheap, 300, 1), (new, 300, 1))
    assert found == {dear: 0, cheap: 1 << AGE_SHIFT | 1, new: 1 << AGE_SHIFT | 1}


def test_most_of_the_last_that_left_are_remembered() -> None:
    """Of as many keys as entries are held at least three quarters; none of another key is invented often."""
    draw = random.Random(4)
    ghosts = Ghosts()
    ghosts.grow(1_000)
    left = [draw.getrandbits(32) for _ in range(1_000)]
    for number, digest in enumerate(left):
        ghosts.remember(vec[i64]([digest]), vec[i64]([(1 + number // 60) << TICK_SHIFT | 1]))
    assert sum(ghosts.recall(vec[i64]([draw.getrandbits(32)]), 20)[0] > 0 for _ in range(10_000)) < 20
    assert sum(ghosts.recall(vec[i64]([digest]), 20)[0] > 0 for digest in left) > 750


def test_each_key_of_a_loop_longer_than_the_table_is_remembered_at_times() -> None:
    """Were always the older one of a pair forgotten, it would be the same ones in each round: four in five keys."""
    ghosts = Ghosts()
    ghosts.grow(1_000)
    left = [zlib.crc32(b"%016x" % number) for number in range(len(ghosts) * 8 // 5)]
    remembered: set[int] = set()
    for turn in range(10):
        for number, digest in enumerate(left):
            tick = 1 + 40 * turn + 40 * number // len(left)
            if ghosts.recall(vec[i64]([digest]), tick)[0]:
                remembered.add(digest)
            ghosts.remember(vec[i64]([digest]), vec[i64]([tick << TICK_SHIFT | 1]))
    assert len(remembered) > len(left) // 2


def test_uses_are_counted_on_average() -> None:
    """A use in each of 600 ticks counts between 150 and 2,400; a use after a long absence counts as the first."""
    stamp = first_use(1, 0)
    for tick in range(2, 602):
        stamp = next_use(stamp, tick << TICK_SHIFT, levels_after(tick))
    assert 150 <= 2 ** LOG2_USES[stamp & 255] <= 2_400
    now = 5_000 << TICK_SHIFT
    assert return_use(2_000 << AGE_SHIFT | 5, now, levels_after(5_000)) == now | 1
    assert return_use(3 << AGE_SHIFT | 2, now, levels_after(5_000)) & 255 == 3
