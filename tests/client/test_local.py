"""`local:DIR` and those who share it: tasks that wait for each other's fills, and processes that are forked."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stratacache.client import CacheClient, UsageError, connect, connect_async


def waiters(cache: Any, key: bytes) -> int:
    """How many wait for the fill of a key."""
    shell = cache._backends[asyncio.get_running_loop()].shell
    lease = shell._node.engine.leases.live.get(key)
    return 0 if lease is None else len(lease.waiters)


async def until_so_many_wait(cache: Any, count: int) -> None:
    async with asyncio.timeout(20):
        while waiters(cache, b"k") < count:
            await asyncio.sleep(0.005)


def test_tasks_that_wait_for_a_fill_hold_no_thread(tmp_path: Path) -> None:
    """The fill itself, and what computes it, may need one of the few that a loop has."""

    async def main() -> float:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        async with connect_async(f"local:{tmp_path}", shared=False) as cache:
            all_wait = asyncio.Event()

            async def compute(keys: list[str]) -> list[float]:
                await until_so_many_wait(cache, 2)
                all_wait.set()  # nobody waits any more when this is done: who looked by himself could come too late
                return [await asyncio.to_thread(time.monotonic) for _ in keys]

            calls = [asyncio.create_task(cache.get_or_compute_many(["k"], compute)) for _ in range(8)]
            await all_wait.wait()
            begun = time.monotonic()
            results = await asyncio.gather(*calls)
            assert all(result == results[0] for result in results)
            return time.monotonic() - begun

    assert asyncio.run(main()) < 4, "as long as one request for a lease may wait"


def test_a_lease_that_nobody_waits_for_any_more_goes_to_the_next(tmp_path: Path) -> None:
    """Who was cancelled is not given what nobody else could have then."""

    async def main() -> None:
        async with connect_async(f"local:{tmp_path}", shared=False) as cache:
            begun, go_on = asyncio.Event(), asyncio.Event()

            async def fail(_: list[str]) -> list[int]:
                begun.set()
                await go_on.wait()
                raise ZeroDivisionError("the next one computes")

            holder = asyncio.create_task(cache.get_or_compute_many(["k"], fail))
            await begun.wait()
            cancelled = asyncio.create_task(cache.get_or_compute_many(["k"], lambda _: [1]))
            await until_so_many_wait(cache, 1)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            go_on.set()
            with pytest.raises(ZeroDivisionError):
                await holder
            async with asyncio.timeout(10):
                assert await cache.get_or_compute_many(["k"], lambda _: [2]) == {"k": 2}

    asyncio.run(main())


def test_a_forked_child_opens_nothing_that_is_its_parents(tmp_path: Path) -> None:
    """Neither as it was opened nor anew: the database is the parent's, and two processes would spoil it."""
    with connect(f"local:{tmp_path / 'parents'}", shared=False) as cache:
        assert cache.put("k", 1) is True
        read, write = os.pipe()
        child = os.fork()
        if not child:
            said = [_told(lambda: connect(f"local:{tmp_path / 'parents'}", shared=False).get("k"))]
            said.append(_told(lambda: asyncio.run(_get(f"local:{tmp_path / 'parents'}"))))
            said.append(_told(lambda: connect(f"local:{tmp_path / 'own'}", shared=False).put("k", 2)))
            os.write(write, "\n".join(said).encode())
            os._exit(0)
        os.close(write)
        os.waitpid(child, 0)
        with os.fdopen(read) as told:
            lines = told.read().splitlines()
        assert [line.partition(":")[0] for line in lines] == ["UnavailableError", "UnavailableError", "True"], lines
        assert cache.get("k") == 1


def _told(call: Any) -> str:
    try:
        return str(call())
    except BaseException as error:
        return f"{type(error).__name__}: {error}".replace("\n", " ")


async def _get(place: str) -> Any:
    return await connect_async(place, shared=False).get("k")


def test_a_view_of_a_closed_cache_says_so(tmp_path: Path) -> None:
    """As with a cache that is elsewhere; it spoke of forks."""
    cache: CacheClient = connect(f"local:{tmp_path}", shared=False)
    bound = cache.namespace("docs")
    bound.put("k", 1)
    cache.close()
    with pytest.raises(UsageError, match="closed"):
        bound.get("k")
