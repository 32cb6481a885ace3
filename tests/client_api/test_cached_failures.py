"""`@cached` when something goes wrong: exceptions, results that no codec carries, a cache that fails or is absent."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from stratacache.client.decorator import cached
from stratacache.client.default import finder
from stratacache.client.notice import notices
from stratacache.node.errors import DeadlineError, EncodingError, UnavailableError
from tests.client_api.engine_cache import EngineCache


class NotThereError(LookupError):
    """Not declared itself, but a subclass of a declared exception."""


def test_declared_exceptions_are_cached(cache: EngineCache) -> None:
    """Negative caching: a declared exception is raised again without a call, for its own time; others are not kept."""
    calls = []

    @cached(negative=LookupError, negative_ttl=10, ttl=100, client=cache)
    def find(name: str) -> str:
        calls.append(name)
        raise {"a": NotThereError("a", 1), "b": ValueError("b")}[name]

    for _ in range(2):
        with pytest.raises(NotThereError) as caught:
            find("a")
        assert caught.value.args == ("a", 1)
    assert calls == ["a"]
    assert cache.ttl(find.key_for("a")) == 10
    for _ in range(2):
        with pytest.raises(ValueError, match="b"):
            find("b")
    assert calls == ["a", "b", "b"]
    cache.clock.advance(10_001)
    with pytest.raises(NotThereError):
        find("a")
    assert calls == ["a", "b", "b", "a"]


def test_an_exception_that_is_no_longer_declared_is_computed_again(cache: EngineCache) -> None:
    """A cached exception is only ever raised by a function that declares it."""

    def find(name: str) -> str:
        if failing:
            raise LookupError(name)
        return name

    failing = [True]
    before = cached(negative=(LookupError,), client=cache, key=lambda name: name)(find)
    with pytest.raises(LookupError):
        before("a")
    failing.clear()
    after = cached(client=cache, key=lambda name: name)(find)
    assert before.key_for("a") == after.key_for("a")
    assert after("a") == after("a") == "a"


def test_a_result_that_no_codec_carries_is_returned_and_told(
    cache: EngineCache, caplog: pytest.LogCaptureFixture
) -> None:
    """The pipeline goes on; one line a minute names the path inside the value; strict raises it."""
    notices._seen.clear()

    def build(text: str) -> Any:
        return {"session": [object()]}

    lenient = cached(client=cache)(build)
    with caplog.at_level(logging.WARNING):
        assert list(lenient("a")) == ["session"]
        assert list(lenient("a")) == ["session"]
    assert [record.message for record in caplog.records if "value['session'][0]" in record.message] == [
        caplog.records[0].message
    ]
    with pytest.raises(EncodingError, match=r"value\['session'\]\[0\]"):
        cached(client=cache, strict=True)(build)("a")


class BrokenCache(EngineCache):
    """Fails before or after the computation, as a client whose shard died does."""

    after = False

    def get_or_compute(self, key: Any, compute: Any, **options: Any) -> Any:
        if self.after:
            compute()
        raise DeadlineError("shard-1 did not answer within 2 s")


@pytest.mark.parametrize("after", [False, True])
def test_a_cache_that_fails_never_breaks_the_function(after: bool) -> None:
    """The function runs exactly once, whether the cache failed before or after it; its own errors stay its own."""
    broken = BrokenCache()
    broken.after = after
    calls = []

    def work(text: str) -> str:
        calls.append(text)
        if text == "bad":
            raise UnavailableError("mine")
        return text

    lenient = cached(client=broken)(work)
    assert lenient("a") == "a"
    with pytest.raises(UnavailableError, match="mine"):
        lenient("bad")
    assert calls == ["a", "bad"]
    with pytest.raises(DeadlineError):
        cached(client=broken, strict=True)(work)("a")


def test_without_any_cache_the_function_just_runs(caplog: pytest.LogCaptureFixture) -> None:
    """Fail-open, one line a minute; strict and invalidations raise."""
    notices._seen.clear()

    def work(text: str) -> str:
        return text

    address = "strata://127.0.0.1:1"
    finder._failed[address] = (finder._clock(), UnavailableError("nobody listens"))
    with caplog.at_level(logging.WARNING):
        lenient = cached(client=address)(work)
        assert [lenient("a"), lenient("a")] == ["a", "a"]
    assert len([record for record in caplog.records if "runs without a cache" in record.message]) == 1
    with pytest.raises(UnavailableError, match="nobody listens"):
        cached(client=address, strict=True)(work)("a")
    with pytest.raises(UnavailableError, match="no cache"):
        lenient.invalidate("a")
    finder.use(None)
