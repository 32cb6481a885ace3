"""A shard's links to a peer far away: what moves is waited for, what moves no longer is noticed."""

from __future__ import annotations

import asyncio
import socket
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from stratacache.client.view import ShardInfo, View
from stratacache.cluster import forwarder, stream_links
from stratacache.cluster.links import Credentials, Link
from stratacache.cluster.peers import LinkPeers
from stratacache.node.errors import DeadlineError, UnavailableError
from stratacache.node.resp.keepalive import PEER
from tests.cluster.stream_world import GREETING, KEYS, World, run, until, world

QUIET_S = 0.3
LARGE = b"x" * 1_500_000


class Network:
    """A proxy before the peer, at so many bytes a second; what is on its way through it lies with who sends.

    What it has swallowed once it swallows for ever.
    """

    def __init__(self, port: int) -> None:
        self._behind = port
        self.bytes_a_second = 1e12
        self.holds_s = 0.0
        self.connections = 0
        self.swallowing: set[int] = set()
        self.port = 0

    def swallow(self) -> None:
        """Nothing comes through on the connections that there are, and nobody is told; new ones work."""
        self.swallowing |= set(range(self.connections))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, self.connections = self.connections, self.connections + 1
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self._behind)
        both = [
            asyncio.ensure_future(self._carry(number, reader, behind_writer)),
            asyncio.ensure_future(self._carry(number, behind_reader, writer)),
        ]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            behind_writer.close()
            writer.close()

    async def _carry(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(50_000):
                is_change = b"SC.REPL" in data
                await asyncio.sleep(len(data) / self.bytes_a_second + self.holds_s * is_change)
                if number not in self.swallowing:
                    writer.write(data)
                    await writer.drain()


@asynccontextmanager
async def far_away() -> AsyncIterator[tuple[World, Network]]:
    async with world() as here:
        network = Network(here.info.port)
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 50_000)
        server = await asyncio.start_server(network.serve, sock=listener, limit=50_000)
        here.info = replace(here.info, port=listener.getsockname()[1])
        try:
            yield here, network
        finally:
            await here.links.close()
            server.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for seconds."""
    monkeypatch.setattr(stream_links, "SILENT_S", QUIET_S)


def test_a_stream_whose_packets_vanish_is_opened_anew() -> None:
    """A firewall forgets the connection, or a proxy hangs, and the peer serves: changes go on within seconds."""

    async def main() -> None:
        async with far_away() as (here, network):
            here.follow()
            await until(lambda: here.settled == len(KEYS))
            network.swallow()
            late = here.outbox.send({"b": (b"DEL", b"late")}, (b"late",))
            await until(late.future.done)
            assert here.peer.keys == [*KEYS, b"late"]
            assert network.connections > 1

    run(main())


def test_a_large_change_takes_as_long_as_its_bytes_move(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many times the silence after which a stream is given up. Given up each time, it would never arrive."""
    monkeypatch.setattr(stream_links, "SILENT_MAX_S", QUIET_S)

    async def main() -> None:
        async with far_away() as (here, network):
            here.follow()
            await until(lambda: here.settled == len(KEYS))
            network.bytes_a_second = 2_500_000
            large = here.outbox.send({"b": (b"PUT", b"large", LARGE)}, (b"large",))
            await until(large.future.done)
            assert here.peer.keys == [*KEYS, b"large"]

    run(main())


def test_a_large_change_arrives_also_where_nobody_sees_it_move() -> None:
    """A proxy takes it at once and passes it on later: more patience each time, until there is an answer."""

    async def main() -> None:
        async with far_away() as (here, network):
            here.follow()
            await until(lambda: here.settled == len(KEYS))
            network.holds_s = 2.5 * QUIET_S
            change = here.outbox.send({"b": (b"PUT", b"held", b"x")}, (b"held",))
            await until(change.future.done)
            assert here.peer.keys == [*KEYS, b"held"]
            assert network.connections > 2

    run(main())


def test_a_large_answer_is_waited_for_as_long_as_its_bytes_move() -> None:
    """What a shard that returns asks the others for, and what moves with a change of the ring."""
    entry = b"*1\r\n*5\r\n:0\r\n$%d\r\n%b\r\n:-1\r\n$3\r\n1.0\r\n$0\r\n\r\n" % (len(LARGE), LARGE)
    batch = b"*1\r\n$%d\r\n%b\r\n" % (len(LARGE), LARGE)

    async def main() -> None:
        async with far_away() as (here, network):
            here.follow()
            await until(lambda: here.settled == len(KEYS))
            network.bytes_a_second = 2_500_000
            peers = LinkPeers(Credentials(), here.fall)
            pulled: list[Any] = []
            drained: list[Any] = []
            for _ in range(5):  # a machine that stands still for a moment may cost one, never all
                here.peer.says = {b"SC.PULL": entry, b"SC.DRAIN": batch}
                pull = here.replication.ask("b", (b"SC.PULL", b"k"))
                drained.clear()
                peers.ask(here.info, (b"SC.DRAIN",), int(QUIET_S * 1000), drained.append)
                await until(lambda: pull.done() and bool(drained))  # noqa: B023 - waited for in this turn
                if drained != [None] and pull.exception() is None:
                    pulled = pull.result()
                    break
            assert drained == [[LARGE]]
            assert pulled[0][1] == LARGE
            peers.close()

    run(main())


def test_a_plain_client_gets_a_large_value_through_another_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hop takes as long as the bytes move; it gives up on an owner that is silent."""
    monkeypatch.setattr(forwarder, "CALL_DEADLINE_S", QUIET_S)

    async def main() -> None:
        async with far_away() as (here, network):
            hop = forwarder.RingForwarder("a", Credentials())
            hop.set_view(View(epoch=1, shards=(ShardInfo(id="a", incarnation="1"), here.info)))
            network.bytes_a_second = 2_500_000
            value: object = None
            for _ in range(5):  # as above
                here.peer.says = {b"GET": b"$%d\r\n%b\r\n" % (len(LARGE), LARGE)}
                with suppress(UnavailableError):
                    value = await hop.call("b", (b"GET", b"k"))
                    break
            assert value == LARGE
            with pytest.raises(DeadlineError):
                await hop.call("b", (b"GET", b"k"))
            await hop.close()

    run(main())


def test_an_answer_that_stops_coming_is_given_up() -> None:
    """Half of it, and then nothing: who asked goes on without."""

    async def main() -> None:
        async with world() as here:
            here.follow()
            await until(lambda: here.settled == len(KEYS))
            peers = LinkPeers(Credentials(), here.fall)
            drained: list[Any] = []
            here.peer.says = {b"SC.PULL": b"*1\r\n*5\r\n:0\r\n$100\r\nhalf", b"SC.DRAIN": b"*3\r\n:1\r\n"}
            pull = here.replication.ask("b", (b"SC.PULL", b"k"))
            peers.ask(here.info, (b"SC.DRAIN",), int(QUIET_S * 1000), drained.append)
            await until(lambda: pull.done() and bool(drained))
            assert isinstance(pull.exception(), UnavailableError)
            assert drained == [None]
            peers.close()

    run(main())


def test_what_a_peer_does_not_read_is_not_copied() -> None:
    """It lies in the stream once; the connection only refers to it."""

    async def main() -> None:
        gone = asyncio.Event()

        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(GREETING)
            await gone.wait()
            writer.close()

        server = await asyncio.start_server(greet, "127.0.0.1", 0, limit=50_000)
        info = ShardInfo(id="b", host="127.0.0.1", port=server.sockets[0].getsockname()[1], incarnation="1")
        link = await Link.open(info, Credentials())
        payloads = [bytes([number]) * 1_000_000 for number in range(40)]
        tracemalloc.start()
        calls = [link.call((b"SC.REPL", b"1", b"PUT", payload)) for payload in payloads]
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < len(payloads[0])
        link.close()
        assert all(isinstance(call.exception(), UnavailableError) for call in calls)
        gone.set()
        server.close()

    run(main())


def test_the_kernel_looks_after_links_on_which_nothing_is_sent() -> None:
    """Else one to a machine that has vanished would stand for ever, and a firewall forget one that is well."""

    async def main() -> None:
        async with world() as here:
            link = await Link.open(here.info, Credentials())
            sock = link._transport.get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == PEER.idle_s
            link.close()

    run(main())
