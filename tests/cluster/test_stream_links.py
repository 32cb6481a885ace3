"""A shard's links against a peer on a real socket that answers too little, too much, garbage, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import hiredis
import pytest

from stratacache.client.view import ShardInfo, View
from stratacache.cluster.chains import Chains
from stratacache.cluster.links import Credentials, Link
from stratacache.cluster.peers import LinkPeers
from stratacache.cluster.replication import Replication
from stratacache.cluster.stream_links import StreamLinks
from stratacache.cluster.streams import Change, Outbox
from stratacache.node.errors import UnavailableError

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


ANSWERS = {
    "nothing": (b"", True),
    "half a number": (b":", True),
    "a later item's": (b":3\r\n", False),
    "an earlier item's": (b":0\r\n", False),
    "no number": (b"$-1\r\n", False),
    "a refusal": (b"-ERR item 1 follows 7: one is missing\r\n", False),
    "another protocol": (b"HTTP/1.1 200 OK\r\n\r\n", False),
    "what no reader takes": (b"%1\r\n*0\r\n+x\r\n", False),
}


@pytest.mark.parametrize(("says", "closes"), ANSWERS.values(), ids=ANSWERS)
def test_a_change_is_settled_by_its_own_answer_alone(says: bytes, closes: bool) -> None:
    """Else the stream is resumed: nothing was acknowledged that the peer does not have, and it gets each once."""

    async def main() -> None:
        async with world() as here:
            here.peer.says, here.peer.closes = {b"SC.REPL": says}, closes
            seen: list[int] = []
            here.peer.opened = lambda: seen.append(here.settled)
            here.follow()
            await until(lambda: here.settled == len(KEYS))
            assert seen[:2] == [0, 0]
            assert here.peer.keys == KEYS

    run(main())


def test_a_peer_that_has_more_than_was_ever_sent_is_not_believed() -> None:
    """It takes this stream for another one: what waits is not settled by that."""

    async def main() -> None:
        async with world() as here:
            here.peer.says = {b"SC.STREAM": b":4\r\n"}
            seen: list[int] = []
            here.peer.opened = lambda: seen.append(here.settled)
            here.follow()
            await until(lambda: here.settled == len(KEYS))
            assert seen[0] == 0
            assert here.peer.keys == KEYS

    run(main())


def test_a_peer_that_hangs_holds_its_changes_until_it_is_dropped() -> None:
    """They are neither acknowledged nor lost: whoever drops the peer gets them back."""

    async def main() -> None:
        async with world() as here:
            reached = asyncio.Event()
            here.peer.opened = reached.set
            here.peer.says = {b"SC.REPL": b""}
            here.follow()
            await reached.wait()
            await until(lambda: not here.peer.says)
            assert here.settled == 0
            assert [change for _, change in here.outbox.follow({}, relays=False)] == here.changes
            here.links.follow(View(epoch=2, replicas=2, shards=(ShardInfo(id="a", incarnation="1"),)))
            assert here.settled == 0

    run(main())


GREETINGS = {
    "no text": b"*4\r\n$5\r\nshard\r\n$1\r\nb\r\n$11\r\nincarnation\r\n$1\r\n\xff\r\n",
    "no names": b"*4\r\n*1\r\n:1\r\n$1\r\nb\r\n*0\r\n:1\r\n",
    "another incarnation": GREETING.replace(b":1\r\n", b":2\r\n"),
    "a status": b"+OK\r\n",
}


@pytest.mark.parametrize("greeting", GREETINGS.values(), ids=GREETINGS)
def test_a_stranger_at_a_peers_address_is_no_reason_to_end(greeting: bytes) -> None:
    """Whatever it says: the stream waits for the peer, a question gets no answer, and the process goes on."""

    async def main() -> None:
        async with world() as here:
            here.peer.greeting = greeting
            here.follow()
            with pytest.raises(UnavailableError):
                await Link.open(here.info, Credentials())
            peers = LinkPeers(Credentials(), here.fall)
            answers: list[object] = []
            peers.ask(here.info, (b"SC.DRAIN",), 5_000, answers.append)
            await until(lambda: bool(answers or here.fell))
            assert answers == [None]
            here.peer.greeting = GREETING
            await until(lambda: here.settled == len(KEYS))
            peers.close()

    run(main())


def test_what_must_not_fail_in_replication_ends_the_process() -> None:
    """A change that could not be applied, and a step that comes later: neither ends unseen."""

    async def main() -> None:
        async with world() as here:
            with pytest.raises(KeyError, match="poison"):
                here.replication.failed("a change could not be applied", KeyError("poison"))

            def poison() -> None:
                raise KeyError("later")

            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, __: None)
            here.replication.after(1, poison)
            peers = LinkPeers(Credentials(), here.fall)
            peers.after(1, poison)
            await until(lambda: len(here.fell) == 3)
            here.fell.clear()

    run(main())
