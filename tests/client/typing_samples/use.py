"""Correct use of the client: mypy strict must accept every line."""

from __future__ import annotations

from datetime import timedelta

from stratacache.client import MISS, AsyncCache, Cache, CacheClient, connect, connect_async


def load(cache: Cache, text: str) -> float:
    """The type of what compute returns is the type of the result."""
    value = cache.get(text, default=MISS, namespace="docs")
    if value is MISS:
        cache.put(text, 1.5, ttl=timedelta(hours=2), tags={"model:minilm"}, cost_s=0.8)
    score: float = cache.get_or_compute(text, lambda: len(text) / 2, ttl=60)
    return score


def batch(keys: list[str]) -> list[int]:
    """Computes for the missing keys."""
    return [len(key) for key in keys]


def main() -> int:
    """The blocking client is a Cache."""
    with connect("local:./cache", near_bytes_max=1 << 20) as cache:
        client: CacheClient = cache.namespace("docs")
        load(client, "a")
        lengths: dict[str, int] = client.get_or_compute_many(["a", "b"], batch)
        found = client.get_many([b"raw"])
        stored: int = client.put_many({"a": 1, "b": [2]}, ttl=1.5)
        return stored + sum(lengths.values()) + len(found) + client.invalidate_tags({"model:minilm"})


async def amain() -> str:
    """The asyncio client is an AsyncCache, and takes coroutines to compute with."""

    async def compute() -> str:
        return "x"

    async with connect_async("local:./cache") as cache:
        client: AsyncCache = cache
        text: str = await cache.get_or_compute("k", compute)
        await client.invalidate("k")
        return text
