"""What the threads of one client do to each other: each test stops a thread where another one comes in between."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from stratacache.client import MISS, connect
from stratacache.client.core import state
from stratacache.client.core.circuit import Circuit
from stratacache.client.core.counters import Counters
from stratacache.client.core.effects import ShardFailure
from stratacache.client.ring import Ring
from stratacache.client.transport.pool import Pool
from stratacache.client.view import ShardInfo, View

from .liar import Liar
from .servers import Node, address, wait_until


def test_an_older_view_never_replaces_a_newer_one(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    """While a thread lays the ring of a view, another one adopts the next."""
    with connect(address(nodes), shared=False) as cache:
        core, shards = cache._backend.core, cache.view.shards

        def laid(view: View) -> Ring:
            if view.epoch == 5:
                assert core.adopt(View(epoch=6, shards=shards)) is True
            return Ring(view)

        monkeypatch.setattr(state, "Ring", laid)
        assert core.adopt(View(epoch=5, shards=shards)) is False
        assert core.view.epoch == 6


def test_a_shard_that_fails_while_another_thread_routes(nodes: list[Node]) -> None:
    """Its circuit is new: whoever looks through them goes on."""

    class Slow(Circuit):
        __slots__ = ()

        @property
        def failures(self) -> int:  # type: ignore[override]
            core.shard_failed(f"another {len(core.circuits)}")
            return 0

        @failures.setter
        def failures(self, _: int) -> None:
            pass

    with connect(address(nodes), shared=False, strict=True) as cache:
        core = cache._backend.core
        core.circuits["shard-9"] = Slow()
        assert cache.get_many(["a", "b"]) == {}
        assert cache.contains("a") is False


def test_stats_while_another_thread_fails() -> None:
    """A kind of failure that is new does not keep the others from being told."""

    class Changing(dict[str, int]):
        def items(self) -> Any:
            for pair in super().items():
                self.setdefault("put", 1)
                yield pair

        def copy(self) -> dict[str, int]:
            return dict(list(super().items()))

    counters = Counters()
    counters.failures = Changing(get=1)
    found: Any = counters.as_dict()["failures"]
    assert found == {"get": 1}


def test_waiting_for_a_connection_ends_with_the_deadline() -> None:
    """Also for a thread that is woken each time, and each time finds that another one was faster."""

    class Open:
        def close(self) -> None:
            pass

    pool = Pool(ShardInfo(id="shard-0"), 1, lambda *_: Open())  # type: ignore[arg-type, return-value]
    busy = pool.take(time.monotonic() + 1)
    ended, failures = threading.Event(), list[ShardFailure]()

    def wait() -> None:
        try:
            pool.take(time.monotonic() + 0.3)
        except ShardFailure as failure:
            failures.append(failure)
        ended.set()

    thread = threading.Thread(target=wait)
    thread.start()

    def come_past() -> bool:
        with pool._condition:
            pool._condition.notify()
        return ended.wait(0.05)

    wait_until(come_past, 10, "the end of the wait")
    thread.join()
    assert failures[0].timed_out
    pool.drop(busy)


@pytest.mark.parametrize("head", [b"*2\r\n:5\r\n$12x456\r\n", b"*2\r\n:5y\r\n$999999\r\n"])
def test_a_large_value_with_a_header_of_nonsense_is_a_failure(head: bytes) -> None:
    """It ends its connection as any broken stream does: the short cut for large values raises nothing of its own."""
    liar = Liar(head + bytes(8192))
    try:
        with connect(f"strata://127.0.0.1:{liar.port}", shared=False, deadline_s=0.5) as cache:
            pool = cache._backend.shell.pool(cache.view.shards[0])  # type: ignore[attr-defined]
            pool.give(pool.take(time.monotonic() + 5))  # the short cut wants an idle connection
            assert cache.get("k") is MISS
    finally:
        liar.close()
