"""What a client has to say about itself: counters, and a log that repeats itself at most once a minute.

Invariants: every failure that fail-open hides is counted here under its kind; a message is logged when it first
appears and then at most once a minute, with the number of times that it was held back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

LOGGER = logging.getLogger("stratacache.client")
REPEAT_AFTER_S = 60.0


@dataclass(slots=True)
class Counters:
    """Plain integers: single additions, which the interpreter does not tear apart between threads."""

    hits: int = 0
    near_hits: int = 0
    misses: int = 0
    puts: int = 0
    puts_refused: int = 0
    computed: int = 0
    compute_errors: int = 0
    fills_void: int = 0
    invalidations: int = 0
    invalidations_incomplete: int = 0
    undecodable: int = 0
    not_refreshable: int = 0
    retries: int = 0
    views: int = 0
    near_cleared: int = 0
    failures: dict[str, int] = field(default_factory=dict)

    def failed(self, operation: str) -> None:
        """An operation could not be carried out and answered with its default."""
        self.failures[operation] = self.failures.get(operation, 0) + 1

    def as_dict(self) -> dict[str, object]:
        """A copy for stats()."""
        return asdict(replace(self, failures=self.failures.copy()))  # in one step: other threads may add a kind


class QuietLog:
    """Warnings that do not flood: one line for each topic and minute."""

    __slots__ = ("_held", "_monotonic", "_said_at")

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._said_at: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def note(self, topic: str, message: str) -> None:
        """Log a message unless this topic had one within the minute; topics are a handful of fixed words."""
        now = self._monotonic()
        said_at = self._said_at.get(topic)
        if said_at is not None and now - said_at < REPEAT_AFTER_S:
            self._held[topic] = self._held.get(topic, 0) + 1
            return
        self._said_at[topic] = now
        held = self._held.pop(topic, 0)
        LOGGER.warning("%s%s", message, f" ({held} more like it in the last minute)" if held else "")
