"""What the coordinator may decide about the right to serve: whether it is still the one to grant it, and to judge.

Invariants: a lease is granted only while Ray confirms that this coordinator is the one behind its name; a right that
was granted counts as held for a tenth longer than its lease, since clocks of different machines run at different rates;
a coordinator that stood still itself judges nobody by the time that passed.
"""

from __future__ import annotations

from typing import Final

CONFIRM_MAX_MS: Final = 3_000
"""How old a confirmation of the coordinator's name may be when a lease is granted."""
TICK_GAP_MAX_MS: Final = 2_000
"""A longer gap between two ticks means that the coordinator itself stood still."""


class Authority:
    """One coordinator's, over serving leases of `lease_ms`."""

    def __init__(self, lease_ms: int) -> None:
        self.lease_bound_ms = lease_ms + lease_ms // 10
        self._confirmed_ms = 0
        self._ticked_ms = 0
        self._judge_after_ms = 0

    def begin(self, now_ms: int) -> None:
        """Take over: who may serve is not yet known from what was granted."""
        self._ticked_ms = now_ms
        self._judge_after_ms = now_ms + self.lease_bound_ms

    def tick(self, now_ms: int) -> None:
        """Time has passed."""
        if now_ms - self._ticked_ms > TICK_GAP_MAX_MS or not self.may_grant(now_ms):
            self._judge_after_ms = now_ms + self.lease_bound_ms
        self._ticked_ms = now_ms

    def confirm(self, sent_ms: int) -> None:
        """Ray said, to a question sent then, that this coordinator is the one behind its name."""
        self._confirmed_ms = max(self._confirmed_ms, sent_ms)

    def may_grant(self, now_ms: int) -> bool:
        """Whether no other coordinator can have been behind the name for long."""
        return now_ms - self._confirmed_ms <= CONFIRM_MAX_MS

    def may_judge(self, now_ms: int) -> bool:
        """Whether a shard that did not renew its lease is to blame for it."""
        return now_ms >= self._judge_after_ms

    def granted_until_ms(self, now_ms: int) -> int:
        """The latest moment at which a right that is granted now can still hold."""
        return now_ms + self.lease_bound_ms

    def granted_by_others_until_ms(self, now_ms: int) -> int:
        """The latest moment at which a right that another coordinator granted can still hold."""
        return now_ms + self.lease_bound_ms + CONFIRM_MAX_MS
