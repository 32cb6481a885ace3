"""When not to ask: a circuit for each shard, and a budget for retries.

Invariants: while a circuit is open its shard costs its callers nothing; one probe at a time finds out whether it is
back; retries are never more than a tenth of the calls, past a small reserve, so that a struggling cluster is not
buried by its clients. No clock and no randomness of its own: both are handed in.
"""

from __future__ import annotations

from random import Random

FAILURES_TO_OPEN = 3
OPEN_FIRST_S = 0.1
OPEN_MAX_S = 2.0
PROBE_S = 5.0  # a probe that nobody reported on makes room for another after this time


class Circuit:
    """Closed (calls go), open (calls fail at once), or probing (one call goes)."""

    __slots__ = ("_open_s", "_probe_until", "failures", "open_until")

    def __init__(self) -> None:
        self.failures = 0
        self.open_until = 0.0
        self._open_s = OPEN_FIRST_S
        self._probe_until = 0.0

    def allows(self, now: float) -> bool:
        """Whether a call may go now; in the open state the first one after the pause is the probe."""
        if self.failures < FAILURES_TO_OPEN:
            return True
        if now < self.open_until or now < self._probe_until:
            return False
        self._probe_until = now + PROBE_S
        return True

    def succeeded(self) -> None:
        """An answer came: close."""
        self.failures = 0
        self._open_s = OPEN_FIRST_S
        self._probe_until = 0.0

    def failed(self, now: float, random: Random) -> None:
        """No answer came. Pauses double, spread by up to half so that clients do not return all at once."""
        self.failures += 1
        if self.failures >= FAILURES_TO_OPEN:
            self.open_until = now + self._open_s * random.uniform(1.0, 1.5)
            self._open_s = min(self._open_s * 2, OPEN_MAX_S)
            self._probe_until = 0.0


class RetryBudget:
    """Tokens for retries: each first attempt earns a tenth, each retry costs one."""

    __slots__ = ("tokens", "tokens_max")

    def __init__(self, tokens_max: float = 50.0) -> None:
        self.tokens = self.tokens_max = tokens_max

    def earn(self) -> None:
        """A first attempt was made."""
        if self.tokens < self.tokens_max:
            self.tokens += 0.1

    def spend(self) -> bool:
        """Take a retry if there is one."""
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


def backoff_s(attempt: int, random: Random) -> float:
    """Pause before retry `attempt` (1, 2, ...): 5 ms doubling to 160 ms, each between half and all of it."""
    return 0.005 * 2.0 ** min(attempt - 1, 5) * random.uniform(0.5, 1.0)
