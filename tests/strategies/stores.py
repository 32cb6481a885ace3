"""A store that tells what it is asked, and a cache in front of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from stratacache.client import CacheStrategy
from stratacache.client.base import Cache
from stratacache.client.strategies import DirectoryStore, StoreBackedCache


class Watched(DirectoryStore):
    """A real store that notes what it is asked, and can be told to fail or to wait."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.loads: list[str] = []
        self.fail = False
        self.before_load: Callable[[], None] = lambda: None

    def load_many(self, keys: Iterable[str]) -> dict[str, Any]:
        wanted = list(keys)
        self.loads += wanted
        found = super().load_many(wanted)
        self.before_load()
        return found

    def store_many(self, items: Mapping[str, Any]) -> None:
        if self.fail:
            raise OSError("the store is away")
        super().store_many(items)


def over(cache: Cache, store: Watched, strategy: CacheStrategy, tmp_path: Path, **options: Any) -> StoreBackedCache:
    if strategy is CacheStrategy.WRITE_BEHIND:
        options["queue_dir"] = tmp_path / "queue"
    return StoreBackedCache(cache, store, strategy, ttl=60.0, seed=1, **options)


def wait_until(condition: Callable[[], bool], deadline_s: float = 10.0) -> None:
    until = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < until, "the condition did not come true in time"
        time.sleep(0.005)
