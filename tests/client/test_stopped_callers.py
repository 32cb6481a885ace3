"""Callers that are cancelled or interrupted in the middle: what they began with the cache is not left half done."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from stratacache.client import MISS, CacheClient, connect, connect_async
from stratacache.client.core import invalidate
from stratacache.client.core.circuit import backoff_s
from stratacache.client.core.effects import Exchange, Operation
from stratacache.client.core.invalidate import invalidate_everywhere
from stratacache.client.view import View
from stratacache.node.errors import InvalidationIncompleteError

from .servers import Node, address, running, wait_until

INVALIDATIONS = {
    "key": lambda cache: cache.invalidate("k"),
    "tag": lambda cache: cache.invalidate_tags(["t"]),
    "namespace": lambda cache: cache.invalidate_namespace("default"),
}


@pytest.mark.parametrize("scope", list(INVALIDATIONS))
def test_an_invalidation_whose_caller_is_cancelled_is_carried_out(nodes: list[Node], scope: str) -> None:
    """As one that raises: some shards may have it by then, and the others get it in the background."""

    async def main() -> None:
        async with connect_async(address(nodes), shared=False) as cache:
            shell: Any = cache._backends[asyncio.get_running_loop()].shell
            exchange, begun = shell.exchange, asyncio.Event()

            async def hangs(wanted: Exchange) -> Any:
                if not begun.is_set():
                    begun.set()
                    await asyncio.Event().wait()
                return await exchange(wanted)

            shell.exchange = hangs
            caller = asyncio.create_task(INVALIDATIONS[scope](cache))
            async with asyncio.timeout(10):
                await begun.wait()
                caller.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await caller
                while await cache.get("k") is not MISS:
                    await asyncio.sleep(0.005)

    with connect(address(nodes), shared=False, strict=True) as other:
        other.put("k", 1, tags=["t"])
        asyncio.run(main())
        other.clear()


@pytest.mark.parametrize("scope", list(INVALIDATIONS))
def test_an_invalidation_that_ctrl_c_ends_is_carried_out(
    nodes: list[Node], scope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Likewise for a thread."""
    with connect(address(nodes), shared=False) as cache, connect(address(nodes), shared=False, strict=True) as other:
        other.put("k", 1, tags=["t"])
        _interrupt_once(monkeypatch, cache, lambda _: True)
        with pytest.raises(KeyboardInterrupt):
            INVALIDATIONS[scope](cache)
        wait_until(lambda: other.get("k") is MISS, what="the invalidation in the background")
        other.clear()


def _interrupt_once(monkeypatch: pytest.MonkeyPatch, cache: CacheClient, when: Callable[[set[bytes]], bool]) -> None:
    """The first exchange whose commands are such is interrupted before it begins."""
    shell: Any = cache._backend.shell
    exchange, done = shell.exchange, [False]

    def interrupted(wanted: Exchange) -> Any:
        if not done[0] and when({command[0] for call in wanted.calls for command in call.commands}):
            done[0] = True
            raise KeyboardInterrupt
        return exchange(wanted)

    monkeypatch.setattr(shell, "exchange", interrupted)


def test_a_put_through_that_is_cancelled_leaves_no_old_value(nodes: list[Node]) -> None:
    """The store has the new value then: the cache forgets what it has."""

    async def main() -> None:
        async with connect_async(address(nodes), shared=False) as cache:
            shell: Any = cache._backends[asyncio.get_running_loop()].shell
            exchange, begun = shell.exchange, asyncio.Event()

            async def hangs(wanted: Exchange) -> Any:
                if any(command[0] == b"SC.MPUT" for call in wanted.calls for command in call.commands):
                    begun.set()
                    await asyncio.Event().wait()
                return await exchange(wanted)

            shell.exchange = hangs
            caller = asyncio.create_task(cache.put_through({"k": "new"}, lambda: stored.append("new")))
            async with asyncio.timeout(10):
                await begun.wait()
            assert stored == ["new"]
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller

    stored: list[str] = []
    with connect(address(nodes), shared=False, strict=True) as other:
        other.put("k", "old")
        asyncio.run(main())
        assert other.get("k") is MISS


def test_a_put_through_that_ctrl_c_ends_leaves_no_old_value(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    """Likewise for a thread."""
    stored: list[str] = []
    with connect(address(nodes), shared=False) as cache, connect(address(nodes), shared=False, strict=True) as other:
        other.put("k", "old")
        _interrupt_once(monkeypatch, cache, lambda words: b"SC.MPUT" in words)
        with pytest.raises(KeyboardInterrupt):
            cache.put_through({"k": "new"}, lambda: stored.append("new"))
        assert stored == ["new"]
        assert other.get("k") is MISS


def test_a_value_that_the_store_takes_and_the_cache_refuses_leaves_no_old_value() -> None:
    """A shard with a lower limit than the store: its refusal keeps nobody from forgetting the value before."""
    stored: list[int] = []
    with running(1, "--value-mib", "1") as started, connect(address(started), shared=False) as cache:
        cache.put("k", b"old")
        new = bytes(2 << 20)
        assert cache.put_through({"k": new}, lambda: stored.append(len(new))) == set()
        assert stored == [len(new)]
        assert cache.get("k") is MISS


def test_a_view_that_changes_while_an_invalidation_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard that another thread's newer view does not name any more: incomplete, as it was, and no KeyError."""
    with running(2) as pair, connect(address(pair), shared=False, deadline_s=0.3, invalidation_retry_s=0) as cache:
        core = cache._backend.core
        first, second = core.view.shards
        lost = next(key for key in map(str, range(100)) if core.ring.primary(key.encode()).port == pair[0].port)
        pair[0].kill()
        kept = first if first.port == pair[1].port else second
        owners = invalidate._owners

        def and_then_a_newer_view(*arguments: Any) -> Any:
            found = owners(*arguments)
            core.adopt(View(epoch=core.view.epoch + 1, shards=(kept,)))
            return found

        monkeypatch.setattr(invalidate, "_owners", and_then_a_newer_view)
        with pytest.raises(InvalidationIncompleteError):
            cache.invalidate(lost)


def test_a_view_that_can_not_be_read_is_no_acknowledgement(nodes: list[Node]) -> None:
    """Whether the shard knows a newer view is not known then, and so not whether all shards were told."""
    with connect(address(nodes[:1]), shared=False) as cache:
        core = cache._backend.core
        core.options = replace(core.options, deadline_s=0.02)
        with pytest.raises(InvalidationIncompleteError):
            _answer_unreadably(invalidate_everywhere(core, (b"SC.CLEAR",), "everything"))


def _answer_unreadably(operation: Operation[int]) -> None:
    effect: Any = operation.send(None)
    while True:
        effect = operation.send([[0, b"\xc1"] for _ in effect.calls] if isinstance(effect, Exchange) else None)


def test_retries_go_on_for_as_long_as_they_are_wanted(nodes: list[Node]) -> None:
    """An hour of them (`invalidation_retry_s=3600`) is thousands of pauses."""
    with connect(address(nodes), shared=False) as cache:
        pauses = [backoff_s(attempt, cache._backend.core.random) for attempt in (1, 6, 100_000)]
    assert 0.0025 <= pauses[0] <= 0.005
    assert all(0.08 <= pause <= 0.16 for pause in pauses[1:])


@pytest.mark.parametrize("call", ["many", "through"])
def test_leases_that_come_for_a_cancelled_caller_are_given_back(call: str) -> None:
    """A shard that is slow to answer, a caller who has no time: nobody waits for what he would have computed."""

    async def main(node: Node) -> None:
        async with connect_async(address([node]), shared=False, deadline_s=10) as cache:
            await cache.ping()
            node.pause()
            computing = (
                cache.get_or_compute_many(["a", "b"], lambda keys: [0 for _ in keys])
                if call == "many"
                else cache.put_through({"a": 0, "b": 0}, lambda: stored.append(0))
            )
            caller: asyncio.Task[Any] = asyncio.create_task(computing)
            connection = cache._backends[asyncio.get_running_loop()].shell.pools[cache_id(cache)].shared
            async with asyncio.timeout(10):
                while not connection._expected:
                    await asyncio.sleep(0)
                caller.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await caller
            node.resume()
            begun = time.monotonic()
            assert await cache.get_or_compute("a", lambda: 1) == 1
            assert await cache.get_or_compute("b", lambda: 1) == 1
            assert time.monotonic() - begun < 10, "they waited for a lease that nobody holds"

    def cache_id(cache: Any) -> str:
        return str(cache._backends[asyncio.get_running_loop()].core.view.shards[0].id)

    stored: list[int] = []
    with running(1) as (node,):
        asyncio.run(main(node))
    assert not stored


def test_batches_that_wait_for_the_same_keys_never_wait_for_each_other(nodes: list[Node]) -> None:
    """One fails to compute two keys: of those who wait, in two orders, each is given one, and goes on with it."""
    with (
        connect(address(nodes[:1]), shared=False) as failing,
        connect(address(nodes[:1]), shared=False) as first,
        connect(address(nodes[:1]), shared=False) as second,
    ):
        failing.clear()
        waiting = [_asks_for_a_lease(cache) for cache in (first, second)]
        results: list[dict[str, int]] = []

        def compute(_: list[str]) -> list[int]:
            for thread in threads:
                thread.start()
            assert all(each.wait(30) for each in waiting)
            raise ZeroDivisionError("it fails when the others wait")

        def batch(cache: CacheClient, keys: list[str]) -> None:
            results.append(cache.get_or_compute_many(keys, lambda missing: [1 for _ in missing]))

        threads = [
            threading.Thread(target=batch, args=(first, ["x", "y"])),
            threading.Thread(target=batch, args=(second, ["y", "x"])),
        ]
        begun = time.monotonic()
        with pytest.raises(ZeroDivisionError):
            failing.get_or_compute_many(["x", "y"], compute)
        for thread in threads:
            thread.join(60)
        assert results == [{"x": 1, "y": 1}] * 2
        assert time.monotonic() - begun < 15, "they waited for each other until their leases had run out"
        failing.clear()


def _asks_for_a_lease(cache: CacheClient) -> threading.Event:
    """Set as soon as this client begins to wait for another's fill."""
    shell: Any = cache._backend.shell
    send, asked = shell._send, threading.Event()

    def sends(call: Any, deadline: float) -> Any:
        sent = send(call, deadline)
        if call.commands[0][0] == b"SC.LEASE":
            asked.set()
        return sent

    shell._send = sends
    return asked
