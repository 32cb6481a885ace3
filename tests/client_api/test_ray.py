"""`@cached` in a real Ray program: above and below @ray.remote, nested, on actors and on Serve deployments."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import ray

from stratacache.client import AIOperation, CacheClient, cached, connect
from stratacache.client.default import finder
from stratacache.cluster import start

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]


@pytest.fixture(scope="module")
def cache(ray_session: str) -> Iterator[CacheClient]:
    """One shard, found by every worker through Ray."""
    with start(shards=1, l1_bytes_max=16 << 20, l2_bytes_max=0):
        client = connect()
        finder.use(client)
        yield client
        finder.use(None)
        client.close()


def test_tasks(cache: CacheClient) -> None:
    """Above and below @ray.remote, and nested: workers share entries with each other and with the driver."""

    @ray.remote(num_cpus=1)
    @cached(operation=AIOperation.EMBED)
    def below(text: str) -> tuple[str, int]:
        import os

        return text.upper(), os.getpid()

    @cached(operation=AIOperation.EMBED)
    @ray.remote(num_cpus=1)
    def above(text: str) -> tuple[str, int]:
        import os

        return text.upper(), os.getpid()

    @cached()
    def inner(text: str) -> tuple[str, int]:
        import os

        return text.upper(), os.getpid()

    @ray.remote(num_cpus=1)
    def outer(text: str) -> tuple[str, int]:
        return inner(text)

    for task in (below, above, outer):
        results = ray.get([task.remote("a") for _ in range(4)])
        assert {text for text, _ in results} == {"A"}
        assert len({pid for _, pid in results}) == 1, "one worker computed it, the others got its result"
    assert inner("a")[1] != 0
    assert inner("a") == ray.get(outer.remote("a")), "the driver shares the entry"
    assert above.invalidate("a") == 1
    assert above._default_options["num_cpus"] == 1
    assert cache.contains(below._function.key_for("a"))


def test_actors(cache: CacheClient) -> None:
    """Methods of actors, blocking and async; the client is made in the actor's process."""

    @ray.remote(num_cpus=0)
    class Model:
        def __init__(self, size: int) -> None:
            self.size = size
            self.calls = 0

        def __cache_key__(self) -> int:
            return self.size

        @cached(operation=AIOperation.EMBED)
        def embed(self, text: str) -> int:
            self.calls += 1
            return self.size * len(text)

        def count(self) -> int:
            return self.calls

    @ray.remote(num_cpus=0)
    class Async:
        @cached(operation=AIOperation.EMBED, ignore=["self"])
        async def embed(self, text: str) -> int:
            return len(text)

    one, two, other = Model.remote(2), Model.remote(2), Model.remote(3)
    assert ray.get(one.embed.remote("abc")) == ray.get(two.embed.remote("abc")) == 6
    assert ray.get(other.embed.remote("abc")) == 9
    assert ray.get([one.count.remote(), two.count.remote(), other.count.remote()]) == [1, 0, 1]
    actor = Async.remote()
    assert ray.get([actor.embed.remote("abc") for _ in range(3)]) == [3, 3, 3]


def test_serve(cache: CacheClient) -> None:
    """A method of a Serve deployment, with `@serve.batch` behind it: equal requests reach the model once."""
    serve = pytest.importorskip("ray.serve")

    @serve.deployment(ray_actor_options={"num_cpus": 0})
    class Endpoint:
        def __init__(self) -> None:
            self.batches: list[list[str]] = []

        @cached(operation=AIOperation.CLASSIFY, ignore=["self"])
        async def classify(self, text: str) -> str:
            return await self.model(text)

        @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.05)
        async def model(self, texts: list[str]) -> list[str]:
            self.batches.append(texts)
            return [text.upper() for text in texts]

        async def __call__(self, text: str) -> str:
            return await self.classify(text)

        async def seen(self) -> list[str]:
            return sorted(text for batch in self.batches for text in batch)

    try:
        serve.start(proxy_location="Disabled")  # it is called through its handle: no HTTP
        handle: Any = serve.run(Endpoint.bind(), name="cached", route_prefix=None)
        answers = [handle.remote(text) for text in ("a", "b", "a", "a")]
        assert [answer.result(timeout_s=30) for answer in answers] == ["A", "B", "A", "A"]
        assert handle.classify.remote("b").result(timeout_s=30) == "B"
        assert handle.seen.remote().result(timeout_s=30) == ["a", "b"]
    finally:
        serve.shutdown()
