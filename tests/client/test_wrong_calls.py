"""Wrong arguments, programs without a cache, forks: one clear error, or the function's own result."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stratacache.client import CacheStrategy, UnavailableError, UsageError, cached, cached_batch, connect, connect_async
from stratacache.client.default import Finder
from stratacache.client.strategies import AsyncStoreBackedCache, DirectoryStore, StoreBackedCache

from .servers import Node, address, running, wait_until

WRONG: dict[str, Callable[[Any], Any]] = {
    "cost": lambda cache: cache.put("k", 1, cost_s="a second"),
    "wait": lambda cache: cache.get_or_compute("k", lambda: 1, wait_s="a second"),
    "wait, not a number": lambda cache: cache.get_or_compute("k", lambda: 1, wait_s=float("nan")),
    "tag": lambda cache: cache.invalidate_tags(["\ud800"]),
    "namespace": lambda cache: cache.get("k", namespace=5),
    "namespace to invalidate": lambda cache: cache.invalidate_namespace(5),
    "namespace that is no UTF-8": lambda cache: cache.invalidate_namespace("\ud800"),
    "bound namespace": lambda cache: cache.namespace(5),
    "host": lambda _: connect("strata://" + "a" * 70),
    "host of nothing": lambda _: connect("strata://a..b:6380"),
    "no deadline": lambda _: connect("strata://127.0.0.1:1", deadline_s=float("inf")),
    "leases without end": lambda _: connect("strata://127.0.0.1:1", lease_hold_s=float("inf")),
    "wait that is no number": lambda _: connect("strata://127.0.0.1:1", lease_wait_s=float("nan")),
    "directory": lambda _: connect("local:/tmp/\0"),
}


@pytest.mark.parametrize("what", list(WRONG))
def test_a_wrong_argument_is_named(nodes: list[Node], what: str) -> None:
    """By an error of ours: one that fail-open and `@cached` know."""
    with connect(address(nodes)) as cache, pytest.raises(UsageError):
        WRONG[what](cache)


def test_keys_of_a_store_are_a_list_of_text(nodes: list[Node], tmp_path: Path) -> None:
    """A single one is not taken for its letters: `delete_many("abc")` deleted a, b and c."""
    with connect(address(nodes)) as cache:
        backed = StoreBackedCache(cache, DirectoryStore(tmp_path / "store"))
        backed.put("a", 1)
        for call in (backed.get_many, backed.load_many, backed.delete_many):
            with pytest.raises(UsageError, match="give a list"):
                call("abc")
            with pytest.raises(UsageError, match="keys of a store are text"):
                call([b"a"])  # type: ignore[list-item]
        assert backed.get("a") == 1
        with pytest.raises(UsageError, match="can't be the directory"):
            StoreBackedCache(
                cache, DirectoryStore(tmp_path / "store"), CacheStrategy.WRITE_BEHIND, queue_dir="/dev/null"
            )
        behind = StoreBackedCache(
            cache, DirectoryStore(tmp_path / "store"), CacheStrategy.WRITE_BEHIND, queue_dir=tmp_path / "queue"
        )
        behind.close()
        for late in (lambda: behind.get("c"), lambda: behind.put("c", 1)):
            with pytest.raises(UsageError, match="is closed"):
                late()
        cache.invalidate("a")


def test_tags_that_can_not_be_filled_in_cost_the_entry_not_the_result(nodes: list[Node]) -> None:
    """The function has run: its result is the caller's."""

    @cached(client=address(nodes), tags=["user:{request.user}"])
    def answer(request: str | None) -> int:
        return 42

    @cached(client=address(nodes), tags=["user:{user}"])
    def greet(user: str) -> int:
        return 43

    assert answer(None) == 42
    assert greet("\ud800") == 43

    @cached_batch(client=address(nodes), tags=["user:{requests.user}"])
    def answers(requests: list[str]) -> list[int]:
        runs.append(len(requests))
        return [44 for _ in requests]

    runs: list[int] = []
    assert answers(["a", "b"]) == [44, 44]
    assert runs == [2], "what was computed is not computed again"


def test_an_async_function_without_its_cache_does_not_wait_at_each_call() -> None:
    """As a blocking one: a cache that can't be reached is asked again after a pause, not by every call."""

    async def main() -> None:
        client = connect_async(address([node]), shared=False, connect_deadline_s=0.2)

        @cached(client=client)
        async def double(number: int) -> int:
            return 2 * number

        for number in range(3):
            assert await double(number) == 2 * number
        begun = time.monotonic()
        for number in range(100):
            assert await double(number) == 2 * number
        assert time.monotonic() - begun < 8, "they waited for a hundred deadlines"
        node.resume()
        async with asyncio.timeout(20):
            while True:
                try:
                    await client.ping()
                    break
                except UnavailableError:
                    await asyncio.sleep(0.01)

    with running(1) as (node,):
        node.pause()
        asyncio.run(main())


def test_an_error_that_is_given_again_and_again_does_not_grow() -> None:
    """Without a cache each call of a decorated function is answered by one error for five seconds."""

    def opener(_: str | None) -> Any:
        raise UnavailableError("no cache")

    def depth(finder: Finder) -> int:
        with pytest.raises(UnavailableError) as caught:
            finder.blocking("nowhere")
        return len(caught.traceback)

    finder = Finder(opener, opener, clock=lambda: 0.0)
    depth(finder)
    assert {depth(finder) for _ in range(50)} == {depth(finder)}


def test_a_forked_child_waits_for_no_thread_of_its_parent(nodes: list[Node], tmp_path: Path) -> None:
    """Locks that are held at the fork, and pools whose threads are not there: the child goes on with its own."""
    with connect(address(nodes)) as cache:
        backed = StoreBackedCache(cache, DirectoryStore(tmp_path), CacheStrategy.REFRESH_AHEAD, ttl=60)
        in_threads = AsyncStoreBackedCache(backed)
        assert asyncio.run(in_threads.load("none", 0)) == 0  # a thread of the pool is idle from now on
        backed.put("k", 1)
        held, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            with backed._turns.of(["k"]):
                held.set()
                go_on.wait(30)

        holder = threading.Thread(target=hold)
        holder.start()
        assert held.wait(30)
        read, write = os.pipe()
        child = os.fork()
        if not child:
            done = threading.Thread(target=lambda: os.write(write, _in_child(backed, in_threads)), daemon=True)
            done.start()
            done.join(20)
            os._exit(0)
        os.close(write)
        go_on.set()
        holder.join(30)
        os.waitpid(child, 0)
        with os.fdopen(read) as told:
            assert told.read() == "2 2 refreshed"
        backed.delete("k")
        backed.close()


def _in_child(backed: StoreBackedCache, in_threads: AsyncStoreBackedCache) -> bytes:
    try:
        backed.put("k", 2)
        refresher: Any = backed._refresher
        refresher._start("k")
        refresher.close()
        refreshed = "refreshed" if refresher.report()["refreshed_ahead"] else "not refreshed"
        return f"{backed.get('k')} {asyncio.run(in_threads.load('k'))} {refreshed}".encode()
    except BaseException as error:
        return repr(error).encode()


def test_a_cache_that_refreshes_ahead_travels_by_pickle(nodes: list[Node], tmp_path: Path) -> None:
    """As with the other strategies: it reads, and refreshes, where it arrives."""
    with connect(address(nodes)) as cache:
        backed = StoreBackedCache(cache, DirectoryStore(tmp_path), CacheStrategy.REFRESH_AHEAD, ttl=60)
        backed.put("travels", 1)
        arrived = pickle.loads(pickle.dumps(backed))
        assert arrived.get("travels") == 1
        arrived._refresher._start("travels")
        arrived.close()
        assert arrived.stats()["store"]["refreshed_ahead"] == 1
        backed.delete("travels")
        backed.close()


def test_waiting_for_ever_is_waiting_for_long(nodes: list[Node]) -> None:
    """Threads that wait for one of their process too."""
    with connect(address(nodes), lease_wait_s=float("inf")) as cache:
        begun, got = threading.Event(), list[int]()

        def compute() -> int:
            begun.set()
            flight = next(iter(cache._core.flights._flights.values()))
            wait_until(lambda: flight._event is not None, what="the other thread to wait")
            return 1

        waiter = threading.Thread(target=lambda: got.append(cache.get_or_compute("long", lambda: 2)))
        holder = threading.Thread(target=lambda: got.append(cache.get_or_compute("long", compute)))
        holder.start()
        assert begun.wait(30)
        waiter.start()
        for thread in (waiter, holder):
            thread.join(30)
        assert got == [1, 1]
        cache.invalidate("long")
