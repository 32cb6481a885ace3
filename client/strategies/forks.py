"""What a forked child must not inherit: locks that threads of its parent hold, and pools whose threads are not there.

Invariants: what is registered here is not kept alive by it; each thing knows itself how it begins anew.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """Something that has locks or threads."""

    def reset_after_fork(self) -> None:
        """Begin anew in a forked child."""


_HERE: weakref.WeakSet[Forked] = weakref.WeakSet()


def begins_anew(thing: Forked) -> None:
    """Have a thing told when it is in a forked child."""
    _HERE.add(thing)


def _in_a_child() -> None:
    for thing in list(_HERE):
        thing.reset_after_fork()


os.register_at_fork(after_in_child=_in_a_child)
