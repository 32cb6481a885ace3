"""REFRESH_AHEAD: what is read near the end of its life is loaded anew before it expires.

Invariants: when a key expires is remembered from our own puts and otherwise asked for once; a key is refreshed by one
worker at a time; the table of expiries and the queue of refreshes are bounded (past the bound a refresh is left out,
and the value simply expires).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, Final

from stratacache.client.base import Cache, Ttl
from stratacache.client.notice import notices
from stratacache.client.strategies.forks import begins_anew
from stratacache.node.errors import UsageError
from stratacache.node.types import MISS

KEYS_MAX: Final = 100_000
WAITING_MAX: Final = 1_000


class Refresher:
    """Watches reads and starts refreshes; `reload(key)` loads one key into the cache."""

    def __init__(
        self, cache: Cache, ttl: Ttl, share: float, reload: Callable[[str], None], clock: Callable[[], float]
    ) -> None:
        if not 0 < share < 1:
            raise UsageError(f"refresh_share={share}: a share of the time to live, between 0 and 1")
        self._cache = cache
        self._ttl_s = ttl.total_seconds() if isinstance(ttl, timedelta) else float(ttl or 0)
        self._early_s = self._ttl_s * share
        self._reload = reload
        self._clock = clock
        self.refreshed = 0
        self.failures = 0
        self.reset_after_fork()
        begins_anew(self)

    def reset_after_fork(self) -> None:
        """Begin with workers of its own, which nothing has been handed to: in a child, or in a copy elsewhere."""
        self._lock = threading.Lock()
        self._expires: OrderedDict[str, float] = OrderedDict()
        self._busy: set[str] = set()
        self._workers = ThreadPoolExecutor(2, thread_name_prefix="stratacache-refresh")

    def __getstate__(self) -> dict[str, Any]:
        own = ("_lock", "_expires", "_busy", "_workers")
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.reset_after_fork()
        begins_anew(self)

    def was_put(self, keys: Iterable[str]) -> None:
        """Remember when these keys expire: they were put now."""
        expires = self._clock() + self._ttl_s
        with self._lock:
            for key in keys:
                self._remember(key, expires)

    def was_read(self, keys: Iterable[str]) -> None:
        """Start a refresh of those keys that were read near their end."""
        for key in keys:
            expires = self._expires_of(key)
            if expires is not None and self._clock() >= expires - self._early_s:
                self._start(key)

    def close(self) -> None:
        """End the workers after what they are doing."""
        self._workers.shutdown(wait=True, cancel_futures=True)

    def report(self) -> dict[str, Any]:
        """How many values were refreshed before they expired, and how many refreshes failed."""
        return {"refreshed_ahead": self.refreshed, "refresh_failures": self.failures}

    def _expires_of(self, key: str) -> float | None:
        with self._lock:
            expires = self._expires.get(key)
        if expires is not None and self._clock() < expires:
            return expires
        left_s = self._cache.ttl(key)  # put by somebody else, or expired and loaded again
        if left_s is MISS or left_s is None:
            return None
        with self._lock:
            expires = self._clock() + float(left_s)
            self._remember(key, expires)
        return expires

    def _remember(self, key: str, expires: float) -> None:
        self._expires[key] = expires
        self._expires.move_to_end(key)
        if len(self._expires) > KEYS_MAX:
            self._expires.popitem(last=False)

    def _start(self, key: str) -> None:
        with self._lock:
            if key in self._busy or len(self._busy) >= WAITING_MAX:
                return
            self._busy.add(key)
        try:
            self._workers.submit(self._refresh, key)
        except RuntimeError:  # closed meanwhile
            self._busy.discard(key)

    def _refresh(self, key: str) -> None:
        try:
            self._reload(key)
        except Exception as error:  # noqa: BLE001 - the store may raise anything; the old value lives on till it expires
            self.failures += 1
            notices.warn("refresh-ahead", f"refreshing {key!r:.80} failed ({type(error).__name__}: {error})")
        else:
            self.refreshed += 1
        finally:
            with self._lock:
                self._busy.discard(key)
                self._expires.pop(key, None)
