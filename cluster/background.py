"""Work in the background of the cluster's processes: what fails is seen, and what must not fail ends the process.

A decision that raised was made by half, and a loop that ended promises by its silence what nobody does any more: a
coordinator that ticks no longer judges nobody, a shard that renews no longer waits for ever. A process that ends is
what everything here is made for: its right to serve runs out, and its successor asks those who know.

Invariant: nothing that is spawned here ends by an exception that is not logged with its traceback.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol

log = logging.getLogger(__name__)


class Fall(Protocol):
    """Ends the process because of what must not have failed."""

    def __call__(self, why: str, error: BaseException) -> NoReturn:
        """`why` completes "PROCESS ends: "."""
        ...


def end_loudly(process: str, why: str, error: BaseException) -> NoReturn:
    """Log the error with its traceback, and end the process at once: nothing is flushed that it may have spoilt."""
    log.critical("%s ends: %s", process, why, exc_info=error)
    os._exit(1)


class Background:
    """The tasks of one event loop."""

    def __init__(self, fall: Fall) -> None:
        self._fall = fall
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something once. That it failed is logged: whoever decided on it asks again when it had no effect."""
        return self._begin(work, self._note)

    def keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do what must not fail, most often for as long as the process lives: the process ends when it does."""
        return self._begin(work, self._end)

    @contextmanager
    def must_not_fail(self, what: str) -> Iterator[None]:
        """For what the event loop calls: the process ends when it raises."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - it ends the process
            self._fall(f"{what} failed", error)

    def cancel(self) -> None:
        """End everything."""
        for task in self._tasks:
            task.cancel()

    def _begin(
        self, work: Coroutine[Any, Any, None], failed: Callable[[str, BaseException], None]
    ) -> asyncio.Task[None]:
        name = getattr(work, "__qualname__", type(work).__name__)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                failed(name, error)

        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(ended)
        return task

    def _note(self, name: str, error: BaseException) -> None:
        log.error("%s failed", name, exc_info=error)

    def _end(self, name: str, error: BaseException) -> None:
        self._fall(f"{name} failed", error)
