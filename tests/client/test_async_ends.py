"""How the asyncio client ends: its loops, its connections, its computations, and what the others notice of it."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import uvloop

from stratacache.client import MISS, UsageError, cached, connect, connect_async
from stratacache.client.aio_backend import BACKENDS
from stratacache.client.default import finder
from stratacache.client.transport.aio_connection import AioConnection
from stratacache.client.view import ShardInfo, View

from .liar import Liar
from .servers import Node, address


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def until(condition: Any, what: str) -> None:
    """Wait until something is true, and for at most ten seconds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


async def connected(listener: socket.socket) -> tuple[AioConnection, asyncio.Transport]:
    host, port = listener.getsockname()
    loop = asyncio.get_running_loop()
    connection = AioConnection(ShardInfo(id="s", host=host, port=port), loop)
    transport, _ = await asyncio.wait_for(loop.create_connection(lambda: connection, host, port), 10)
    return connection, transport


@LOOPS
@pytest.mark.parametrize("ended", ["close", "abort"])
def test_who_asks_between_the_end_of_a_connection_and_the_news_of_it_is_told(run: Any, ended: str) -> None:
    """It is a failure of the shard like any other, and what is connected next in this loop works."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            connection, transport = await connected(listener)
            getattr(transport, ended)()  # as the loop does when the other side has closed, or is gone
            assert not connection.closed
            with pytest.raises(EOFError):
                await connection.ask([(b"PING",)])
            for _ in range(2):
                connection, _ = await connected(listener)
                connection.close()

    run(main())


@LOOPS
def test_what_a_shard_does_not_take_makes_others_wait(run: Any) -> None:
    """Of one value or of many: as soon as more is queued than the mark, callers wait for room."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            for command in (b"SET", b"k", b"x" * (20 << 20)), (b"SET", b"k", [b"x" * (10 << 20)] * 2):
                connection, _ = await connected(listener)
                unanswered = connection.ask([command])
                await until(lambda connection=connection: connection._room is not None, "a full queue")
                connection.close()
                with pytest.raises(EOFError):
                    await unanswered

    run(main())


def test_a_connection_that_is_given_up_cancels_nobody(nodes: list[Node]) -> None:
    """A shard that comes back elsewhere, while tasks still wait to reach its old place, serves them there."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            async with connect_async(address(nodes[:1]), shared=False, connect_deadline_s=30, deadline_s=30) as cache:
                await cache.put("k", 1)
                backend = cache._backends[asyncio.get_running_loop()]
                core, pools = backend.core, backend.shell.pools
                (known,) = core.view.shards
                gone = ShardInfo(id=known.id, host="127.0.0.1", port=silent.getsockname()[1])
                back = ShardInfo(id=known.id, host="127.0.0.1", port=nodes[0].port)
                core.adopt(View(epoch=1, shards=(gone,)))
                waiting = [asyncio.create_task(cache.get("k")) for _ in range(3)]
                await until(lambda: pools[known.id].shard == gone and pools[known.id]._opening, "an attempt")
                core.adopt(View(epoch=2, shards=(back,)))
                assert await cache.get("k") == 1
                assert await asyncio.gather(*waiting, return_exceptions=True) == [1, 1, 1]
                await cache.invalidate("k")

    asyncio.run(main())


@pytest.mark.parametrize("answer", [b"?nonsense\r\n", b"+OK\r\n+OK\r\n+OK\r\n"], ids=["no RESP", "too much"])
def test_a_shard_that_talks_nonsense_while_a_fill_is_waited_for(answer: bytes) -> None:
    """What ends a connection never reaches a pipeline: the value is computed."""

    async def main() -> None:
        async with connect_async(f"strata://127.0.0.1:{liar.port}", shared=False, deadline_s=0.5) as cache:
            assert await cache.get_or_compute("k", lambda: "computed", wait_s=1) == "computed"

    liar = Liar(answer)
    try:
        asyncio.run(main())
    finally:
        liar.close()


def test_closing_ends_a_computation_that_has_not_begun(nodes: list[Node]) -> None:
    """Its caller is told so, and does not wait for a day."""

    async def main() -> None:
        cache = connect_async(address(nodes), shared=False)
        await cache.ping()
        caller = asyncio.create_task(cache.get_or_compute("begins", lambda: 1))
        await asyncio.sleep(0)  # the caller waits for its computation, which has not had its first step
        await cache.close()
        async with asyncio.timeout(10):
            with pytest.raises(UsageError, match="closed"):
                await caller

    asyncio.run(main())


def test_closing_leaves_no_connection_that_a_call_was_using(nodes: list[Node]) -> None:
    """Neither one that waits for another's fill, nor one that a retry would open."""

    async def main() -> None:
        before = open_files()
        cache = connect_async(address(nodes), shared=False)
        await cache.ping()
        waiting = asyncio.create_task(cache.get_or_compute_many(["held"], lambda keys: ["mine"]))
        pools = cache._backends[asyncio.get_running_loop()].shell.pools
        await until(lambda: any(pool._slots._value < 64 for pool in pools.values()), "a call of its own connection")
        await cache.close()
        go_on.set()
        assert await waiting == {"held": "theirs"}
        with pytest.raises(UsageError, match="closed"):
            await cache.get("held")
        await until(lambda: open_files() <= before, "the sockets to be closed")

    begun, go_on = threading.Event(), threading.Event()

    def compute() -> str:
        begun.set()
        assert go_on.wait(30)
        return "theirs"

    with connect(address(nodes), shared=False) as other:
        other.invalidate("held")
        holder = threading.Thread(target=lambda: other.get_or_compute("held", compute))
        holder.start()
        assert begun.wait(30)
        asyncio.run(main())
        holder.join(30)
        other.invalidate("held")


def test_loops_that_end_leave_nothing_behind(nodes: list[Node]) -> None:
    """Programs call asyncio.run again and again around one decorated function: its connections end with each loop."""

    @cached(client=address(nodes))
    async def double(number: int) -> int:
        return 2 * number

    handle = connect_async(address(nodes), near_bytes_max=1 << 20)

    async def main(number: int) -> None:
        assert await double(number) == 2 * number
        assert await handle.get(f"none {number}") is MISS

    asyncio.run(main(0))
    files, backends, clients = open_files(), len(BACKENDS), len(finder._async)
    for number in range(5):
        asyncio.run(main(number))
        assert open_files() <= files
    assert len(BACKENDS) <= backends
    assert len(finder._async) <= clients
    assert len(handle._backends) == 1
    asyncio.run(handle.close())
    with connect(address(nodes), shared=False) as cache:
        cache.clear()
