"""Pushes: SC.WATCH for near caches, CLIENT TRACKING for Redis clients, and leases."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stratacache.node.config import NodeConfig
from stratacache.node.engine import MultiLevelCache
from stratacache.node.resp.commands import tracking
from stratacache.node.resp.config import ServerConfig
from stratacache.node.resp.server import NodeServer
from tests.wire.inprocess import InProcess, Transport
from tests.wire.processes import running_node
from tests.wire.raw import Raw, request


def pushes(*names: str) -> list[Any]:
    return [("$", name.encode()) for name in names]


def resp3(port: int) -> Raw:
    client = Raw(port)
    assert client.run("HELLO", 3)[0] == "%"
    return client


def inv(seq: int, kind: str, *names: str) -> Any:
    return (">", [("$", b"sc.inv"), (":", str(seq)), ("$", kind.encode()), ("*", pushes(*names))])


def test_watch_hears_of_every_change_without_gaps() -> None:
    """Puts, deletes, expiry changes, tags, namespaces and clear arrive in order, numbered by ones."""
    node = InProcess()
    watcher, seen = node.connect()
    watcher.data_received(request("HELLO", 3) + request("SC.WATCH"))
    assert seen.written.endswith(b"+OK\r\n")
    writer, _ = node.connect()
    steps = [
        (("SET", "a", "1"), b"keys", [b"a"]),
        (("SC.PUT", "n:b", "2", "TAGS", 1, "t"), b"keys", [b"n:b"]),
        (("SC.EXPIRE", "a", 5000), b"keys", [b"a"]),
        (("SC.MPUT", bytes(2), "x", "1", "y", "2"), b"keys", [b"x", b"y"]),
        (("DEL", "a"), b"keys", [b"a"]),
        (("SC.INVTAGS", "t", "u"), b"tags", [b"t", b"u"]),
        (("SC.INVNS", "n"), b"namespace", [b"n"]),
        (("FLUSHALL",), b"all", []),
    ]
    for number, (words, kind, names) in enumerate(steps, start=1):
        seen.written.clear()
        writer.data_received(request(*words))
        items = b"".join(b"$%d\r\n%b\r\n" % (len(name), name) for name in names)
        expected = b">4\r\n$6\r\nsc.inv\r\n:%d\r\n$%d\r\n%b\r\n*%d\r\n%b" % (number, len(kind), kind, len(names), items)
        assert seen.written == expected, words


def test_watchers_forget_all_when_keys_move_away() -> None:
    """Their next owner does not know them."""
    node = InProcess()
    watcher, seen = node.connect()
    watcher.data_received(request("HELLO", 3) + request("SC.WATCH"))
    seen.written.clear()
    node.server.keys_moved()
    assert seen.written == b">4\r\n$6\r\nsc.inv\r\n:1\r\n$3\r\nall\r\n*0\r\n"


def test_a_push_is_written_before_the_acknowledgement() -> None:
    """Who learns that an invalidation is done knows that near caches on this shard have been told."""
    node = InProcess()
    order: list[str] = []

    class Noting(Transport):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def write(self, data: Any) -> None:
            order.append(self.name)
            super().write(data)

    watcher, _ = node.connect(Noting("push"))
    writer, _ = node.connect(Noting("answer"))
    watcher.data_received(request("HELLO", 3) + request("SC.WATCH"))
    order.clear()
    writer.data_received(request("SET", "a", "1") + request("SC.INVTAGS", "t"))
    assert order == ["push", "answer"]


def test_heartbeats_and_silence_of_a_suspended_shard() -> None:
    """Beats carry the sequence and the epoch; a shard that may not serve sends none and takes no new watcher."""
    node = InProcess()
    node.server.set_view(b"view", 7)
    watcher, seen = node.connect()
    watcher.data_received(request("HELLO", 3) + request("SC.WATCH"))
    seen.written.clear()
    node.clock.advance(300)
    node.server.watchers.tick(node.engine.now_ms())
    node.server.flush_pushes()
    assert seen.written == b">3\r\n$7\r\nsc.beat\r\n:0\r\n:7\r\n"
    seen.written.clear()
    node.server.serve_until_ms = node.engine.now_ms()
    node.clock.advance(300)
    node.server.watchers.tick(node.engine.now_ms())
    node.server.flush_pushes()
    assert not seen.written
    late, answer = node.connect()
    late.data_received(request("HELLO", 3) + request("SC.WATCH"))
    assert answer.written.endswith(b"-SUSPENDED 7\r\n")


def test_a_suspended_shard_refuses_data_and_answers_the_rest() -> None:
    """Past its serving lease a shard gives out nothing that it holds, on the short path neither."""
    node = InProcess()
    client, answers = node.connect()
    client.data_received(request("SET", "a", "1") + request("GET", "a"))
    node.server.serve_until_ms = node.engine.now_ms()
    answers.written.clear()
    for words in (("GET", "a"), ("SET", "a", "2"), ("SC.GET", "a"), ("DEL", "a"), ("SC.INVTAGS", "t"), ("DBSIZE",)):
        client.data_received(request(*words))
    assert answers.written == b"-SUSPENDED 0\r\n" * 6
    answers.written.clear()
    client.data_received(request("PING") + request("SC.VIEW") + request("SC.STATS") + request("INFO"))
    assert b"-SUSPENDED" not in answers.written
    node.server.serve_until_ms = node.engine.now_ms() + 1000
    node.server.hold_invalidations = True
    answers.written.clear()
    client.data_received(request("GET", "a") + request("SC.INVNS", "n") + request("SC.CLEAR") + request("DEL", "a"))
    assert answers.written == b"$1\r\n1\r\n-SUSPENDED 0\r\n-SUSPENDED 0\r\n:1\r\n"


def test_getx_carries_the_push_sequence() -> None:
    """A reply that was read before a push has a smaller number than the push."""
    node = InProcess()
    watcher, _ = node.connect()
    watcher.data_received(request("HELLO", 3) + request("SC.WATCH"))
    client, answers = node.connect()
    client.data_received(request("SET", "a", "1"))
    answers.written.clear()
    client.data_received(request("SC.GETX", "a") + request("DEL", "a"))
    assert b"\r\n:1\r\n*0\r\n" in answers.written
    assert node.server.watchers.seq == 2


def invalidate(*keys: str) -> Any:
    return (">", [("$", b"invalidate"), ("*", pushes(*keys))])


def test_tracking_by_key_tag_namespace_and_flush(node_port: int) -> None:
    """A client that has read a key is told once when it changes, whatever took it."""
    with resp3(node_port) as reader, Raw(node_port) as writer:
        writer.run("FLUSHALL")
        reader.run("CLIENT", "TRACKING", "ON")
        for key, words in {
            "k": ("SET", "k", "2"),
            "docs:t": ("SC.INVTAGS", "tag"),
            "docs:n": ("SC.INVNS", "docs"),
            "d": ("DEL", "d"),
            "e": ("EXPIRE", "e", 100),
        }.items():
            writer.run("SC.PUT", key, "1", "TAGS", 1, "tag")
            assert reader.run("GET", key) == ("$", b"1")
            writer.run(*words)
            assert reader.read() == invalidate(key)
        reader.run("GET", "nothing")
        writer.run("SET", "nothing", "1")
        assert reader.read() == invalidate("nothing")
        reader.run("GET", "nothing")
        writer.run("FLUSHALL")
        assert reader.read() == (">", [("$", b"invalidate"), ("_", "")])
        assert reader.run("PING") == ("+", "PONG")


def test_tracking_hears_of_expiry(node_port: int) -> None:
    """An entry that reaches its age is reported without anybody asking for it."""
    with resp3(node_port) as reader:
        reader.run("CLIENT", "TRACKING", "ON", "NOLOOP")
        reader.run("SET", "old", "1", "PX", 40)
        reader.run("GET", "old")
        assert reader.read() == invalidate("old")


def test_tracking_hears_of_eviction() -> None:
    """An entry that has to make room is reported."""
    node = InProcess(node=NodeConfig(l1_bytes_max=100_000))
    reader, seen = node.connect()
    reader.data_received(request("HELLO", 3) + request("CLIENT", "TRACKING", "ON"))
    writer, _ = node.connect()
    writer.data_received(request("SET", "first", "1"))
    reader.data_received(request("GET", "first"))
    seen.written.clear()
    for number in range(300):
        writer.data_received(request("SET", f"k{number}", b"x" * 1000))
    assert b"$10\r\ninvalidate\r\n*1\r\n$5\r\nfirst\r\n" in seen.written
    node.engine.validate()


def test_tracking_modes(node_port: int) -> None:
    """NOLOOP, BCAST with prefixes, OPTIN with CACHING, REDIRECT."""
    with resp3(node_port) as reader, Raw(node_port) as writer, resp3(node_port) as other:
        reader.run("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "user:", "NOLOOP")
        reader.run("SET", "user:1", "mine")
        writer.run("SET", "item:1", "x")
        writer.run("SET", "user:2", "x")
        assert reader.read() == invalidate("user:2")
        reader.run("CLIENT", "TRACKING", "OFF")
        reader.run("CLIENT", "TRACKING", "ON", "OPTIN")
        reader.run("GET", "user:1")
        reader.run("CLIENT", "CACHING", "YES")
        reader.run("GET", "user:2")
        writer.run("SET", "user:1", "y")
        writer.run("SET", "user:2", "y")
        assert reader.read() == invalidate("user:2")
        reader.run("CLIENT", "TRACKING", "OFF")
        number = other.run("CLIENT", "ID")[1]
        assert reader.run("CLIENT", "TRACKING", "ON", "REDIRECT", number) == ("+", "OK")
        reader.run("GET", "user:1")
        writer.run("SET", "user:1", "z")
        assert other.read() == invalidate("user:1")


def test_tracking_broadcast_gathers_the_keys_of_a_prefix(node_port: int) -> None:
    """Keys that change together come in one message for each prefix; keys read before broadcasting are not reported."""
    with resp3(node_port) as reader, Raw(node_port) as writer:
        reader.run("CLIENT", "TRACKING", "ON")
        reader.run("GET", "read:before")
        reader.run("CLIENT", "TRACKING", "OFF")
        reader.run("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "a:", "PREFIX", "b:")
        writer.run("MSET", "read:before", 0, "a:1", 1, "b:1", 1, "a:2", 1, "c:1", 1)
        assert reader.read() == invalidate("a:1", "a:2")
        assert reader.read() == invalidate("b:1")
        assert reader.run("PING") == ("+", "PONG")


def test_tracking_tells_the_maker_behind_its_replies() -> None:
    """What a client read before its own change, in one pipeline, comes before the news that it is out of date."""
    node = InProcess()
    client, seen = node.connect()
    client.data_received(request("HELLO", 3) + request("CLIENT", "TRACKING", "ON") + request("SET", "a", "1"))
    seen.written.clear()
    client.data_received(request("GET", "a") + request("SET", "a", "2"))
    news = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n"
    assert seen.written == b"$1\r\n1\r\n+OK\r\n" + news
    seen.written.clear()
    client.data_received(request("GET", "a") + request("SET", "a", "3") + request("QUIT"))
    assert seen.written == b"$1\r\n2\r\n+OK\r\n" + news + b"+OK\r\n"


def test_tracking_tells_of_a_flush_also_its_maker() -> None:
    """NOLOOP spares a client its own keys, but not the news that everything is gone."""
    node = InProcess()
    client, seen = node.connect()
    client.data_received(request("HELLO", 3) + request("CLIENT", "TRACKING", "ON", "NOLOOP") + request("GET", "a"))
    seen.written.clear()
    client.data_received(request("SET", "a", "1") + request("FLUSHALL"))
    assert seen.written == b"+OK\r\n+OK\r\n>2\r\n$10\r\ninvalidate\r\n_\r\n"


def test_tracking_redirected_to_resp2(node_port: int) -> None:
    """A RESP2 client hears of its keys on a second connection that has subscribed."""
    with Raw(node_port) as reader, Raw(node_port) as ear, Raw(node_port) as writer:
        number = ear.run("CLIENT", "ID")[1]
        assert ear.run("SUBSCRIBE", "__redis__:invalidate")[1][2] == (":", "1")
        assert ear.run("GET", "a")[1].startswith("ERR Can't execute 'get'")
        assert ear.run("PING") == ("*", pushes("pong", ""))
        reader.run("CLIENT", "TRACKING", "ON", "REDIRECT", number)
        reader.run("GET", "a")
        writer.run("SET", "a", "2")
        channel = ("$", b"__redis__:invalidate")
        assert ear.read() == ("*", [("$", b"message"), channel, ("*", pushes("a"))])
        writer.run("FLUSHALL")
        assert ear.read() == ("*", [("$", b"message"), channel, ("$", None)])


def test_tracking_table_is_bounded() -> None:
    """Past its limit the table makes room and tells who loses the key."""
    node = InProcess(tracked_keys_max=10)
    reader, seen = node.connect()
    reader.data_received(request("HELLO", 3) + request("CLIENT", "TRACKING", "ON"))
    for number in range(50):
        reader.data_received(request("GET", f"k{number}"))
    assert node.server.tracking.keys == 10
    assert seen.written.count(b"$10\r\ninvalidate") == 40
    reader.connection_lost(None)
    assert node.server.tracking.keys == 0
    assert node.engine.listener is None


def test_tracking_table_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long keys fill it sooner; what has left it, for whatever reason, counts no more."""
    monkeypatch.setattr(tracking, "TRACKED_BYTES_MAX", 200_000)
    node = InProcess()
    reader, seen = node.connect()
    reader.data_received(request("HELLO", 3) + request("CLIENT", "TRACKING", "ON"))
    for round_ in range(3):
        for number in range(10):
            reader.data_received(request("GET", b"%d" % number + b"k" * 60_000))
            assert node.server.tracking.keys <= 3
        assert seen.written.count(b"$10\r\ninvalidate") == 7 * (round_ + 1) + 3 * round_
        reader.data_received(request("DEL", *[b"%d" % number + b"k" * 60_000 for number in range(10)]))
        assert node.server.tracking.keys == 0


def test_tracking_clients_forget_when_the_shard_may_not_serve() -> None:
    """Others may have changed what they keep: they are told to forget all, once, and again when it ends once more."""

    async def main() -> None:
        engine = MultiLevelCache(NodeConfig())
        server = NodeServer(engine, ServerConfig())
        reader, writer = await asyncio.open_connection("127.0.0.1", (await server.start()).port)
        writer.write(request("SET", "k", 1) + request("HELLO", 3) + request("CLIENT", "TRACKING", "ON"))
        for _ in range(2):
            server.serve_until_ms = engine.now_ms() + 60_000
            writer.write(request("GET", "k"))
            await asyncio.wait_for(reader.readuntil(b"$1\r\n1\r\n"), 10)
            await asyncio.sleep(0)
            server.serve_until_ms = engine.now_ms()
            forget = b">2\r\n$10\r\ninvalidate\r\n_\r\n"
            assert await asyncio.wait_for(reader.readexactly(len(forget)), 10) == forget
            writer.write(request("GET", "k") + request("PING"))
            assert await asyncio.wait_for(reader.readuntil(b"+PONG\r\n"), 10) == b"-SUSPENDED 0\r\n+PONG\r\n"
            server.serve_until_ms = engine.now_ms() + 60_000
            while server._silent:
                await asyncio.sleep(0.005)
        writer.close()
        await server.stop(1)
        engine.close()

    asyncio.run(main())


def test_leases_over_the_wire() -> None:
    """One caller computes, another waits on its own connection only; a void lease stores nothing."""
    with running_node() as (_, port), Raw(port) as first, Raw(port) as second, Raw(port) as third:
        _, (state, (_, token)) = first.run("SC.LEASE", "k", 0, 10_000)
        assert state == ("$", b"LEASE")
        assert second.run("SC.MLEASE", 10_000, "k", "other")[1][0] == ("*", [("$", b"BUSY")])
        second.send(request("SC.LEASE", "k", 10_000, 10_000) + request("PING"))
        assert third.run("GET", "k") == ("$", None)
        assert first.run("SC.PUT", "k", "v", "LEASE", token) == ("+", "OK")
        assert second.read() == ("*", [("$", b"HIT"), (":", "0"), ("$", b"v")])
        assert second.read() == ("+", "PONG")
        _, (_, (_, token)) = first.run("SC.LEASE", "z", 0, 10_000)
        third.run("SC.INVALIDATE", "z")
        assert first.run("SC.PUT", "z", "old", "LEASE", token) == ("$", None)
        assert first.run("SC.LEASE", "k", 0, 1000, "REFRESH")[1][0] == ("$", b"LEASE")


def test_leases_end_with_their_connection() -> None:
    """Who waits for a caller that is gone gets the lease at once."""
    with running_node() as (_, port), Raw(port) as second:
        first = Raw(port)
        first.run("SC.LEASE", "k", 0, 100_000)
        second.send(request("SC.LEASE", "k", 9_000, 10_000))
        first.close()
        assert second.read()[1][0] == ("$", b"LEASE")
