"""IntelligentCacheManager over a real node; each defect of the seed that it had has a test named after it."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from stratacache.client import MISS, AIOperation, connect
from stratacache.client.base import Cache
from stratacache.client.intelligent import HORIZON, NAMESPACE, IntelligentCacheManager
from stratacache.client.prefetch import WINDOW, PrefetchAccount
from stratacache.node.patterns import AccessPatterns
from tests.wire.processes import running_node


@pytest.fixture(scope="module")
def node() -> Iterator[int]:
    with running_node() as (_, port):
        yield port


@pytest.fixture
def cache(node: int) -> Iterator[Cache]:
    with connect(f"strata://127.0.0.1:{node}") as client:
        client.clear()
        yield client


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def run(awaitable: Any) -> Any:
    return asyncio.run(_wrapped(awaitable))


async def _wrapped(awaitable: Any) -> Any:
    return await awaitable


def test_results_come_back_by_operation_input_and_parameters(cache: Cache) -> None:
    """Another operation, input or parameter is another result; the order of parameters is none."""
    manager = IntelligentCacheManager(cache)
    assert run(manager.put_ai_result(AIOperation.EMBED, "text", [1.0], {"model": "m", "size": 3}))
    assert run(manager.get_ai_result(AIOperation.EMBED, "text", {"size": 3, "model": "m"})) == [1.0]
    for operation, text, parameters in [
        (AIOperation.CLASSIFY, "text", {"model": "m", "size": 3}),
        (AIOperation.EMBED, "Text", {"model": "m", "size": 3}),
        (AIOperation.EMBED, "text", {"model": "m", "size": 3.0}),
    ]:
        assert run(manager.get_ai_result(operation, text, parameters)) is MISS
    assert run(manager.get_ai_result(AIOperation.EMBED, "other", default="none")) == "none"


def test_seed_defect_a_cached_none_reads_as_a_miss(cache: Cache) -> None:
    """None is a result."""
    manager = IntelligentCacheManager(cache)
    run(manager.put_ai_result(AIOperation.ANALYZE, "x", None))
    assert run(manager.get_ai_result(AIOperation.ANALYZE, "x")) is None


def test_seed_defect_different_arrays_share_a_key(cache: Cache) -> None:
    """Arrays that print alike (numpy shortens them) are different inputs."""
    manager = IntelligentCacheManager(cache)
    first = np.zeros(5000)
    second = first.copy()
    second[2500] = 1.0
    assert str(first) == str(second)
    run(manager.put_ai_result(AIOperation.EMBED, first, "first"))
    assert run(manager.get_ai_result(AIOperation.EMBED, second)) is MISS


def test_seed_defect_invalidation_by_operation_and_model_reaches_l1_only(node: int, cache: Cache) -> None:
    """What one manager invalidates is gone for every other client, near caches included."""
    manager = IntelligentCacheManager(cache)
    with connect(f"strata://127.0.0.1:{node}", near_bytes_max=1 << 20) as other_client:
        other = IntelligentCacheManager(other_client)
        for operation in (AIOperation.EMBED, AIOperation.CLASSIFY):
            for model in ("a", "b"):
                run(manager.put_ai_result(operation, "x", model, {"model_type": model}))
                assert run(other.get_ai_result(operation, "x", {"model_type": model})) == model
        assert manager.invalidate_by_model("a") == 2
        assert manager.invalidate_by_operation(AIOperation.EMBED) == 1
        deadline = time.monotonic() + 5
        while run(other.get_ai_result(AIOperation.EMBED, "x", {"model_type": "b"})) is not MISS:
            assert time.monotonic() < deadline, "the near cache still serves what was invalidated"
        assert run(other.get_ai_result(AIOperation.CLASSIFY, "x", {"model_type": "a"})) is MISS
        assert run(other.get_ai_result(AIOperation.CLASSIFY, "x", {"model_type": "b"})) == "b"


@pytest.mark.parametrize("operation", list(AIOperation))
def test_default_ttls_and_automatic_tags(operation: AIOperation, cache: Cache) -> None:
    """Each operation's result lives as long as its kind of work stays good, jitter aside."""
    manager = IntelligentCacheManager(cache)
    run(manager.put_ai_result(operation, "x" * 2000, 1, {"model": "m", "processing_mode": "fast"}))
    left = manager.cache.ttl(manager.cache_key(operation, "x" * 2000, {"model": "m", "processing_mode": "fast"}))
    assert left == pytest.approx(operation.default_ttl.total_seconds(), rel=0.06)
    assert cache.invalidate_tags(["large_input"]) == 1


def test_an_own_ttl_wins(cache: Cache) -> None:
    """A caller that knows better is believed."""
    manager = IntelligentCacheManager(cache)
    run(manager.put_ai_result(AIOperation.EMBED, "x", 1, ttl=timedelta(seconds=100)))
    assert manager.cache.ttl(manager.cache_key(AIOperation.EMBED, "x", {})) == pytest.approx(100, rel=0.06)


def test_seed_defect_the_efficiency_report_is_always_zero(cache: Cache) -> None:
    """Hits, misses and saved seconds are counted; saved time is measured time minus the cache's own."""
    manager = IntelligentCacheManager(cache)
    run(manager.get_ai_result(AIOperation.EMBED, "x"))
    run(manager.put_ai_result(AIOperation.EMBED, "x", 1, cost_s=5.0))
    for _ in range(3):
        run(manager.get_ai_result(AIOperation.EMBED, "x"))
    report = manager.get_cache_efficiency_report()
    performance = report["ai_cache_performance"]
    assert (performance["hits"], performance["misses"], performance["hit_ratio"]) == (3, 1, 0.75)
    assert report["cache_efficiency_score"] == 75.0
    assert 0 < performance["seconds_in_cache"] < 5
    assert report["estimated_time_saved_seconds"] == pytest.approx(15.0 - performance["seconds_in_cache"])
    assert report["access_patterns_tracked"] == 1


def test_seed_defect_an_assumed_two_seconds_an_operation(cache: Cache) -> None:
    """Where nothing was measured, nothing is claimed."""
    manager = IntelligentCacheManager(cache)
    run(manager.put_ai_result(AIOperation.EMBED, "x", 1))
    run(manager.get_ai_result(AIOperation.EMBED, "x"))
    assert manager.get_cache_efficiency_report()["estimated_time_saved_seconds"] <= 0


def test_seed_defect_async_methods_block(cache: Cache) -> None:
    """While a loader computes, the loop goes on."""
    entered = asyncio.Event()

    async def story() -> list[str]:
        loop = asyncio.get_running_loop()
        order: list[str] = []

        def slow(_input: Any, _parameters: Any) -> int:
            loop.call_soon_threadsafe(entered.set)
            while "loop" not in order:
                time.sleep(0.001)
            order.append("loader")
            return 1

        manager = IntelligentCacheManager(cache, loaders={AIOperation.GENERATE: slow})
        result = asyncio.create_task(manager.get_ai_result(AIOperation.GENERATE, "x"))
        await asyncio.wait_for(entered.wait(), 10)
        order.append("loop")
        assert await result == 1
        return order

    assert run(story()) == ["loop", "loader"]


def test_a_loader_fills_misses_and_is_not_asked_again(cache: Cache) -> None:
    """With a loader, a miss is computed and kept."""
    calls: list[Any] = []

    def load(text: Any, parameters: Any) -> str:
        calls.append((text, dict(parameters)))
        return text.upper()

    manager = IntelligentCacheManager(cache)
    manager.register_loader(AIOperation.TRANSLATE, load)
    for _ in range(2):
        assert run(manager.get_ai_result(AIOperation.TRANSLATE, "a", {"to": "de"})) == "A"
    assert calls == [("a", {"to": "de"})]


def test_seed_defect_prefetch_is_a_pass(cache: Cache) -> None:
    """A key that comes every hour and would have expired is computed just before it comes, and only then."""
    clock = Clock()
    calls: list[str] = []

    def load(text: Any, _parameters: Any) -> str:
        calls.append(text)
        return text

    manager = IntelligentCacheManager(cache, loaders={AIOperation.GENERATE: load}, clock=clock)
    for _ in range(4):
        run(manager.get_ai_result(AIOperation.GENERATE, "hourly"))
        cache.invalidate_namespace(NAMESPACE)  # as if its time to live had passed
        clock.now_s += 3600
    assert calls == ["hourly"] * 4
    clock.now_s -= 1800
    assert run(manager.predictive_prefetch()) == 0, "half an hour ahead is too early"
    clock.now_s += 1800 - 60
    assert run(manager.predictive_prefetch()) == 1
    assert run(manager.predictive_prefetch()) == 0, "once is enough"
    assert calls == ["hourly"] * 5
    clock.now_s += 60
    assert run(manager.get_ai_result(AIOperation.GENERATE, "hourly")) == "hourly"
    assert calls == ["hourly"] * 5
    assert manager.get_cache_efficiency_report()["prefetch"]["used"] == 1


def test_prefetch_leaves_alone_what_will_still_be_there(cache: Cache) -> None:
    """An entry that outlives the predicted access is not computed again."""
    clock = Clock()
    manager = IntelligentCacheManager(cache, loaders={AIOperation.EMBED: lambda text, _: text}, clock=clock)
    for _ in range(4):
        run(manager.get_ai_result(AIOperation.EMBED, "x"))
        clock.now_s += 60
    assert run(manager.predictive_prefetch()) == 0


def test_prefetch_can_be_switched_off(cache: Cache) -> None:
    """Off means off, and learning off means that nothing is remembered."""
    clock = Clock()
    load = {AIOperation.EMBED: lambda text, _: text}
    manager = IntelligentCacheManager(cache, loaders=load, prefetch_enabled=False, learning_enabled=False, clock=clock)
    for _ in range(4):
        run(manager.get_ai_result(AIOperation.EMBED, "x"))
        clock.now_s += 60
    cache.clear()
    assert run(manager.predictive_prefetch()) == 0
    assert manager.get_cache_efficiency_report()["access_patterns_tracked"] == 0


def test_prefetch_stops_itself_where_it_does_not_pay() -> None:
    """After a window of waste it pauses, and tries again later."""
    account = PrefetchAccount()
    for number in range(WINDOW):
        assert account.pays
        account.was_issued(str(number), until_ms=10, cost_s=1.0)
    account.settle(11)
    assert account.report()["wasted"] == WINDOW
    rounds = 0
    while not account.pays:
        rounds += 1
    assert rounds > 0
    account.was_issued("good", until_ms=100, cost_s=2.0)
    account.was_read("good", 50)
    assert account.report()["seconds_saved"] == 2.0
    assert account.report()["precision"] == 1 / (WINDOW + 1)


def test_seed_defect_access_patterns_grow_without_bound() -> None:
    """A hundred thousand keys leave as many patterns as were allowed, the latest ones."""
    patterns: AccessPatterns[str] = AccessPatterns(keys_max=100)
    for number in range(100_000):
        patterns.read(str(number), 1000 * (number + 1))
    assert len(patterns) == 100
    assert patterns.get("99999") is not None
    assert patterns.get("99899") is None


def test_seed_defect_a_mean_interval_of_zero_divides_by_zero() -> None:
    """Accesses in the same second are no pattern, and no error."""
    patterns: AccessPatterns[str] = AccessPatterns()
    for _ in range(5):
        pattern = patterns.read("x", 7000)
    assert pattern is not None
    assert not pattern.regular
    assert list(patterns.upcoming(7000, 1000)) == []


def test_upcoming_means_within_the_horizon_on_either_side() -> None:
    """A key that is long overdue has left its pattern."""
    patterns: AccessPatterns[str] = AccessPatterns()
    hour = 3_600_000
    for number in range(1, 5):
        patterns.read("x", number * hour)
    due = 5 * hour
    horizon = round(HORIZON.total_seconds() * 1000)
    for now_ms, expected in [(due - horizon - 1, []), (due - horizon, ["x"]), (due + horizon, ["x"]), (due + hour, [])]:
        assert [key for key, _ in patterns.upcoming(now_ms, horizon)] == expected


def test_the_interface_of_the_seed_is_there() -> None:
    """Names and kinds of the methods that users of the earlier system call."""
    for name in ("get_ai_result", "put_ai_result", "predictive_prefetch"):
        assert inspect.iscoroutinefunction(getattr(IntelligentCacheManager, name))
    for name in ("invalidate_by_operation", "invalidate_by_model", "get_cache_efficiency_report"):
        assert callable(getattr(IntelligentCacheManager, name))
