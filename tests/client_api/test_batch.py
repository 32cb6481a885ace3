"""`@cached_batch`: distinct misses only, outputs in order, one round trip; failures leave the function running."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from stratacache.client.batch import cached_batch
from stratacache.node.errors import DeadlineError, EncodingError, UsageError
from stratacache.node.types import AIOperation
from tests.client_api.engine_cache import AsyncEngineCache, EngineCache


def test_only_distinct_misses_are_computed() -> None:
    """Repeated and known inputs are not computed again; outputs keep the inputs' order."""
    cache = EngineCache()
    calls: list[list[str]] = []

    @cached_batch(operation=AIOperation.EMBED, tags=["model:{model}"], client=cache)
    def embed(texts: list[str], *, model: str = "m") -> np.ndarray[Any, Any]:
        calls.append(list(texts))
        return np.array([[len(text), ord(text[0])] for text in texts], dtype="<f4")

    first = embed(["aa", "b", "aa"])
    assert [row.tolist() for row in first] == [[2, 97], [1, 98], [2, 97]]
    second = embed(texts=["b", "ccc", "aa"], model="m")
    assert [row.tolist() for row in second] == [[1, 98], [3, 99], [2, 97]]
    assert calls == [["aa", "b"], ["ccc"]]
    embed(["aa"], model="other")
    assert calls[-1] == ["aa"]
    assert embed([]) == []
    assert cache.invalidate_tags(["model:m"]) == 3
    assert cache.invalidate_tags(["small_input"]) == 0


def test_methods_coroutines_and_other_arguments() -> None:
    """`self` counts as in @cached, and async functions work the same."""
    cache = EngineCache()
    calls: list[list[int]] = []

    class Model:
        def __cache_key__(self) -> str:
            return "model"

        @cached_batch(client=cache)
        def double(self, numbers: tuple[int, ...], factor: int) -> list[int]:
            calls.append(list(numbers))
            return [number * factor for number in numbers]

    assert Model().double((1, 2), 2) == Model().double((1, 2), factor=2) == [2, 4]
    assert calls == [[1, 2]]

    @cached_batch(client=AsyncEngineCache(cache))  # type: ignore[arg-type]
    async def triple(numbers: list[int]) -> list[int]:
        calls.append(list(numbers))
        return [number * 3 for number in numbers]

    async def scenario() -> None:
        assert await triple([1, 2, 1]) == [3, 6, 3]
        assert await triple([2, 4]) == [6, 12]

    asyncio.run(scenario())
    assert calls[1:] == [[1, 2], [4]]


def test_the_wrong_number_of_outputs_is_an_error() -> None:
    """Nothing is stored, and the error names the function."""
    cache = EngineCache()

    @cached_batch(client=cache)
    def short(texts: list[str]) -> list[str]:
        return texts[1:]

    with pytest.raises(UsageError, match="short returned 1 outputs for 2 inputs"):
        short(["a", "b"])
    assert len(cache.engine) == 0


def test_bad_items_and_bad_uses_are_named() -> None:
    """An item without a key; a function without a batch."""
    cache = EngineCache()

    @cached_batch(client=cache)
    def one(items: list[Any]) -> list[Any]:
        return items

    with pytest.raises(EncodingError, match="argument 'items'"):
        one(["a", object()])
    with pytest.raises(UsageError, match="no parameter"):
        cached_batch()(lambda: [1])
    with pytest.raises(UsageError, match="functions"):
        cached_batch()(len)  # type: ignore[arg-type]


def test_tags_may_be_of_each_item() -> None:
    """A template that mentions the batch parameter is filled in with each item."""
    cache = EngineCache()

    @cached_batch(tags=["team:{items[team]}", "all"], client=cache)
    def work(items: list[dict[str, str]]) -> list[str]:
        return [item["text"] for item in items]

    items = [{"team": "red", "text": "a"}, {"team": "blue", "text": "b"}, {"team": "red", "text": "c"}]
    assert work(items) == ["a", "b", "c"]
    assert cache.invalidate_tags(["team:red"]) == 2
    assert cache.invalidate_tags(["all"]) == 1


class Broken(EngineCache):
    """A client whose shards are gone, after the computation or before it."""

    after = False

    def get_or_compute_many(self, keys: Any, compute: Any, **options: Any) -> Any:
        if self.after:
            compute(list(keys)[:1])
        raise DeadlineError("no answer")


@pytest.mark.parametrize("after", [False, True])
def test_a_cache_that_fails_never_breaks_the_function(after: bool) -> None:
    """Every distinct input is computed exactly once all the same; the function's own errors stay its own."""
    cache = Broken()
    cache.after = after
    seen: list[str] = []

    def work(texts: list[str]) -> list[str]:
        seen.extend(texts)
        if "bad" in texts:
            raise DeadlineError("mine")
        return [text.upper() for text in texts]

    assert cached_batch(client=cache)(work)(["a", "b", "a"]) == ["A", "B", "A"]
    assert sorted(seen) == ["a", "b"]
    with pytest.raises(DeadlineError, match="mine"):
        cached_batch(client=cache)(work)(["bad"])
    with pytest.raises(DeadlineError, match="no answer"):
        cached_batch(client=cache, strict=True)(work)(["a"])
