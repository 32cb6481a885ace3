"""What prefetching may use: tasks at once, seconds a minute, and a share of what readers compute.

Invariants: no more than `tasks_max` tasks run at once, shared among loaders as places.py says; the seconds begun within
any minute stay within the budget and one task; what was computed ahead and not used stays below a share of what was
computed for readers, both of them forgotten by half each day.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from stratacache.cluster.intelligence.places import Places

DAY_S: Final = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """`demand_share_max` is of the seconds that readers compute (or would, without prefetch), on top of `floor_s`."""

    tasks_max: int = 4
    seconds_a_minute: float = 240.0
    demand_share_max: float = 1.0
    floor_s: float = 60.0
    wakes_a_minute: int = 6_000


class Budget:
    """Keeps the limits for one planner."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.places = Places(limits.tasks_max)
        self._seconds = limits.seconds_a_minute
        self._wakes = float(limits.wakes_a_minute)
        self._now_s: float | None = None
        self._demand_s = 0.0
        self._ahead_s = 0.0

    def pass_to(self, now_s: float) -> None:
        """Time goes on: what was used a minute ago may be used again."""
        limits = self.limits
        passed_s = max(0.0, now_s - (now_s if self._now_s is None else self._now_s))
        self._now_s = now_s
        self._seconds = min(limits.seconds_a_minute, self._seconds + passed_s * limits.seconds_a_minute / 60)
        self._wakes = min(float(limits.wakes_a_minute), self._wakes + passed_s * limits.wakes_a_minute / 60)
        fade = 0.5 ** (passed_s / DAY_S)
        self._demand_s *= fade
        self._ahead_s *= fade

    def demand(self, seconds: float) -> None:
        """Readers computed so long, or did not have to because of a prefetch."""
        self._demand_s += max(0.0, seconds)

    def took(self, foreseen_s: float, seconds: float) -> None:
        """What was begun is over: from now on it counts with what it took, nothing if it computed nothing."""
        self._ahead_s = max(0.0, self._ahead_s + seconds - foreseen_s)

    def returned(self, seconds: float) -> None:
        """What was computed ahead has been used: it was a reader's need."""
        self._ahead_s = max(0.0, self._ahead_s - seconds)
        self.demand(seconds)

    @property
    def left_s(self) -> float:
        """What one value may take at most to be computed ahead now."""
        return self.limits.demand_share_max * self._demand_s + self.limits.floor_s - self._ahead_s

    def may_compute(self, cost_s: float, loader: str, *, opens_task: bool = True, alone: bool = True) -> bool:
        """Whether a loader may begin so many seconds now, in a task of their own or in one more; if so they are taken.

        `alone`: no other loader could want a place.
        """
        if self._seconds <= 0 or cost_s > self.left_s:
            return False
        if opens_task and not self.places.take(loader, self._now_s or 0.0, alone=alone):
            return False
        self._seconds -= cost_s
        self._ahead_s += cost_s
        return True

    def ended(self, loader: str, *, came_back: bool = True) -> None:
        """A task is over."""
        self.places.give_back(loader, self._now_s or 0.0, came_back=came_back)

    def is_stuck(self, loader: str) -> bool:
        """Whether no task of a loader can begin before one comes back."""
        return self.places.is_stuck(loader, self._now_s or 0.0)

    @property
    def is_spent(self) -> bool:
        """Whether nobody can begin anything now."""
        return self._seconds <= 0

    def may_wake(self) -> bool:
        """Whether one more key may be woken now."""
        if self._wakes < 1:
            return False
        self._wakes -= 1
        return True
