"""The near cache of a client under test."""

from __future__ import annotations

from typing import Any

from .servers import wait_until


def near_of(cache: Any) -> Any:
    if hasattr(cache, "run"):
        client = cache.client
        return next(iter(client._backends.values())).core.near
    return cache._backend.core.near


def warm(cache: Any, parts: int = 3) -> Any:
    """Have the near cache listen to all shards."""
    cache.get("warm-up")
    near = near_of(cache)
    wait_until(lambda: near.stats()["live_parts"] == parts, what="live parts")
    return near
