"""A shard's links against a peer on a real socket that answers too little, too much, garbage, or not at all."""

from __future__ import annotations

import asyncio

import pytest

from stratacache.client.view import ShardInfo, View
from stratacache.cluster.links import Credentials, Link
from stratacache.cluster.peers import LinkPeers
from stratacache.node.errors import UnavailableError
from tests.cluster.stream_world import GREETING, KEYS, run, until, world

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
