"""Locks by key: changes of one key follow each other, those of others go on.

Invariants: locks are taken in one order, so that batches that overlap never wait for each other in a circle; a thread
that holds its turn may take it again (a store that writes through the cache); a copy in another process, a forked child
too, has locks of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from zlib import crc32

from stratacache.client.strategies.forks import begins_anew

LOCKS = 64  # keys that share one wait for each other without need


class Turns:
    """The locks of one cache in front of a store."""

    def __init__(self) -> None:
        self.reset_after_fork()
        begins_anew(self)

    def reset_after_fork(self) -> None:
        """Nobody holds a lock here, whatever the threads of the parent do."""
        self._locks = [threading.RLock() for _ in range(LOCKS)]

    def __reduce__(self) -> tuple[Any, ...]:
        return Turns, ()

    @contextmanager
    def of(self, keys: Iterable[str]) -> Iterator[None]:
        """Hold the locks of some keys."""
        numbers = {crc32(key.encode(errors="surrogatepass")) % LOCKS for key in keys}
        with ExitStack() as held:
            for number in sorted(numbers):
                held.enter_context(self._locks[number])
            yield
