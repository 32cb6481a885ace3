"""Which loader may begin one more task: places for tasks are few, and a task that is never placed holds one for long.

Ray keeps a task waiting whose resources are not there, and nobody can tell it from one that computes for a while. So a
loader is trusted with places as far as it gives them back: the first task of each has to come back before it gets more
than one, and as long as there are others, one place is not for it.

Invariants: no more than `places_max` tasks are out; loaders whose last task has not come back with anything hold a
place each, and no more than half of all together; one that did not gets the next place after as long again as it held
the last, after ten seconds at least, and after twice as long each time.
"""

from __future__ import annotations

from typing import Final

REST_MIN_S: Final = 10.0
REST_MAX_S: Final = 3600.0


class Places:
    """The places of one planner."""

    def __init__(self, places_max: int) -> None:
        self._places_max = places_max
        self._held_since_s: dict[str, list[float]] = {}
        self._reliable: set[str] = set()
        self._rests: dict[str, tuple[float, float]] = {}
        """Until when, and for how long."""

    @property
    def held(self) -> int:
        """How many tasks are out."""
        return sum(map(len, self._held_since_s.values()))

    def is_stuck(self, loader: str, now_s: float) -> bool:
        """Whether nothing of this loader can begin before a task of its comes back, or it has rested."""
        unproven = loader in self._held_since_s and loader not in self._reliable
        return unproven or now_s < self._rests.get(loader, (now_s, 0.0))[0]

    def take(self, loader: str, now_s: float, *, alone: bool) -> bool:
        """Take a place, if there is one for this loader; `alone`: there is no other one."""
        if not self._has_room(loader, now_s, alone=alone):
            return False
        self._held_since_s.setdefault(loader, []).append(now_s)
        return True

    def _has_room(self, loader: str, now_s: float, *, alone: bool) -> bool:
        places_max = self._places_max
        if self.held >= places_max or self.is_stuck(loader, now_s):
            return False
        if loader in self._reliable:
            return alone or len(self._held_since_s.get(loader, ())) < max(1, places_max - 1)
        unproven = sum(len(held) for other, held in self._held_since_s.items() if other not in self._reliable)
        return unproven < max(1, places_max // 2)

    def give_back(self, loader: str, now_s: float, *, came_back: bool) -> None:
        """A task is over; `came_back` is False when it failed as a whole, computed nothing, or was given up."""
        held = self._held_since_s.get(loader)
        if held is None:
            return
        since_s = held.pop(0)
        if not held:
            del self._held_since_s[loader]
        if came_back:
            self._reliable.add(loader)
            self._rests.pop(loader, None)
        else:
            self._reliable.discard(loader)
            until_s, rest_s = self._rests.get(loader, (now_s, 0.0))
            if now_s >= until_s:  # else it was begun before the rest, and failed with those that led to it
                rest_s *= 2
            rest_s = min(max(now_s - since_s, rest_s, REST_MIN_S), REST_MAX_S)
            self._rests[loader] = (now_s + rest_s, rest_s)
