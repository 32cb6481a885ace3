"""`@cached` on functions and methods: tags, times to live, handles, methods, coroutines."""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from stratacache.client.decorator import cached
from stratacache.client.default import finder
from stratacache.client.recipe import source_fingerprint
from stratacache.node.errors import EncodingError, UsageError
from stratacache.node.types import AIOperation
from tests.client_api.engine_cache import AsyncEngineCache, EngineCache


def tags_of(cache: EngineCache, key: str) -> set[str]:
    entry: Any = cache.engine.peek(cache._full(key, None))
    return {tag.decode() for tag in entry.tags}


def test_tags_and_time_to_live(cache: EngineCache) -> None:
    """Automatic tags, templates filled from the arguments, and the operation's default TTL."""

    @cached(operation=AIOperation.EMBED, tags=["model:{model}", "team:{team.name}", "search"], client=cache)
    def embed(text: str, model: str, team: Any = None, mode: str = "fast") -> str:
        return text

    @dataclass
    class Team:
        name: str

    embed("x" * 2000, "minilm", Team("red"))
    key = embed.key_for("x" * 2000, "minilm", Team("red"))
    name = f"{embed.__module__}.{embed.__qualname__}"
    expected = {"embed", "model:minilm", "mode:fast", "large_input", "team:red", "search", f"fn:{name}"}
    assert tags_of(cache, key) == expected
    assert cache.ttl(key) == pytest.approx(24 * 3600)
    embed("x", "minilm", Team("blue"))
    assert cache.invalidate_tags(["team:red"]) == 1
    assert cache.invalidate_tags(["small_input"]) == 1

    @cached(ttl=timedelta(minutes=1), automatic_tags=False, client=cache)
    def short(text: str) -> str:
        return text

    short("a")
    assert cache.ttl(short.key_for("a")) == 60
    assert len(tags_of(cache, short.key_for("a"))) == 1

    @cached(ttl=None, client=cache)
    def forever(text: str) -> str:
        return text

    forever("a")
    assert cache.ttl(forever.key_for("a")) is None
    with pytest.raises(UsageError, match="no parameter 'modle'"):
        cached(tags=["model:{modle}"])(lambda model: model)
    with pytest.raises(UsageError, match="list"):
        cached(tags="model")


def test_the_seconds_that_a_result_took_are_kept(cache: EngineCache) -> None:
    """The measured cost travels with the entry: eviction weighs by it."""

    @cached(client=cache)
    def slow(text: str) -> str:
        sum(range(200_000))
        return text

    slow("a")
    entry: Any = cache.engine.peek(cache._full(slow.key_for("a"), None))
    assert 0 < entry.cost_s < 1


def test_invalidate_refresh_and_invalidate_all(cache: EngineCache) -> None:
    """One call's result, recomputed or removed; or all of the function's, and nobody else's."""
    values = iter(range(100))

    @cached(client=cache)
    def one(text: str) -> int:
        return next(values)

    @cached(client=cache)
    def two(text: str) -> str:
        return text

    assert (one("a"), one("b"), two("a")) == (0, 1, "a")
    assert one.invalidate(text="a") == 1
    assert one.invalidate("a") == 0
    assert one("a") == 2
    assert one.refresh("a") == 3
    assert one("a") == 3
    assert one.invalidate_all() == 2
    assert one("b") == 4
    assert cache.contains(two.key_for("a"))


def test_a_refresh_that_overlaps_an_invalidation_stores_nothing(cache: EngineCache) -> None:
    """What was computed from the data before the invalidation must not outlive it (fill lease)."""

    @cached(tags=["docs"], ignore=["during"], client=cache)
    def read(text: str, during: Any = None) -> str:
        if during:
            during()
        return text

    assert read("a") == "a"
    assert read.refresh("a", during=lambda: cache.invalidate_tags(["docs"])) == "a"
    assert not cache.contains(read.key_for("a"))
    assert read("b", during=lambda: cache.invalidate(read.key_for("b"))) == "b"
    assert not cache.contains(read.key_for("b"))


def test_the_default_client_is_found_at_the_first_call(cache: EngineCache) -> None:
    """Decorating connects nothing; all functions of a process share one client."""

    @cached()
    def work(text: str) -> str:
        return text

    finder.use(cache)
    try:
        work("a")
        assert cache.contains(work.key_for("a"))
    finally:
        finder.use(None)


class Embedder:
    """A plain object: nothing says what makes two of them the same."""

    def __init__(self, cache: Any, size: int = 3) -> None:
        self.cache, self.size = cache, size


class Keyed(Embedder):
    """Says that its size is what makes it differ."""

    def __cache_key__(self) -> int:
        return self.size


def test_methods(cache: EngineCache) -> None:
    """`self` counts: by __cache_key__, or refused, or ignored; handles bind it; classes give the plain function."""

    class Model(Keyed):
        @cached(client=cache)
        def embed(self, text: str) -> int:
            """Doc."""
            return self.size

        @staticmethod
        @cached(client=cache)
        def length(text: str) -> int:
            return len(text)

        @classmethod
        @cached(client=cache)
        def name(cls, text: str) -> str:
            return cls.__name__ + text

    class Other(Model):
        pass

    small, large = Model(cache, 3), Model(cache, 4)
    assert (small.embed("a"), large.embed("a"), Model(cache, 3).embed("a")) == (3, 4, 3)
    assert small.embed.key_for("a") == Model.embed.key_for(small, "a") != large.embed.key_for("a")
    assert small.embed.invalidate("a") == 1
    assert small.embed.refresh(text="a") == 3
    assert small.embed.invalidate_all() == 2
    assert Model.embed(small, "a") == 3
    assert inspect.isfunction(Model.embed)
    assert inspect.isfunction(small.embed)
    assert list(inspect.signature(small.embed).parameters) == ["text"]
    assert small.embed.__doc__ == "Doc."
    assert Model.length("abc") == small.length("abc") == 3
    assert small.length.key_for("abc") == Model.length.key_for("abc")
    assert (Model.name("x"), Other.name("x")) == ("Modelx", "Otherx")

    class Plain(Embedder):
        @cached(client=cache)
        def embed(self, text: str) -> int:
            return self.size

        @cached(client=cache, ignore=["self"])
        def ignoring(self, text: str) -> int:
            return self.size

    with pytest.raises(EncodingError, match=r"argument 'self': .*ignore="):
        Plain(cache).embed("a")
    assert Plain(cache, 3).ignoring("a") == Plain(cache, 4).ignoring("a") == 3


def test_coroutines(cache: EngineCache) -> None:
    """Async functions and methods: the same, with coroutines; negative caching and handles included."""
    calls = []
    client: Any = AsyncEngineCache(cache)

    @cached(operation="embed", client=client)
    async def embed(text: str) -> str:
        calls.append(text)
        await asyncio.sleep(0)
        return text

    class Model(Keyed):
        @cached(client=client, negative=LookupError)
        async def find(self, text: str) -> str:
            calls.append(text)
            raise LookupError(text)

    async def scenario() -> None:
        assert await embed("a") == await embed(text="a") == "a"
        assert calls == ["a"]
        assert await embed.invalidate("a") == 1
        assert await embed.refresh("a") == "a"
        assert await embed.invalidate_all() == 1
        model = Model(cache)
        for _ in range(2):
            with pytest.raises(LookupError):
                await model.find("b")
        assert calls == ["a", "a", "b"]
        assert await model.find.invalidate("b") == 1

    assert inspect.iscoroutinefunction(embed)
    assert inspect.iscoroutinefunction(Model(cache).find)
    asyncio.run(scenario())


def test_what_can_not_be_cached_is_refused_when_decorating(cache: EngineCache) -> None:
    """Generators, descriptors in the wrong order, things that are no functions, the wrong kind of client."""

    def generate(text: str) -> Any:
        yield text

    async def stream(text: str) -> Any:
        yield text

    async def coroutine(text: str) -> str:
        return text

    for function, words in [
        (generate, "generator"),
        (stream, "generator"),
        (classmethod(generate), "below @classmethod"),
        (len, "functions and methods"),
        (object(), "functions and methods"),
        (coroutine, "asyncio client"),
    ]:
        with pytest.raises(UsageError, match=words):
            cached(client=cache)(function)  # type: ignore[type-var]


def test_fingerprint_follows_the_code_not_the_layout() -> None:
    """A comment, a decorator or a blank line changes nothing; a changed constant does."""

    def make(source: str) -> Any:
        scope: dict[str, Any] = {}
        exec(compile(source, "<made>", "exec"), scope)
        return scope["work"]

    def work(text: str) -> str:
        # a comment
        return text + "!"

    first = source_fingerprint(work)

    def work(text: str) -> str:  # type: ignore[no-redef]
        return text + "!"

    assert source_fingerprint(work) == first

    def work(text: str) -> str:  # type: ignore[no-redef]
        return text + "?"

    assert source_fingerprint(work) != first
    made = [make(f"def work(text):\n    return text in {{'a', 'b', {each}}} or (lambda: {each})") for each in "112"]
    assert source_fingerprint(made[0]) == source_fingerprint(made[1]) != source_fingerprint(made[2])
    keys = [cached(fingerprint=True)(function).key_for("a") for function in made]
    assert keys[0] == keys[1] != keys[2]


def test_arrays_as_arguments_and_results(cache: EngineCache) -> None:
    """The seed's defect: arrays that print alike shared a key. Here every byte counts."""

    @cached(operation=AIOperation.EMBED, client=cache)
    def norm(batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return batch * 2

    one = np.zeros(5000)
    two = one.copy()
    two[2500] = 1
    assert norm(one).sum() == 0
    assert norm(two).sum() == 2
    assert norm(two).dtype == np.float64
