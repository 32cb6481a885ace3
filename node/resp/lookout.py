"""Whether the event loop looks at its sockets once more before it sleeps.

A loop that sleeps must be woken by its clients' `send`, which costs them more than a look costs the node. Near
saturation the next request is some microseconds away, and to look again is faster for both sides; at any lower load it
would burn a core for nothing. So looks must be earned: one that finds commands earns the next few, and a loop that has
none left sleeps, and tries again only `REST` replies later.

Invariant: looking again delays no command and no timer; it only takes the place of sleep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mypy_extensions import i64

if TYPE_CHECKING:
    from collections.abc import Callable

    from stratacache.node.resp.output import ServerState

LOOKS_EARNED: Final = 4
"""By a look that finds commands. A look takes 1 to 2 us: a node that is idle for most of its time can't earn enough."""

LOOKS_SAVED_MAX: Final = 60
"""Enough for the pause between two bursts of a client with many connections."""

LOOKS_STAKED: Final = 16
"""To begin with."""

REST: Final = 256
"""Replies between two attempts: attempts in vain cost less than 1 %."""

NEVER: Final = 1 << 62


class Lookout:
    """Keeps a loop awake by calling itself as long as that pays; `schedule` is the loop's `call_soon`."""

    def __init__(self, state: ServerState, schedule: Callable[[Callable[[], None]], object]) -> None:
        self._state = state
        self._schedule = schedule
        self._look = self.look
        self._seen: i64 = 0  # commands
        self._looks: i64 = 0  # that are left
        state.rest = REST

    def begin(self) -> None:
        """Stay awake from now on; called with the reply that ends the rest."""
        state = self._state
        state.rest = NEVER
        self._seen = state.commands
        self._looks = LOOKS_STAKED
        self._schedule(self._look)

    def look(self) -> None:
        """Decide whether to look again: since the last call the loop has looked at its sockets once."""
        commands = self._state.commands
        if commands != self._seen:
            self._seen = commands
            self._looks = min(self._looks + LOOKS_EARNED, LOOKS_SAVED_MAX)
        else:
            self._looks -= 1
            if self._looks == 0:
                self._state.rest = REST
                return
        self._schedule(self._look)
