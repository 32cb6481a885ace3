"""Between the owner's thread and the worker: jobs go there, completions come back, futures are chained here.

Invariants: every future given out here is resolved on the owner's thread, in the order in which the jobs finished; a
completion runs exactly once, whether the owner's loop calls for it or the owner waits for it itself.
"""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

from .worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
R = TypeVar("R")


class Handoff:
    """Runs jobs in a worker thread and their completions on the owner's thread.

    `post` asks the owner's loop to call a function soon; without it the owner waits where an answer needs the disk.
    """

    def __init__(self, post: Callable[[Callable[[], object]], object] | None) -> None:
        self.post = post
        self.worker = Worker("stratacache-node")
        self._done: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._running = threading.RLock()

    @property
    def waits(self) -> bool:
        """Whether the owner waits for the disk itself, having no loop that could go on meanwhile."""
        return self.post is None

    def complete(self, step: Callable[[], None]) -> None:
        """From the worker: have a step run on the owner's thread."""
        self._done.put(step)
        post = self.post
        if post is not None:
            try:
                post(self.run_done)
            except RuntimeError:  # the loop is closed; whoever closes the engine drains the queue
                return

    def run_done(self) -> None:
        """Run the completions that have come in."""
        # The lock matters only at the end, when a thread may close the engine while its loop still runs.
        with self._running:
            while True:
                try:
                    step = self._done.get_nowait()
                except queue.Empty:
                    return
                step()

    def run_done_for(self, seconds: float) -> bool:
        """Wait for a completion and run it; False when none came in time."""
        try:
            step = self._done.get(timeout=seconds)
        except queue.Empty:
            return False
        with self._running:
            step()
        self.run_done()
        return True

    def run(
        self,
        job: Callable[[], T],
        done: Callable[[T], None],
        failed: Callable[[BaseException], None],
        *,
        urgent: bool = False,
    ) -> None:
        """Run a job in the worker, then `done` or `failed` on the owner's thread."""

        def work() -> None:
            try:
                result = job()
            except BaseException as error:  # noqa: BLE001 - handed to `failed`
                caught = error
                self.complete(lambda: failed(caught))
            else:
                self.complete(lambda: done(result))

        self.worker.submit(work, urgent=urgent)

    def off_thread(self, job: Callable[[], T]) -> Future[T]:
        """Run a job in the worker; the future is resolved on the owner's thread."""
        future: Future[T] = Future()
        self.run(job, future.set_result, future.set_exception, urgent=True)
        return future

    def settle(self, future: Future[T]) -> T | Future[T]:
        """Give the answer when it is there; wait for it when the owner has no loop; else give the future."""
        while self.waits and not future.done():
            self.run_done_for(1.0)
        return future.result() if future.done() else future


def then(source: Future[T], step: Callable[[T], R]) -> Future[R]:
    """A future of what `step` makes of the answer."""
    target: Future[R] = Future()

    def on_done(done: Future[T]) -> None:
        try:
            target.set_result(step(done.result()))
        except BaseException as error:  # noqa: BLE001 - whoever waits for the future handles it
            target.set_exception(error)

    source.add_done_callback(on_done)
    return target


def then_ask(source: Future[T], step: Callable[[T], R | Future[R]] | Callable[[T], Future[R]]) -> Future[R]:
    """A future of what `step` answers at once or later; cancelling it cancels what it waits for, or the step."""
    target: Future[R] = Future()

    def on_answer(done: Future[R]) -> None:
        if target.cancelled():
            return
        error = done.exception()
        if error is not None:
            target.set_exception(error)
        else:
            target.set_result(done.result())

    def on_done(done: Future[T]) -> None:
        if target.cancelled():
            return
        try:
            answer = step(done.result())
        except BaseException as error:  # noqa: BLE001 - whoever waits for the future handles it
            target.set_exception(error)
            return
        if isinstance(answer, Future):
            asked = answer
            target.add_done_callback(lambda _: asked.cancel() if target.cancelled() else None)
            asked.add_done_callback(on_answer)
        else:
            target.set_result(answer)

    source.add_done_callback(on_done)
    return target


def perf_ns() -> int:
    """Nanoseconds of the real monotonic counter: deadlines of waits for the disk are real, whatever the clock says."""
    return time.perf_counter_ns()
