"""A plain client on any shard sees the whole cache; a native one is told where to go; nothing travels two hops."""

from __future__ import annotations

import asyncio
import threading
import zlib
from collections.abc import Iterator, Sequence

import hiredis
import pytest

from stratacache.node.config import NodeConfig
from stratacache.node.engine import MultiLevelCache
from stratacache.node.errors import UnavailableError
from stratacache.node.resp.config import ServerConfig
from stratacache.node.resp.replies import CommandError
from stratacache.node.resp.server import Identity, NodeServer
from tests.wire.raw import Raw, request

SHARDS = ("shard-0", "shard-1", "shard-2")


def owner_of(key: bytes) -> str:
    return SHARDS[zlib.crc32(key) % len(SHARDS)]


class Ring:
    """A forwarder over a fixed ring: a native connection for each call."""

    def __init__(self, own: str, ports: dict[str, int], down: set[str]) -> None:
        self.own = own
        self.ports = ports
        self.down = down
        self.calls: list[tuple[str, bytes]] = []

    def reader(self, key: bytes) -> str | None:
        return self.owner(key)

    def owner(self, key: bytes) -> str | None:
        owner = owner_of(key)
        return None if owner == self.own else owner

    def shards(self) -> Sequence[str]:
        return [shard for shard in SHARDS if shard != self.own]

    async def call(self, shard: str, argv: Sequence[bytes]) -> object:
        self.calls.append((shard, argv[0].upper()))
        if shard in self.down:
            raise UnavailableError(f"{shard} does not answer")
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[shard])
        try:
            writer.write(request("SC.HELLO", 1) + request(*argv))
            parser = hiredis.Reader(notEnoughData=Ellipsis)
            replies: list[object] = []
            while len(replies) < 2:
                parser.feed(await reader.read(65536))
                while (reply := parser.gets()) is not Ellipsis:
                    replies.append(reply)
        finally:
            writer.close()
        if isinstance(replies[1], hiredis.ReplyError):
            raise CommandError(str(replies[1]))
        return replies[1]


class Cluster:
    """Three servers on one loop in a thread."""

    def __init__(self) -> None:
        self.ports: dict[str, int] = {}
        self.down: set[str] = set()
        self.rings: dict[str, Ring] = {}
        self.servers: dict[str, NodeServer] = {}
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self.loop).result(10)

    async def _start(self) -> None:
        for shard in SHARDS:
            engine = MultiLevelCache(NodeConfig(), post=self.loop.call_soon_threadsafe)
            ring = self.rings[shard] = Ring(shard, self.ports, self.down)
            server = NodeServer(engine, ServerConfig(), ring, Identity(shard=shard, incarnation=1))
            self.servers[shard] = server
            self.ports[shard] = (await server.start()).port

    async def _stop(self) -> None:
        for server in self.servers.values():
            await server.stop(2)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


@pytest.fixture(scope="module")
def cluster_of_three() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.close()


@pytest.fixture
def cluster(cluster_of_three: Cluster) -> Cluster:
    cluster_of_three.down.clear()
    for server in cluster_of_three.servers.values():
        server.engine.clear()
    return cluster_of_three


KEYS = [f"k{number}" for number in range(30)]


def test_any_shard_serves_every_key(cluster: Cluster) -> None:
    """What is written through one shard is read through another, and lies on its owner only."""
    with Raw(cluster.ports["shard-0"]) as first, Raw(cluster.ports["shard-1"]) as second:
        for key in KEYS:
            assert first.run("SET", key, f"v{key}", "EX", 100) == ("+", "OK")
            assert second.run("GET", key) == ("$", f"v{key}".encode())
            assert second.run("TTL", key)[0] == ":"
            assert second.run("TYPE", key) == ("+", "string")
            assert first.run("INCR", key) == ("-", "ERR value is not an integer or out of range")
            assert first.run("SET", key, "OK", "GET") == ("$", f"v{key}".encode())
            assert second.run("SET", key, "x", "get") == ("$", b"OK")
        for shard, server in cluster.servers.items():
            assert {key for key in KEYS if owner_of(key.encode()) == shard} == {k.decode() for k in server.engine.table}


def test_many_key_commands_span_shards(cluster: Cluster) -> None:
    """MSET, MGET, EXISTS, TOUCH, DEL are split by owner; replies keep the order of the keys."""
    with Raw(cluster.ports["shard-2"]) as client:
        assert client.run("MSET", *[word for key in KEYS for word in (key, key.upper())]) == ("+", "OK")
        expected = [("$", key.upper().encode()) for key in KEYS]
        assert client.run("MGET", *KEYS) == ("*", expected)
        assert client.run("MGET", "k1", "nope", "k0", "k1") == (
            "*",
            [expected[1], ("$", None), expected[0], expected[1]],
        )
        assert client.run("EXISTS", *KEYS, "nope", "k0") == (":", "31")
        assert client.run("TOUCH", *KEYS) == (":", "30")
        client.run("SC.PUT", "k2", "K2", "CODEC", 7)
        found = client.run("SC.MGET", *KEYS[:5], "nope")[1]
        assert found == [("$", b"\0\0\7\0\0\0"), *expected[:5], ("$", None)]
        assert client.run("DEL", *KEYS[:10]) == (":", "10")
        assert client.run("UNLINK", *KEYS) == (":", "20")
        client.run("HELLO", 3)
        assert client.run("MGET", *KEYS[:3]) == ("*", [("_", "")] * 3)


def test_commands_about_everything(cluster: Cluster) -> None:
    """DBSIZE, KEYS, SCAN and FLUSHALL cover all shards, from any of them."""
    with Raw(cluster.ports["shard-1"]) as client:
        client.run("MSET", *[word for key in KEYS for word in (key, "v")])
        assert client.run("DBSIZE") == (":", "30")
        assert sorted(key.decode() for _, key in client.run("KEYS", "k*")[1]) == sorted(KEYS)
        found: list[str] = []
        cursor = b"0"
        for step in range(100):
            with Raw(cluster.ports[SHARDS[step % 3]]) as other:  # a cursor is good on every shard
                _, ((_, cursor), (_, keys)) = other.run("SCAN", cursor, "COUNT", 3, "MATCH", "k*")
            found += [key.decode() for _, key in keys]
            if cursor == b"0":
                break
        assert sorted(found) == sorted(KEYS)
        assert client.run("FLUSHALL") == ("+", "OK")
        assert client.run("DBSIZE") == (":", "0")
        assert not any(len(server.engine) for server in cluster.servers.values())


def test_replies_keep_their_order(cluster: Cluster) -> None:
    """A pipeline that mixes local and remote keys is answered in order, and holds up nobody else."""
    with Raw(cluster.ports["shard-0"]) as client:
        client.send(b"".join(request("SET", key, key) + request("GET", key) for key in KEYS) + request("PING"))
        for key in KEYS:
            assert client.read() == ("+", "OK")
            assert client.read() == ("$", key.encode())
        assert client.read() == ("+", "PONG")


def test_transactions_reach_other_shards(cluster: Cluster) -> None:
    """EXEC runs its commands in order, wherever their keys are."""
    with Raw(cluster.ports["shard-0"]) as client:
        client.run("MULTI")
        for key in KEYS[:4]:
            client.run("SET", key, 1)
            client.run("INCR", key)
        assert client.run("EXEC") == ("*", [("+", "OK"), (":", "2")] * 4)


def test_half_a_pair_is_refused_as_a_whole(cluster: Cluster) -> None:
    """An MSET whose last key has no value changes nothing on any shard."""
    with Raw(cluster.ports["shard-0"]) as client:
        words = [word for key in KEYS for word in (key, "v")]
        assert client.run("MSET", *words[:-1]) == ("-", "ERR wrong number of arguments for 'mset' command")
        assert client.run("EXISTS", *KEYS) == (":", "0")


def test_an_error_elsewhere_is_one_reply_of_a_transaction(cluster: Cluster) -> None:
    """What another shard refuses, or does not answer, stands in its place; the commands behind it run."""
    own, near, far = (next(key for key in KEYS if owner_of(key.encode()) == shard) for shard in SHARDS)
    cluster.down.add("shard-2")
    with Raw(cluster.ports["shard-0"]) as client:
        for words in (
            ("MULTI",),
            ("SET", near, "text"),
            ("INCR", near),
            ("SET", own, 1),
            ("GET", far),
            ("GET", near),
            ("EXPIRE", near, "x"),
            ("INCR", own),
        ):
            client.run(*words)
        kind, replies = client.run("EXEC")
        assert kind == "*"
        assert replies[3][1].startswith("UNAVAILABLE")
        assert replies[:3] + replies[4:] == [
            ("+", "OK"),
            ("-", "ERR value is not an integer or out of range"),
            ("+", "OK"),
            ("$", b"text"),
            ("-", "ERR value is not an integer or out of range"),
            (":", "2"),
        ]


def test_keys_of_other_owners_are_recorded_or_refused(cluster: Cluster) -> None:
    """SC.INVKEYS removes what is owned here and hands on the rest; with nobody to take it, nothing is acknowledged."""
    server = cluster.servers["shard-0"]
    own = next(key for key in KEYS if owner_of(key.encode()) == "shard-0")
    foreign = next(key for key in KEYS if owner_of(key.encode()) == "shard-1")
    owed: list[Sequence[bytes]] = []
    with Raw(cluster.ports["shard-0"]) as client:
        client.run("SC.HELLO", 1)
        client.run("SC.PUT", own, "v")
        kind, text = client.run("SC.INVKEYS", foreign, own)
        assert kind == "-"
        assert text.startswith("UNAVAILABLE ")
        server.owe = owed.append
        try:
            assert client.run("SC.INVKEYS", foreign, own) == (":", "1")
            assert client.run("SC.INVKEYS", foreign) == (":", "0")
        finally:
            server.owe = None
        assert owed == [[foreign.encode()]] * 2
        assert client.run("SC.INVKEYS", own) == (":", "0")


def test_native_clients_are_told_where_to_go(cluster: Cluster) -> None:
    """After SC.HELLO a foreign key is MOVED with the epoch, never forwarded; commands about everything stay here."""
    cluster.servers["shard-0"].set_view(b"view", 9)
    foreign = next(key for key in KEYS if owner_of(key.encode()) == "shard-1")
    own = next(key for key in KEYS if owner_of(key.encode()) == "shard-0")
    ring = cluster.rings["shard-0"]
    with Raw(cluster.ports["shard-0"]) as client:
        client.run("SC.HELLO", 1)
        ring.calls.clear()
        for words in (("SC.GET", foreign), ("GET", foreign), ("SC.PUT", foreign, "v"), ("SC.MGET", own, foreign)):
            assert client.run(*words) == ("-", "MOVED 9 shard-1")
        assert client.run("SC.MPUT", bytes(2), own, "v", foreign, "v") == ("-", "MOVED 9 shard-1")
        assert client.run("SC.PUT", own, "v") == ("+", "OK")
        assert client.run("DBSIZE") == (":", "1")
        assert client.run("SC.CLEAR") == (":", "1")
        assert not ring.calls


def test_one_hop_only(cluster: Cluster) -> None:
    """Where two shards disagree about an owner the client gets an error, not a call that goes in circles."""
    wrong = next(key for key in KEYS if owner_of(key.encode()) == "shard-1")
    ring = cluster.rings["shard-0"]
    for each in cluster.rings.values():
        each.calls.clear()
    original = ring.owner
    ring.owner = lambda key: "shard-2" if key == wrong.encode() else original(key)  # type: ignore[method-assign]
    try:
        with Raw(cluster.ports["shard-0"]) as client:
            kind, text = client.run("GET", wrong)
            assert kind == "-"
            assert text.startswith("UNAVAILABLE the owner of the key is just changing")
    finally:
        del ring.owner
    assert [len(each.calls) for each in cluster.rings.values()] == [1, 0, 0]


def test_a_shard_that_is_down_is_an_error_not_a_miss(cluster: Cluster) -> None:
    """Keys of other shards go on; its own keys, and whatever must ask it, fail by name."""
    with Raw(cluster.ports["shard-0"]) as client:
        client.run("MSET", *[word for key in KEYS for word in (key, "v")])
        cluster.down.add("shard-1")
        for key in KEYS:
            reply = client.run("GET", key)
            if owner_of(key.encode()) == "shard-1":
                assert reply == ("-", "UNAVAILABLE shard-1 does not answer")
            else:
                assert reply == ("$", b"v")
        assert client.run("MGET", *KEYS)[0] == "-"
        assert client.run("DBSIZE")[0] == "-"
        assert client.run("FLUSHALL") == ("-", "INCOMPLETE shard-1")


def test_handed_out_entries_are_asked_for_when_the_table_is_not_owned(cluster: Cluster) -> None:
    """While entries of others lie in the table, the short path asks the ring first."""
    server = cluster.servers["shard-0"]
    foreign = next(key for key in KEYS if owner_of(key.encode()) == "shard-1")
    server.engine.put(foreign.encode(), b"leftover")
    server.table_is_owned = False
    try:
        with Raw(cluster.ports["shard-0"]) as client:
            assert client.run("GET", foreign) == ("$", None)
            client.run("SC.HELLO", 1)
            assert client.run("SC.GET", foreign)[1].startswith("MOVED")
    finally:
        server.table_is_owned = True


@pytest.mark.parametrize("mode", [(), ("BCAST",), ("OPTIN",)], ids=str)
def test_what_other_shards_answer_is_not_kept_by_clients(cluster: Cluster, mode: tuple[str, ...]) -> None:
    """Nobody here hears of their changes: a tracking client is told at once to forget what it has read from there."""
    with Raw(cluster.ports["shard-0"]) as client, Raw(cluster.ports["shard-1"]) as other:
        for key in KEYS:
            other.run("SET", key, "old")
        client.run("HELLO", 3)
        client.run("CLIENT", "TRACKING", "ON", *mode)
        for key in KEYS:
            if mode == ("OPTIN",):
                assert client.run("CLIENT", "CACHING", "YES") == ("+", "OK")
            assert client.run("GET", key) == ("$", b"old")
            if owner_of(key.encode()) == "shard-0":
                assert client.run("PING") == ("+", "PONG")
                assert other.run("SET", key, "new") == ("+", "OK")
            assert client.read() == (">", [("$", b"invalidate"), ("*", [("$", key.encode())])])
        if mode == ("OPTIN",):
            assert client.run("MGET", *KEYS)[0] == "*"
        else:
            assert client.run("MGET", *KEYS)[0] == "*"
            told = [client.read()[1][1] for _ in KEYS]
            assert {found[0][1].decode() for _, found in told} == set(KEYS)
        assert client.run("PING") == ("+", "PONG")
