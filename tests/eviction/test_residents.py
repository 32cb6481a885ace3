"""The rows of residents against a plain set, and who leaves first."""

from __future__ import annotations

import random

from stratacache.node.policies.base import Evictable, evictable
from stratacache.node.policies.intelligent.residents import Residents
from stratacache.node.policies.intelligent.scores import all_scores
from stratacache.node.policies.intelligent.stamps import TICK_SHIFT, first_use, levels_after, next_use

RECENCY = all_scores()[0]
REUSE = all_scores()[4]
USED = next_use(first_use(3, 0), 5 << TICK_SHIFT, levels_after(5))


def new_batch(names: list[int], tick: int = 1) -> list[Evictable]:
    """Newcomers as the policy hands them over: stamped, and linked to their list."""
    batch = [evictable(b"%d" % name, 1) for name in names]
    for entry in batch:
        entry.stamp = first_use(tick, 0)
        entry.link = batch
    return batch


def test_rows_hold_what_a_set_would() -> None:
    """Batches, removals and evictions in random order leave exactly what a set would hold."""
    draw = random.Random(1)
    residents, model = Residents(), set[Evictable]()
    for number in range(4_000):
        step = draw.random()
        if step < (0.5 if number < 2_000 else 0.2):
            batch = new_batch([number * 10 + at for at in range(draw.randrange(1, 5))])
            model.update(batch)
            residents.take_in(batch)
        elif model and step < 0.8:
            entry = draw.choice(sorted(model, key=lambda e: e.key))
            model.discard(entry)
            entry.link.remove(entry)
            residents.removed(1)
        elif model:
            model.difference_update(residents.worst(RECENCY, 2, 2))
        residents.resize(len(model))
        if number % 100 == 0:
            residents.validate()
            assert set(residents) == model
    assert len(residents) == len(model)


def test_the_worst_leaves_and_of_equals_the_newcomer() -> None:
    """In a loop, where all intervals are equal, a newcomer must not push out those that wait for their turn."""
    residents = Residents()
    old = [new_batch([name]) for name in range(8)]
    for batch in old:
        residents.take_in(batch)
    entries = list(residents)
    for entry in entries[1:]:
        entry.stamp = USED
    assert residents.worst(REUSE, 6, 1) == [entries[0]]
    newcomers = new_batch([100, 101])
    for entry in newcomers:
        entry.stamp = USED
    residents.take_in(newcomers)
    residents.worst(REUSE, 6, 1)  # meets the one that still waits at the door
    assert residents.worst(REUSE, 6, 1)[::-1] == newcomers
