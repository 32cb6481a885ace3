"""Single flight across processes, and cancellation and deadlines within one."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hiredis import ReplyError

from stratacache.client import MISS, connect, connect_async
from stratacache.client.core.effects import Exchange
from stratacache.client.core.flight import Flights

from .conftest import InLoop
from .servers import Node, address, running

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("kill", [False, True], ids=["all live", "computing process killed"])
def test_fifty_processes_compute_once(nodes: list[Node], tmp_path: Path, kill: bool) -> None:
    """One computation serves all; when its process is killed, exactly one more does."""
    with connect(address(nodes), shared=False) as cache:
        cache.clear()
    command = [sys.executable, "-m", "tests.client.crowd", address(nodes), str(tmp_path), *(["kill"] if kill else [])]
    begun = time.monotonic()
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=100).stdout
    computed, *got = [int(word) for word in out.split()]
    assert computed == (2 if kill else 1)
    assert len(got) == (49 if kill else 50)
    assert len(set(got)) == 1
    if kill:
        assert time.monotonic() - begun < 30, "the lease ended with its process, not with its hold time"


def test_cancelling_a_waiter_leaves_the_others_alone(nodes: list[Node]) -> None:
    """Cancelling callers, the first one included, neither stops the computation nor fails the others."""

    async def main() -> None:
        runs = 0

        async def compute() -> str:
            nonlocal runs
            runs += 1
            await asyncio.sleep(0.2)
            return "value"

        async with connect_async(address(nodes), shared=False, strict=True) as cache:
            await cache.invalidate("cancel")
            tasks = [asyncio.create_task(cache.get_or_compute("cancel", compute)) for _ in range(6)]
            await asyncio.sleep(0.05)
            tasks[0].cancel()
            tasks[3].cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [result for result in results if isinstance(result, str)] == ["value"] * 4
            assert sum(isinstance(result, asyncio.CancelledError) for result in results) == 2
            assert await cache.get("cancel") == "value"
            assert runs == 1
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await cache.get_or_compute("slow", compute)
            async with asyncio.timeout(10):  # the computation outlives the caller that gave up
                while await cache.get("slow") != "value":
                    await asyncio.sleep(0.01)
            assert runs == 2
            await cache.clear()

    asyncio.run(main())


def test_waiting_is_bounded(nodes: list[Node]) -> None:
    """A caller whose wait_s is over computes for itself; the value of the holder is the one that is kept."""
    with (
        connect(address(nodes), shared=False, strict=True) as cache,
        connect(address(nodes), shared=False, strict=True) as other,
    ):
        begun, go_on = threading.Event(), threading.Event()

        def slow() -> str:
            begun.set()
            assert go_on.wait(30)
            return "slow"

        holder = threading.Thread(target=lambda: cache.get_or_compute("bounded", slow))
        holder.start()
        assert begun.wait(30)
        assert other.get_or_compute("bounded", lambda: "mine", wait_s=0.2) == "mine", "another process"
        assert cache.get_or_compute("bounded", lambda: "mine too", wait_s=0.2) == "mine too", "the same process"
        assert other.get_or_compute_many(["bounded"], lambda keys: ["many"], wait_s=0.2) == {"bounded": "many"}
        go_on.set()
        holder.join(30)
        assert other.get("bounded") == "slow"
        cache.clear()


def test_one_error_for_all_who_wait(nodes: list[Node]) -> None:
    """Threads that wait for one computation get its error; it ran once."""
    with connect(address(nodes), shared=False, strict=True) as cache:
        runs: list[int] = []
        errors: list[BaseException] = []
        begun = threading.Event()

        def fail() -> str:
            runs.append(1)
            begun.set()
            time.sleep(0.2)
            raise RuntimeError("once")

        def ask() -> None:
            try:
                cache.get_or_compute("failing", fail)
            except RuntimeError as error:
                errors.append(error)

        threads = [threading.Thread(target=ask) for _ in range(5)]
        threads[0].start()
        assert begun.wait(10)
        for thread in threads[1:]:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(runs) == 1
        assert [str(error) for error in errors] == ["once"] * 5


def test_a_caller_that_is_stopped_takes_nobody_along(nodes: list[Node]) -> None:
    """SystemExit or Ctrl-C in the computing thread is no outcome: who waits computes, and the entry is stored."""
    with connect(address(nodes), shared=False, strict=True) as cache:
        begun, got = threading.Event(), list[str]()

        def stopped() -> str:
            begun.set()
            time.sleep(0.2)
            raise SystemExit

        def ask() -> None:
            with contextlib.suppress(SystemExit):
                cache.get_or_compute("stopped", stopped)

        first = threading.Thread(target=ask)
        first.start()
        assert begun.wait(10)
        second = threading.Thread(target=lambda: got.append(cache.get_or_compute("stopped", lambda: "value")))
        second.start()
        first.join()
        second.join(20)
        assert got == ["value"]
        assert cache.get("stopped") == "value"
        cache.invalidate("stopped")


def test_a_fill_that_is_refused_keeps_nobody_waiting(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease of a fill that no shard takes is given back, if not at the first try: nobody waits until it ends."""
    with (
        connect(address(nodes), shared=False) as refused,
        connect(address(nodes), shared=False, strict=True) as other,
    ):
        other.clear()
        exchange = refused._backend.shell.exchange
        releases: list[Exchange] = []

        def refusing(wanted: Exchange) -> Any:
            words = {command[0] for call in wanted.calls for command in call.commands}
            if words & {b"SC.PUT", b"SC.MPUT"}:
                return [[ReplyError("TRYAGAIN the owners of the key are just changing")] for _ in wanted.calls]
            if b"SC.RELEASE" in words:
                releases.append(wanted)
                if len(releases) < 10:
                    return [[ReplyError("SUSPENDED 0")] for _ in wanted.calls]
            return exchange(wanted)

        monkeypatch.setattr(refused._backend.shell, "exchange", refusing)
        assert refused.get_or_compute("refused", lambda: 1) == 1
        names = [f"refused-{number}" for number in range(20)]
        assert len(refused.get_or_compute_many(names, list)) == 20
        begun = time.monotonic()
        assert other.get_or_compute("refused", lambda: 2) == 2
        assert other.get_or_compute_many(names, lambda keys: [2 for _ in keys]) == dict.fromkeys(names, 2)
        assert time.monotonic() - begun < 10, "they waited for a lease that its holder could not use"


@pytest.mark.parametrize("who", ["this process", "another process"])
@pytest.mark.parametrize("scope", ["key", "tag", "clear"])
@pytest.mark.parametrize("shell", ["sync", "async"])
def test_who_comes_after_an_invalidation_is_not_given_what_is_older(
    nodes: list[Node], who: str, scope: str, shell: str
) -> None:
    """Though a thread or task of its process was computing: that began before, from older data."""
    with connect(address(nodes), shared=False, strict=True) as other:
        other.clear()
        cache: Any = connect(address(nodes), shared=False) if shell == "sync" else InLoop(address(nodes), shared=False)
        got: dict[str, str] = {}
        begun, go_on = threading.Event(), threading.Event()

        def old() -> str:
            begun.set()
            assert go_on.wait(30)
            return "old"

        async def old_in_loop() -> str:
            return await asyncio.to_thread(old)

        def ask(name: str, compute: Any) -> None:
            got[name] = cache.get_or_compute("k", compute, tags=["t"], wait_s=30)

        first = threading.Thread(target=ask, args=("first", old if shell == "sync" else old_in_loop))
        first.start()
        assert begun.wait(30)
        by = cache if who == "this process" else other
        {"key": lambda: by.invalidate("k"), "tag": lambda: by.invalidate_tags(["t"]), "clear": by.clear}[scope]()
        second = threading.Thread(target=ask, args=("second", lambda: "new"))
        second.start()
        # Where the lease of the first has ended it waits for nobody, else for that, and should be waiting by then.
        second.join(20 if (who, scope) == ("this process", "key") else 0.1)
        go_on.set()
        first.join(30)
        second.join(30)
        cache.close()
        assert got == {"first": "old", "second": "new"}
        assert other.get("k") in ("new", MISS)
        other.clear()


class Boarding:
    """Counts who has joined or begun a computation of a process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        board = Flights.board

        def counted(flights: Flights, key: bytes, *, refresh: bool) -> Any:
            self.count += 1
            return board(flights, key, refresh=refresh)

        monkeypatch.setattr(Flights, "board", counted)

    def wait_for(self, count: int) -> None:
        until = time.monotonic() + 20
        while self.count < count:
            assert time.monotonic() < until, f"{self.count} of {count} callers have come"
            time.sleep(0.002)


@pytest.mark.parametrize("shell", ["sync", "async"])
def test_who_joins_a_computation_that_outlives_its_lease_is_not_given_what_is_older(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    """The owner has forgotten the lease, and with it whether an invalidation has made it void."""
    boarding = Boarding(monkeypatch)
    options = {"shared": False, "lease_hold_s": 0.2}
    with connect(address(nodes), shared=False, strict=True) as other:
        other.clear()
        cache: Any = connect(address(nodes), **options) if shell == "sync" else InLoop(address(nodes), **options)
        got: dict[str, str] = {}
        begun, go_on = threading.Event(), threading.Event()

        def old() -> str:
            begun.set()
            assert go_on.wait(30)
            return "old"

        async def old_in_loop() -> str:
            return await asyncio.to_thread(old)

        def ask(name: str, compute: Any) -> None:
            got[name] = cache.get_or_compute("long", compute, wait_s=30)

        first = threading.Thread(target=ask, args=("first", old if shell == "sync" else old_in_loop))
        first.start()
        assert begun.wait(30)
        other.invalidate("long")
        second = threading.Thread(target=ask, args=("second", lambda: "new"))
        second.start()
        boarding.wait_for(2)
        time.sleep(0.25)  # its lease is over, which nothing shows
        go_on.set()
        first.join(30)
        second.join(30)
        cache.close()
        assert got == {"first": "old", "second": "new"}
        other.clear()


def test_a_value_that_no_level_can_hold_is_computed_once_for_all_who_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Threads and other processes get it as it was computed; they do not queue for a turn each."""
    boarding = Boarding(monkeypatch)
    with (
        running(1, "--l1-mib", "1", "--l2-mib", "0") as small,
        connect(address(small), shared=False) as cache,
        connect(address(small), shared=False) as other,
    ):
        value = random.Random(5).randbytes(2 << 20)
        computed: list[int] = []
        begun, go_on = threading.Event(), threading.Event()

        def compute() -> bytes:
            computed.append(1)
            begun.set()
            assert go_on.wait(30)
            return value

        got: list[bytes] = []

        def ask(client: Any) -> None:
            got.append(client.get_or_compute("large", compute, wait_s=30))

        threads = [threading.Thread(target=ask, args=(cache,))]
        threads[0].start()
        assert begun.wait(30)
        threads += [threading.Thread(target=ask, args=(client,)) for client in (cache, cache, cache, other)]
        for thread in threads[1:]:
            thread.start()
        boarding.wait_for(5)
        time.sleep(0.1)  # should it take the other process longer to begin to wait, it computes for itself
        go_on.set()
        for thread in threads:
            thread.join(30)
        assert got == [value] * 5
        assert len(computed) <= 2
        assert cache.get("large") is MISS
