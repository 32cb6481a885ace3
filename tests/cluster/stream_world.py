"""A shard with changes on their way to a peer, on a real socket, that says what a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import hiredis

from stratacache.client.view import ShardInfo, View
from stratacache.cluster.chains import Chains
from stratacache.cluster.links import Credentials
from stratacache.cluster.replication import Replication
from stratacache.cluster.stream_links import StreamLinks
from stratacache.cluster.streams import Change, Outbox

GREETING = b"*4\r\n$5\r\nshard\r\n$1\r\nb\r\n$11\r\nincarnation\r\n:1\r\n"
KEYS = [b"x", b"y", b"z"]


class Peer:
    """Shard `b`: a good one, but for what a test gives it to say instead, once, before it falls silent or closes."""

    def __init__(self) -> None:
        self.greeting = GREETING
        self.says: dict[bytes, bytes] = {}
        self.closes = False
        self.opened: Callable[[], None] = lambda: None
        self.keys: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands = hiredis.Reader()
        silent = False
        try:
            while data := await reader.read(65_536):
                commands.feed(data)
                while isinstance(words := commands.gets(), list) and not silent:
                    if words[0] in self.says:
                        writer.write(self.says.pop(words[0]))
                        silent = True
                    else:
                        writer.write(self.answer(words))
                if silent and self.closes:
                    return
        except ConnectionError:
            return
        finally:
            writer.close()

    def answer(self, words: list[bytes]) -> bytes:
        if words[0] == b"SC.HELLO":
            return self.greeting
        if words[0] == b"SC.STREAM":
            self.opened()
        elif words[0] == b"SC.REPL":
            assert int(words[1]) == len(self.keys) + 1
            self.keys.append(words[3])
        return b":%d\r\n" % len(self.keys)


class World:
    """Shard `a`, three of whose changes go to the peer."""

    def __init__(self, peer: Peer, info: ShardInfo) -> None:
        self.peer = peer
        self.info = info
        self.fell: list[BaseException] = []
        self.outbox = Outbox()
        self.outbox.follow({"b": "1"}, relays=False)
        self.replication = cast("Replication", SimpleNamespace(chains=Chains("a"), outbox=self.outbox))
        self.changes: list[Change] = [self.outbox.send({"b": (b"DEL", key)}, (key,)) for key in KEYS]
        self.links = StreamLinks(1, Credentials(), self.replication, self.fall)

    def fall(self, why: str, error: BaseException) -> NoReturn:
        self.fell.append(error)
        raise error

    def follow(self) -> None:
        self.links.follow(View(epoch=1, replicas=2, shards=(ShardInfo(id="a", incarnation="1"), self.info)))

    @property
    def settled(self) -> int:
        return sum(change.future.done() for change in self.changes)


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    peer = Peer()
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    here = World(peer, ShardInfo(id="b", host="127.0.0.1", port=server.sockets[0].getsockname()[1], incarnation="1"))
    try:
        yield here
        assert not here.fell
    finally:
        await here.links.close()
        server.close()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something; `run` has the deadline."""
    while not holds():
        await asyncio.sleep(0.005)
