"""The seed's method names on the engine: text keys with a namespace, TTLs as timedelta, tags as text.

Invariants: each method is one call of the engine's own interface; nothing is decided here.
"""

from __future__ import annotations

from concurrent.futures import Future
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from .entry import NEVER_MS, Entry
from .errors import UsageError
from .handoff import then
from .keys import DEFAULT_NAMESPACE, full_key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .engine import MultiLevelCache

T = TypeVar("T")


class FriendlyCache:
    """A view of an engine for callers who hold text keys and bytes or text values.

    Like the engine's own methods these give a Future where the disk has to be waited for.
    """

    def __init__(self, engine: MultiLevelCache) -> None:
        self.engine = engine

    def get(self, key: str, namespace: str = "default") -> bytes | Future[bytes | None] | None:
        """Give the live value, or None."""
        found = self.engine.get(full_key(namespace, key))
        if isinstance(found, Future):
            return then(found, _payload)
        return _payload(found)

    def put(
        self,
        key: str,
        value: bytes | str,
        ttl: timedelta | None = None,
        namespace: str = "default",
        tags: Iterable[str] = (),
        *,
        cost_s: float = 1.0,
    ) -> bool | Future[bool]:
        """Store a value in every level that is on."""
        if ttl is not None and ttl <= timedelta(0):
            raise UsageError(f"ttl={ttl} is not positive: leave it out for no expiry")
        expires_ms = NEVER_MS if ttl is None else self.engine.now_ms() + round(ttl.total_seconds() * 1000)
        payload, codec = (value.encode(), 1) if isinstance(value, str) else (value, 0)
        return self.engine.put(
            full_key(namespace, key),
            payload,
            expires_ms=expires_ms,
            tags=encode_tags(tags),
            cost_s=cost_s,
            codec=codec,
        )

    def invalidate(self, key: str, namespace: str = "default") -> bool | Future[bool]:
        """Remove one value from every level; whether it was there."""
        return self.engine.remove(full_key(namespace, key))

    def invalidate_by_tags(self, tags: Iterable[str]) -> int | Future[int]:
        """Remove what carries any of the tags from every level; gives the number of entries."""
        return self.engine.invalidate_tags(encode_tags(tags))

    def invalidate_namespace(self, namespace: str) -> int | Future[int]:
        """Remove everything of a namespace from every level; gives the number of entries."""
        return self.engine.invalidate_namespace(namespace.encode() or DEFAULT_NAMESPACE)

    def clear(self) -> int | Future[int]:
        """Remove everything from every level; gives the number of entries."""
        return self.engine.clear()

    def get_statistics(self) -> dict[str, Any]:
        """Counters of the node and its namespaces."""
        return self.engine.stats()

    def get_comprehensive_statistics(self) -> dict[str, Any]:
        """Counters of each level, with the directory and the size of the disk level."""
        stats = self.engine.stats()
        return {
            "l1_cache": stats["levels"]["l1_memory"],
            "l2_cache": stats["levels"].get("l2_compressed"),
            "l3_cache": stats["levels"].get("l3_disk"),
            "l3_disk_usage": stats["disk_bytes"],
            "namespace_stats": stats["namespaces"],
            "compression_enabled": self.engine.l2 is not None,
            "disk_cache_enabled": self.engine.l3 is not None and self.engine.l3.on,
            "cache_directory": str(self.engine.config.data_dir) if self.engine.config.data_dir else None,
        }


def encode_tags(tags: Iterable[str]) -> tuple[bytes, ...]:
    """Text tags as the engine takes them; raises UsageError for what is no text."""
    if isinstance(tags, str):
        raise UsageError(f"tags={tags!r} is one str: hand in a set or list of tags")
    given = tuple(tags)  # they may come from a generator, which gives them once
    wrong = [tag for tag in given if not isinstance(tag, str)]
    if wrong:
        raise UsageError(f"tag {wrong[0]!r} is a {type(wrong[0]).__name__}: tags are str")
    return tuple(tag.encode() for tag in given)


def _payload(entry: Entry | None) -> bytes | None:
    return entry.payload if entry is not None else None
