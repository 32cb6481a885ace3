"""Which cache a decorated function uses when nobody handed one in: found at the first call, one for each process.

Invariants: nothing is connected by importing or decorating; a program without a cache is asked once every RETRY_S
seconds, not at every call; what is kept here never travels in a pickle.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

from stratacache.client.base import AsyncCache, Cache
from stratacache.client.notice import notices
from stratacache.node.errors import CacheError, UnavailableError

C = TypeVar("C", Cache, AsyncCache)

RETRY_S: Final = 5.0
"""How long a failed attempt to find the cache is taken as the answer."""


class Finder:
    """Opens the blocking client once for the process, and the asyncio client once for each event loop."""

    def __init__(
        self,
        open_blocking: Callable[[str | None], Cache],
        open_async: Callable[[str | None], AsyncCache],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_blocking = open_blocking
        self._open_async = open_async
        self._clock = clock
        self._lock = threading.Lock()
        self._blocking: dict[str | None, Cache] = {}
        self._async: weakref.WeakKeyDictionary[Any, dict[str | None, AsyncCache]] = weakref.WeakKeyDictionary()
        self._failed: dict[str | None, tuple[float, CacheError]] = {}

    def blocking(self, address: str | None = None) -> Cache:
        """The process's client for an address (None: what `connect()` finds). Raises the CacheError of connecting."""
        client = self._blocking.get(address)
        if client is not None:
            return client
        with self._lock:
            if address not in self._blocking:
                self._blocking[address] = self._try(self._open_blocking, address)
            return self._blocking[address]

    def asyncio(self, address: str | None = None) -> AsyncCache:
        """The client of the running event loop. Raises the CacheError of connecting."""
        from asyncio import get_running_loop  # noqa: PLC0415 - loaded already wherever a loop runs

        clients = self._async.get(get_running_loop())
        if clients is None:
            self._forget_ended()
            clients = self._async[get_running_loop()] = {}
        if address not in clients:
            clients[address] = self._try(self._open_async, address)
        return clients[address]

    def _forget_ended(self) -> None:
        """Drop the clients of loops that are closed: they lead to their loops, so no collector would."""
        for reference in self._async.keyrefs():
            loop = reference()
            if loop is not None and loop.is_closed():
                self._async.pop(loop, None)

    def use(self, client: Cache | None) -> None:
        """Make a client the process's default; None forgets all that was found."""
        with self._lock:
            self._failed.clear()
            self._blocking.clear()
            if client is not None:
                self._blocking[None] = client

    def reset_after_fork(self) -> None:
        """A thread of the parent may have been connecting, with the lock in its hand."""
        self._lock = threading.Lock()

    def _try(self, opener: Callable[[str | None], Any], address: str | None) -> Any:
        since, error = self._failed.get(address, (0.0, None))
        if error is not None and self._clock() - since < RETRY_S:
            raise error.with_traceback(None)  # else it would grow with each call that it answers
        try:
            client = opener(address)
        except CacheError as failure:
            self._failed[address] = (self._clock(), failure)
            raise
        self._failed.pop(address, None)
        return client


def _open_blocking(address: str | None) -> Cache:
    # By name: decorating a function must not load the transports.
    client: Cache = importlib.import_module("stratacache.client.connecting").connect(address)
    return client


def _open_async(address: str | None) -> AsyncCache:
    client: AsyncCache = importlib.import_module("stratacache.client.connecting").connect_async(address)
    return client


finder: Final = Finder(_open_blocking, _open_async)
os.register_at_fork(after_in_child=finder.reset_after_fork)


class Source:
    """Where a decorated function's cache comes from: a client, an address, or the default of the process.

    Pickles as what it was made from; the client that was found stays in its process.
    """

    def __init__(self, given: Cache | AsyncCache | str | None, *, name: str, strict: bool) -> None:
        self._given = given
        self._name = name
        self._strict = strict

    def blocking(self) -> Cache | None:
        """The client, or None when there is none (said once a minute). Raises UnavailableError when strict."""
        return self._find(finder.blocking)

    def asyncio(self) -> AsyncCache | None:
        """The asyncio client, or None when there is none."""
        return self._find(finder.asyncio)

    def _find(self, find: Callable[[str | None], C]) -> C | None:
        if self._given is not None and not isinstance(self._given, str):
            return cast("C", self._given)  # of the right kind: wrapping.py has checked it
        try:
            return find(self._given)
        except CacheError as error:
            if self._strict:
                raise UnavailableError(f"{self._name}: no cache: {error}") from error
            notices.warn(f"no cache {self._given}", f"{self._name} runs without a cache: {error}")
            return None
