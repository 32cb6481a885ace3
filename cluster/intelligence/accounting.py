"""Whether prefetching pays, kind by kind; a kind that does not pay switches itself off and tries again later.

Used means: read before it expired or was evicted. What was computed ahead and used cost nothing extra, since the
reader would have computed it; what was not used cost its seconds and bytes. Over a window of outcomes a kind whose
waste is more than what it saved rests, ten minutes at first, twice as long each time, and then probes with a few.

Invariants: every prefetch that was issued ends once, as used, late, wasted or failed; what is out is bounded.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

WINDOW: Final = 64
OUTCOMES_MIN: Final = 16
PROBES: Final = 8
REST_S: Final = 600.0
REST_MAX_S: Final = 86_400.0
OUT_MAX: Final = 65_536


class Kind(StrEnum):
    """What can be done ahead of a read. Room for learned successors and copies of hot keys."""

    REFRESH = "refresh_ahead"
    WAKE = "wake"


@dataclass(frozen=True, slots=True)
class Issued:
    """One prefetch that has not ended.

    `done_s` is when the value was there (None: not yet). `after_s` is the last visit that was known when it was begun:
    it is meant for a later one. The time of the decision can't tell them apart, since visits are whole seconds.
    `read_s` is a read that was told of while the value was still being waited for.
    """

    at_s: float
    until_s: float
    cost_s: float
    size: int
    saves_s: float
    done_s: float | None = None
    after_s: int = 0
    read_s: float | None = None


@dataclass
class Account:
    """What one kind of prefetch has brought and cost."""

    kind: Kind
    enabled: bool = True
    issued: int = 0
    used: int = 0
    late: int = 0
    wasted: int = 0
    failed: int = 0
    saved_s: float = 0.0
    spent_s: float = 0.0
    wasted_s: float = 0.0
    wasted_bytes: int = 0
    switched_off: int = 0
    out: dict[bytes, Issued] = field(default_factory=dict)
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _off_until_s: float | None = None
    _rest_s: float = REST_S
    _probes_left: int | None = None
    _oldest_s: float = 0.0

    # -- may it? -------------------------------------------------------------------------------------------------

    def allowance(self, now_s: float) -> int:
        """How many may be issued now: none while the kind rests, a few while it probes."""
        if not self.enabled or len(self.out) >= OUT_MAX:
            return 0
        if self._off_until_s is not None:
            if now_s < self._off_until_s:
                return 0
            self._off_until_s = None
            self._probes_left = PROBES
            self._recent.clear()
        return OUT_MAX - len(self.out) if self._probes_left is None else self._probes_left

    @property
    def resting(self) -> bool:
        """Whether it has switched itself off."""
        return self._off_until_s is not None

    # -- what happens --------------------------------------------------------------------------------------------

    def was_issued(self, key: bytes, issued: Issued) -> None:
        """A prefetch was begun."""
        self.issued += 1
        self.out[key] = issued
        if self._probes_left is not None:
            self._probes_left -= 1

    def was_done(
        self,
        key: bytes,
        done_s: float,
        *,
        spent_s: float,
        good: bool,
        size: int | None = None,
        until_s: float | None = None,
    ) -> bool:
        """The value was there at `done_s`, or could not be had; `spent_s` is what it took, `until_s` when it expires.

        Whether it has been used already: that a task is done is told of after its values have been stored and read.
        """
        self.spent_s += spent_s
        issued = self.out.get(key)
        if issued is None:
            return False
        if not good:  # says something of the loader (places.py), and nothing of whether prefetching pays
            self.failed += 1
            del self.out[key]
            if self._probes_left is not None:
                self._probes_left += 1
            return False
        self.out[key] = replace(
            issued,
            cost_s=spent_s,
            size=issued.size if size is None else size,
            done_s=done_s,
            until_s=issued.until_s if until_s is None else until_s,
        )
        return issued.read_s is not None and self.was_read(key, issued.read_s, done_s)

    def was_read(self, key: bytes, read_s: float, now_s: float) -> bool:
        """The key was read: what was prefetched for it paid, if it was there and still is. Whether it did."""
        issued = self.out.get(key)
        if issued is None or read_s < int(issued.at_s):
            return False
        if issued.done_s is None:  # it may be there all the same
            if issued.read_s is None:
                self.out[key] = replace(issued, read_s=read_s)
        elif read_s < int(issued.done_s):
            self._end_late(key, now_s)
        elif read_s > issued.until_s:
            self._waste(key, issued, now_s)
        else:
            self.used += 1
            self.saved_s += issued.saves_s
            self._end(key, issued.saves_s, now_s)
            return True
        return False

    def was_evicted(self, key: bytes, now_s: float) -> None:
        """What was prefetched left before anybody read it."""
        issued = self.out.get(key)
        if issued is not None:
            self._waste(key, issued, now_s)

    def settle(self, now_s: float, patience_s: float) -> None:
        """End what nobody read in time; a read may be told of `patience_s` later."""
        if now_s < self._oldest_s:
            return
        ends = {key: issued.until_s + patience_s for key, issued in self.out.items()}
        for key in [key for key, end_s in ends.items() if end_s < now_s]:
            issued = self.out[key]
            if issued.read_s is None:
                self._waste(key, issued, now_s)
            else:
                self._end_late(key, now_s)
            del ends[key]
        self._oldest_s = min(ends.values(), default=now_s)

    def _end_late(self, key: bytes, now_s: float) -> None:
        self.late += 1
        self._end(key, 0.0, now_s)

    def _waste(self, key: bytes, issued: Issued, now_s: float) -> None:
        self.wasted += 1
        self.wasted_s += issued.cost_s
        self.wasted_bytes += issued.size
        self._end(key, -issued.cost_s, now_s)

    def _end(self, key: bytes, pays_s: float, now_s: float) -> None:
        del self.out[key]
        if self._off_until_s is not None:
            return  # begun before the kind was switched off
        self._recent.append(pays_s)
        pay_s = sum(self._recent)
        if self._probes_left is not None:
            if len(self._recent) < PROBES:
                return
            self._probes_left = None
            if pay_s > 0:
                self._rest_s = REST_S
                return
        elif len(self._recent) < OUTCOMES_MIN or pay_s >= 0:
            return
        self._off_until_s = now_s + self._rest_s
        self._rest_s = min(2 * self._rest_s, REST_MAX_S)
        self.switched_off += 1

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        ended = self.used + self.late + self.wasted
        return {
            "on": self.enabled and not self.resting,
            "issued": self.issued,
            "used": self.used,
            "late": self.late,
            "wasted": self.wasted,
            "failed": self.failed,
            "out": len(self.out),
            "precision": self.used / ended if ended else 0.0,
            "seconds_saved": self.saved_s,
            "seconds_spent": self.spent_s,
            "seconds_wasted": self.wasted_s,
            "bytes_wasted": self.wasted_bytes,
            "switched_off": self.switched_off,
        }
