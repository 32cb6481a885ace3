"""Warnings that are worth a line a minute, not a line a call.

Invariants: at most one line per subject and interval; the table of subjects is bounded; what was held back is counted
and told with the next line.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

INTERVAL_S: Final = 60.0
_SUBJECTS_MAX: Final = 1024

logger = logging.getLogger("stratacache.client")


class Notices:
    """Logs each subject once an interval; thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, interval_s: float = INTERVAL_S) -> None:
        self._clock = clock
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[float, int]] = {}

    def warn(self, subject: str, message: str) -> bool:
        """Log `message` unless `subject` has had its line in this interval; whether it was logged."""
        now = self._clock()
        with self._lock:
            since, held_back = self._seen.pop(subject, (now - self._interval_s, 0))
            due = now - since >= self._interval_s
            if len(self._seen) >= _SUBJECTS_MAX:
                del self._seen[next(iter(self._seen))]
            self._seen[subject] = (now, 0) if due else (since, held_back + 1)
        if due:
            logger.warning("%s%s", message, f" ({held_back} more like it)" if held_back else "")
        return due


notices: Final = Notices()
"""The process's own: decorated functions must not carry a lock into a pickle."""
