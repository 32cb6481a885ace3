"""The rows of residents against a plain set."""

from __future__ import annotations

import random

from stratacache.node.policies.base import Evictable
from stratacache.node.policies.intelligent.residents import ROW_LENGTH, Residents


def test_rows_hold_what_a_set_would() -> None:
    """Additions and removals in random order leave exactly what a set would hold, with no holes."""
    draw = random.Random(1)
    residents, model = Residents(), set[Evictable]()
    for number in range(5_000):
        if model and draw.random() < (0.3 if number < 2_500 else 0.7):
            entry = draw.choice(sorted(model, key=lambda e: e.key))
            model.discard(entry)
            residents.remove(entry)
        else:
            entry = Evictable(b"%d" % number, 1)
            model.add(entry)
            residents.add(entry)
        if number % 100 == 0:
            residents.validate()
    assert len(residents) == len(model)
    seen = {entry for _ in range(len(model) // ROW_LENGTH + 1) for entry in residents.next_row()}
    assert seen == model
