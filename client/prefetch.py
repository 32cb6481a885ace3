"""Whether prefetching pays: what was computed ahead, what of it was used, and what was in vain.

Invariants: every result that was computed ahead ends as used or as wasted, once; what is out is bounded by what was
issued within two horizons; prefetching stops while its precision is below the bound, and tries again after a while.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

PRECISION_MIN: Final = 0.5
WINDOW: Final = 20
SKIPPED_ROUNDS: Final = 10


@dataclass
class PrefetchAccount:
    """Counts of what was computed ahead of time. Not thread-safe: its owner holds a lock."""

    issued: int = 0
    used: int = 0
    wasted: int = 0
    used_s: float = 0.0
    wasted_s: float = 0.0
    _out: dict[str, tuple[int, float]] = field(default_factory=dict)
    _recent: list[bool] = field(default_factory=list)
    _skipped: int = 0

    @property
    def pays(self) -> bool:
        """Whether to prefetch now: recent precision is good, or it is time to try again."""
        if len(self._recent) < WINDOW or sum(self._recent) / len(self._recent) >= PRECISION_MIN:
            return True
        self._skipped += 1
        if self._skipped < SKIPPED_ROUNDS:
            return False
        self._skipped = 0
        self._recent.clear()
        return True

    def was_issued(self, key: str, until_ms: int, cost_s: float) -> None:
        """A result was computed ahead; it is wasted if nobody reads it until then."""
        self.issued += 1
        self._out[key] = (until_ms, cost_s)

    def is_out(self, key: str) -> bool:
        """Whether a result of this key was computed ahead and not read yet."""
        return key in self._out

    def was_read(self, key: str, now_ms: int) -> None:
        """A key was read: if it was computed ahead, it paid."""
        entry = self._out.pop(key, None)
        if entry is not None:
            self._end(used=now_ms <= entry[0], cost_s=entry[1])

    def settle(self, now_ms: int) -> None:
        """Count as wasted what nobody read in time."""
        for key in [key for key, (until_ms, _) in self._out.items() if until_ms < now_ms]:
            self._end(used=False, cost_s=self._out.pop(key)[1])

    def report(self) -> dict[str, Any]:
        """The counts, and the share of what was used."""
        ended = self.used + self.wasted
        return {
            "issued": self.issued,
            "used": self.used,
            "wasted": self.wasted,
            "precision": self.used / ended if ended else 0.0,
            "seconds_saved": self.used_s,
            "seconds_wasted": self.wasted_s,
        }

    def _end(self, *, used: bool, cost_s: float) -> None:
        if used:
            self.used += 1
            self.used_s += cost_s
        else:
            self.wasted += 1
            self.wasted_s += cost_s
        self._recent = [*self._recent[-(WINDOW - 1) :], used]
