"""Looking at the sockets again instead of sleeping: as long as commands come, and no longer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import uvloop

from stratacache.node.config import NodeConfig
from stratacache.node.engine import MultiLevelCache
from stratacache.node.resp.config import ServerConfig
from stratacache.node.resp.lookout import LOOKS_EARNED, LOOKS_SAVED_MAX, LOOKS_STAKED, REST, Lookout
from stratacache.node.resp.output import ServerState
from stratacache.node.resp.server import NodeServer
from tests.wire.raw import request


class Turns:
    """A loop's `call_soon`; counts how often it is asked, and runs what is due while commands come as told."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def looks(self, state: ServerState, arrivals: Callable[[int], int]) -> int:
        """Run until nothing is due; `arrivals` says how many commands come before look number n."""
        number = 0
        while self.due and number < 10_000:
            state.commands += arrivals(number)
            self.due.pop()()
            number += 1
        return number


def begun() -> tuple[Turns, ServerState, Lookout]:
    turns, state = Turns(), ServerState()
    lookout = Lookout(state, turns.due.append)
    assert (state.rest, turns.due) == (REST, [])
    lookout.begin()
    assert state.rest > 1 << 60
    return turns, state, lookout


def test_a_loop_that_finds_nothing_soon_sleeps() -> None:
    """What was staked is spent, then the loop rests; the next attempt is as short."""
    turns, state, lookout = begun()
    for _ in range(3):
        assert turns.looks(state, lambda _: 0) == LOOKS_STAKED
        assert state.rest == REST
        lookout.begin()


def test_looks_must_be_earned() -> None:
    """Commands at every fourth look keep the loop awake; at every tenth they do not."""
    turns, state, _ = begun()
    assert turns.looks(state, lambda number: number % LOOKS_EARNED == 0) == 10_000
    turns, state, _ = begun()
    assert turns.looks(state, lambda number: number % 10 == 0) < 60
    assert state.rest == REST


def test_no_more_than_a_pause_is_saved_up() -> None:
    """After a long rush the loop is awake for one pause, not for as long as the rush was."""
    turns, state, _ = begun()
    assert turns.looks(state, lambda number: number < 1_000) == 1_000 + LOOKS_SAVED_MAX


def test_a_server_stays_awake_only_while_it_is_asked() -> None:
    """A server begins after so many replies, and rests again soon after the last."""

    async def main() -> None:
        engine = MultiLevelCache(NodeConfig(l1_bytes_max=1 << 20))
        server = NodeServer(engine, ServerConfig())
        endpoints = await server.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", endpoints.port)
        awake = 0
        for _ in range(2 * REST):
            writer.write(request("PING"))
            assert await reader.readline() == b"+PONG\r\n"
            awake += server.state.rest > REST
        assert awake
        async with asyncio.timeout(10):
            while server.state.rest > REST:
                await asyncio.sleep(0.01)
        writer.close()
        await server.stop()
        engine.close()

    uvloop.run(main())
