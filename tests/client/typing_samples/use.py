"""Correct use of the client: mypy strict must accept every line."""

from __future__ import annotations

from datetime import timedelta
from typing import assert_type

from stratacache.client import (
    MISS,
    AIOperation,
    AsyncCache,
    Cache,
    CacheClient,
    Fill,
    cached,
    cached_batch,
    connect,
    connect_async,
)


def load(cache: Cache, text: str) -> float:
    """The type of what compute returns is the type of the result."""
    value = cache.get(text, default=MISS, namespace="docs")
    if value is MISS:
        cache.put(text, 1.5, ttl=timedelta(hours=2), tags={"model:minilm"}, cost_s=0.8)
    score: float = cache.get_or_compute(text, lambda: len(text) / 2, ttl=60)
    return score


def judged(cache: Cache, text: str) -> str:
    """A compute function that decides on its storing: the caller gets what is inside the Fill."""

    def compute() -> Fill[str]:
        return Fill(value=text.upper(), ttl=60, store=bool(text))

    def sometimes() -> str | Fill[str]:
        return text or Fill(value="nothing", store=False)

    def many(keys: list[str]) -> list[Fill[int]]:
        return [Fill(value=len(key), tags=[key]) for key in keys]

    shouted = assert_type(cache.get_or_compute(text, compute), str)
    either = assert_type(cache.get_or_compute(text, sometimes), str)
    length = assert_type(cache.get_or_compute(text, lambda: Fill(value=len(text))), int)
    lengths = assert_type(cache.get_or_compute_many([text], many), dict[str, int])
    return shouted + either + str(length + sum(lengths.values()))


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

        async def judged() -> Fill[int]:
            return Fill(value=1, ttl=60)

        async def many(keys: list[str]) -> dict[str, Fill[float]]:
            return {key: Fill(value=1.5) for key in keys}

        text = assert_type(await cache.get_or_compute("k", compute), str)
        number = assert_type(await cache.get_or_compute("n", judged), int)
        shares = assert_type(await cache.get_or_compute_many(["m"], many), dict[str, float])
        text += f"{number} {shares}"
        await client.invalidate("k")
        return text


@cached(operation=AIOperation.EMBED, tags=["model:{model}"], negative=LookupError)
def embed(text: str, *, model: str) -> list[float]:
    """Keeps its own types."""
    return [float(len(text + model))]


@cached(ttl=timedelta(hours=1))
async def summarise(text: str) -> str:
    """An async function stays one."""
    return text


@cached_batch(operation="count", version=2)
def count(texts: list[str]) -> list[int]:
    """A batch function keeps its signature."""
    return [len(text) for text in texts]


class Model:
    """Has a cached method."""

    @cached(ignore=["self"])
    def run(self, text: str) -> int:
        """Bound to the instance, handles included."""
        return len(text)


async def decorated() -> tuple[list[float], str, int]:
    """Calls and handles have the types of the function."""
    vector: list[float] = embed("a", model="m") or embed.refresh("a", model="m")
    key: str = embed.key_for("a", model="m")
    removed: int = embed.invalidate("a", model="m") + embed.invalidate_all() + await summarise.invalidate("a")
    lengths: list[int] = count(["a"])
    ran: int = Model().run("a") + Model().run.invalidate("a")
    return vector, key + await summarise("a"), removed + ran + sum(lengths)
