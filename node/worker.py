"""One worker thread for what may wait for the disk or takes long: commits, large reads, packing of large payloads.

Invariants: jobs run one at a time, urgent ones first, otherwise in the order of submission; nothing is taken after
`stop`; a job that raises is logged, and the next ones run. Completions and failures are the business of handoff.py.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from typing import TYPE_CHECKING, Final

from .errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

_URGENT: Final = 0
_NORMAL: Final = 1
_LAST: Final = 2

log = logging.getLogger(__name__)


class Worker:
    """A thread with a queue of jobs. The thread is a daemon and starts with the first job."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._numbers = itertools.count()
        self._jobs: queue.PriorityQueue[tuple[int, int, Callable[[], None] | None]] = queue.PriorityQueue()
        self._thread: threading.Thread | None = None
        self.stopped = False

    def submit(self, job: Callable[[], None], *, urgent: bool = False) -> None:
        """Run a job in the thread; it is not to raise. Raises UnavailableError after `stop`."""
        if self.stopped:
            raise UnavailableError("the node is closed")
        self._jobs.put((_URGENT if urgent else _NORMAL, next(self._numbers), job))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()

    def run_urgent(self) -> None:
        """From inside a long job: run the urgent jobs that wait."""
        while True:
            try:
                item = self._jobs.get_nowait()
            except queue.Empty:
                return
            if item[0] != _URGENT or item[2] is None:
                self._jobs.put(item)
                return
            _run(item[2])

    def _work(self) -> None:
        while True:
            job = self._jobs.get()[2]
            if job is None:
                return
            _run(job)
            del job  # the queue may be empty for long: do not hold what the job held

    def stop(self, deadline_s: float) -> bool:
        """Finish the queued jobs and end the thread; whether it ended within the deadline."""
        self.stopped = True
        if self._thread is None:
            return True
        self._jobs.put((_LAST, next(self._numbers), None))
        self._thread.join(deadline_s)
        return not self._thread.is_alive()


def _run(job: Callable[[], None]) -> None:
    try:
        job()
    except Exception:  # those that wait behind it are not to wait for ever
        log.exception("a job of the worker failed")
