"""Blocking code of several threads in one order that a seed chooses: a thread goes on when it is its turn.

Each thread gives its turn away before every message to the cache and round every call of the store, so that any two
steps of two threads can fall either way; nothing else decides, and a seed that fails fails again.
"""

from __future__ import annotations

import random
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from stratacache.client import CacheClient

DEADLINE_S = 60.0


class Turnwise:
    """Runs `work` of each name in a thread of its own, one step of one thread at a time."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._here = threading.local()
        self._turns: dict[str, threading.Semaphore] = {}
        self._errors: list[BaseException] = []
        self._ended = threading.Event()

    def run(self, works: Mapping[str, Callable[[], None]]) -> None:
        """Run all to their ends; raises what one of them raised."""
        self._turns = {name: threading.Semaphore(0) for name in works}
        threads = [threading.Thread(target=self._run, args=item, daemon=True) for item in works.items()]
        for thread in threads:
            thread.start()
        self._next()
        assert self._ended.wait(DEADLINE_S), f"{sorted(self._turns)} wait for each other"
        if self._errors:
            raise self._errors[0]

    def pause(self) -> None:
        """The next step may be another thread's."""
        turn = getattr(self._here, "turn", None)
        if turn is not None:
            self._next()
            assert turn.acquire(timeout=DEADLINE_S)

    def _next(self) -> None:
        if self._turns:
            self._turns[self._random.choice(sorted(self._turns))].release()
        else:
            self._ended.set()

    def _run(self, name: str, work: Callable[[], None]) -> None:
        turn = self._here.turn = self._turns[name]
        assert turn.acquire(timeout=DEADLINE_S)
        try:
            work()
        except BaseException as error:
            self._errors.append(error)
        del self._turns[name]
        self._next()

    def cut(self, client: CacheClient, namespace: str) -> CacheClient:
        """Have a client (of one thread) pause before everything that it does, in a namespace of its own."""
        shell: Any = client._backend.shell
        for name in ("_perform", "ask_one", "ask_many"):
            setattr(shell, name, self._pausing(getattr(shell, name)))
        client._bind(namespace)
        return client

    def _pausing(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def paused(*args: Any, **kwargs: Any) -> Any:
            self.pause()
            return step(*args, **kwargs)

        return paused


class History:
    """A store that remembers all that it ever held of each key (None: nothing), and pauses round whatever it does."""

    def __init__(self, turns: Turnwise) -> None:
        self._turns = turns
        self.held: dict[str, list[Any]] = defaultdict(lambda: [None])
        self.failing: set[Any] = set()
        """Values that it takes, while its answer is lost."""

    def load_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """As BackingStore."""
        self._turns.pause()
        found = {key: self.held[key][-1] for key in keys if self.held[key][-1] is not None}
        self._turns.pause()
        return found

    def store_many(self, items: Mapping[str, Any]) -> None:
        """As BackingStore."""
        self._turns.pause()
        for key, value in items.items():
            self.held[key].append(value)
        self._turns.pause()
        if self.failing.intersection(items.values()):
            raise OSError("the answer of the store was lost")

    def delete_many(self, keys: Iterable[str]) -> None:
        """As BackingStore."""
        self.store_many(dict.fromkeys(keys))

    def place(self, key: str, value: Any, *, first: int = 0) -> int:
        """The number of the change that brought this value: the only one, or of None the last (or the next `first`)."""
        held = self.held[key]
        return held.index(value, first) if first else len(held) - 1 - held[::-1].index(value)
