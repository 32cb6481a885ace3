"""The shells of `local:DIR`: the operations of every client, carried out on the engine in this process.

Invariants: as `engine_node.py`. The asyncio shell hands commands to a worker thread, because a command may wait for the
lock or for the disk; it waits for leases without one. There is no near cache: what is in L1 is near already.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from hiredis import ReplyError

from stratacache.client.core.effects import Call, Command, Exchange, ShardFailure
from stratacache.client.core.leases import LEASING
from stratacache.client.core.state import Core
from stratacache.client.transport.aio import AioShell
from stratacache.client.transport.engine_node import LOCAL_ID, LOCAL_VIEW, EngineNode, give_node, lease_reply, take_node
from stratacache.client.transport.runner import CLOSED, SLOW, Runner
from stratacache.node.errors import UsageError


def run_call(node: EngineNode, call: Call, deadline: float) -> list[Any] | ShardFailure:
    """The replies to the commands of one call."""
    try:
        return [node.execute(command, deadline - time.monotonic()) for command in call.commands]
    except TimeoutError:
        return ShardFailure(LOCAL_ID, "no answer within the deadline", sent=True, timed_out=True)


class LocalShell(Runner):
    """Blocking."""

    def __init__(self, core: Core, directory: str) -> None:
        super().__init__(lambda _: None)
        self._closed = False
        self._deadline_s = core.options.deadline_s
        self._directory = directory
        self._node: EngineNode | None = take_node(directory, core.options)
        core.adopt(LOCAL_VIEW)

    def ask_one(self, key: bytes, command: Command, *, repeatable: bool = True) -> Any:  # noqa: ARG002 - there is one shard
        """The reply of the engine."""
        if self._node is None:
            return SLOW
        reply = self._node.execute(command, self._deadline_s)
        return SLOW if isinstance(reply, ReplyError) else reply

    def exchange(self, exchange: Exchange) -> list[list[Any] | ShardFailure]:
        """Run the commands on this thread."""
        node = self._node
        if self._closed:
            raise UsageError(CLOSED)
        if node is None:
            return [ShardFailure(LOCAL_ID, _FORKED, sent=False) for _ in exchange.calls]
        return [run_call(node, call, exchange.deadline) for call in exchange.calls]

    def close(self) -> None:
        """Give the engine back."""
        self._closed = True
        if self._node is not None:
            self._node = None
            give_node(self._directory)

    def reset_after_fork(self) -> None:
        """The database belongs to the parent: the child goes on without."""
        self._node = None


_FORKED = "local: belongs to the process that opened it; in a forked child connect to a directory of its own"


class AioLocalShell(AioShell):
    """For asyncio."""

    def __init__(self, core: Core, directory: str) -> None:
        super().__init__(core, discover=lambda _: None)
        self._directory = directory
        self._node: EngineNode | None = take_node(directory, core.options)
        core.adopt(LOCAL_VIEW)

    async def exchange(self, exchange: Exchange) -> list[list[Any] | ShardFailure]:
        """Run the commands on worker threads of the loop."""
        node = self._node
        if node is None:
            raise UsageError(CLOSED)
        return [await self._call(node, call, exchange.deadline) for call in exchange.calls]

    async def _call(self, node: EngineNode, call: Call, deadline: float) -> list[Any] | ShardFailure:
        """As `run_call`, and no thread of the loop waits for a lease: whoever holds it may need one to fill it."""
        loop, commands = asyncio.get_running_loop(), call.commands
        begun = loop.run_in_executor(None, lambda: [node.begin(command) for command in commands])
        try:
            replies = await asyncio.shield(begun)
        except asyncio.CancelledError:
            begun.add_done_callback(lambda _: self._abandon_late(node, commands, begun))
            raise
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                for at, reply in enumerate(replies):
                    if isinstance(reply, Future):
                        replies[at] = lease_reply(await asyncio.wrap_future(reply))
        except TimeoutError:
            loop.run_in_executor(None, node.abandon, commands, replies)
            return ShardFailure(LOCAL_ID, "no answer within the deadline", sent=True, timed_out=True)
        except asyncio.CancelledError:
            loop.run_in_executor(None, node.abandon, commands, replies)
            raise
        return replies

    def _abandon_late(self, node: EngineNode, commands: Sequence[Command], begun: asyncio.Future[list[Any]]) -> None:
        if not begun.cancelled() and begun.exception() is None and commands[0][0] in LEASING:
            self._loop.run_in_executor(None, node.abandon, commands, begun.result())

    async def close(self) -> None:
        """Give the engine back."""
        await super().close()
        if self._node is not None:
            self._node = None
            give_node(self._directory)
