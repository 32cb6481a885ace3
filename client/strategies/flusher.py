"""Brings what waits in a write-behind queue to the store: batches, retries with backoff, a report when it is dead.

Invariants: a change leaves the queue only after the store took it; one batch is under way at a time; waiting between
retries grows from `retry_min_s` to `retry_max_s` with seeded jitter, and ends at once when the flusher is closed.
"""

from __future__ import annotations

import random
import threading
import time
from typing import Any, Final

from stratacache.client.notice import notices
from stratacache.client.strategies.store import BackingStore
from stratacache.client.strategies.write_queue import DELETED, WriteQueue

BATCH_MAX: Final = 256


class Flusher:
    """A thread that empties a queue into a store; started by the first `wake`."""

    def __init__(
        self,
        queue: WriteQueue,
        store: BackingStore,
        *,
        retry_min_s: float = 0.1,
        retry_max_s: float = 30.0,
        seed: int | None = None,
    ) -> None:
        self._queue = queue
        self._store = store
        self._retry_min_s = retry_min_s
        self._retry_max_s = retry_max_s
        self._random = random.Random(seed)  # noqa: S311 - jitter, no secret
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self.stored = 0
        self.failures = 0
        self.failing_since: float | None = None
        self.last_error = ""

    def wake(self) -> None:
        """Say that something waits."""
        with self._changed:
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._run, name="stratacache-write-behind", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wait_empty(self, deadline_s: float) -> bool:
        """Wait until nothing waits; False when the deadline came first."""
        self.wake()
        with self._changed:
            return self._changed.wait_for(lambda: not len(self._queue), deadline_s)

    def close(self) -> None:
        """End the thread after the batch that is under way; what still waits stays in the queue."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def report(self) -> dict[str, Any]:
        """How it stands: what waits, what was stored, and since when the store fails."""
        since = self.failing_since
        return {
            "waiting": len(self._queue),
            "waiting_bytes": self._queue.bytes_used,
            "stored": self.stored,
            "failures": self.failures,
            "failing_s": 0.0 if since is None else time.monotonic() - since,
            "last_error": self.last_error if since is not None else "",
        }

    def _run(self) -> None:
        pause_s = self._retry_min_s
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or len(self._queue) > 0)
                if self._closing:
                    return
            if self._flush_batch():
                pause_s = self._retry_min_s
                continue
            with self._changed:
                if self._changed.wait_for(lambda: self._closing, pause_s * self._random.uniform(0.5, 1.0)):
                    return
            pause_s = min(pause_s * 2, self._retry_max_s)

    def _flush_batch(self) -> bool:
        try:
            batch = self._queue.oldest(BATCH_MAX)
            values = {change.key: change.value for change in batch if change.value is not DELETED}
            if values:
                self._store.store_many(values)
            gone = [change.key for change in batch if change.value is DELETED]
            if gone:
                self._store.delete_many(gone)
            self._queue.done(batch)
        except Exception as error:  # noqa: BLE001 - store, codec or the queue's own disk: retried
            self.failures += 1
            self.last_error = f"{type(error).__name__}: {error}"
            self.failing_since = time.monotonic() if self.failing_since is None else self.failing_since
            notices.warn(
                "write-behind",
                f"writing behind fails ({self.last_error}); {len(self._queue)} changes wait on disk",
            )
            return False
        self.stored += len(batch)
        self.failing_since = None
        with self._changed:
            self._changed.notify_all()
        return True
