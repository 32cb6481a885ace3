"""Keys that have left memory and are only on disk are keys like all others: counted, listed, found."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.wire.processes import running_node
from tests.wire.raw import Raw, request

pytestmark = pytest.mark.server

KEYS = 3000
VALUE = b"x" * 1000


@pytest.fixture(scope="module")
def small_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A node whose memory holds a third of the keys."""
    directory = tmp_path_factory.mktemp("l3")
    with running_node("--l1-mib", "1", "--l2-mib", "0", "--data-dir", str(directory)) as (_, port):
        yield port


def fill(client: Raw) -> None:
    """Put the keys, every other with an expiry, and delete some."""
    client.run("FLUSHALL")
    for start in range(0, KEYS, 100):
        numbers = range(start, start + 100)
        client.send(b"".join(request("SET", f"k{n}", VALUE, *(("EX", 9000) if n % 2 else ())) for n in numbers))
        assert [client.read() for _ in numbers] == [("+", "OK")] * 100
    assert client.run("DEL", *[f"k{n}" for n in range(50)]) == (":", "50")


def scanned(client: Raw, *options: str | int) -> set[bytes]:
    """All keys that a scan lists."""
    found: set[bytes] = set()
    cursor = b"0"
    while True:
        cursor, keys = (value for _, value in client.run("SCAN", cursor, *options)[1])
        found.update(key for _, key in keys)
        if cursor == b"0":
            return found


def until_counted(client: Raw, text: bytes) -> None:
    """Wait until INFO has a line: while the disk catches up, counts may be a few off."""
    until = time.monotonic() + 10
    while text not in client.run("INFO", "keyspace")[1]:
        assert time.monotonic() < until, client.run("INFO", "keyspace")
        time.sleep(0.05)


def test_keys_on_disk_are_counted_and_listed_as_redis_does(small_port: int, redis_server: Raw) -> None:
    """SCAN, KEYS, DBSIZE, INFO and reads agree with a redis-server that holds the same keys in memory."""
    with Raw(small_port) as node:
        for client in (node, redis_server):
            fill(client)
            until_counted(client, b"keys=2950,expires=1475,")
        assert node.run("DBSIZE") == redis_server.run("DBSIZE") == (":", str(KEYS - 50))
        assert scanned(node) == scanned(redis_server)
        assert scanned(node, "MATCH", "k12?", "COUNT", 500) == scanned(redis_server, "MATCH", "k12?")
        assert scanned(node, "TYPE", "list") == set()
        for pattern in ("*", "k29[0-4]?", "nope*"):
            ours, theirs = node.run("KEYS", pattern)[1], redis_server.run("KEYS", pattern)[1]
            assert sorted(ours) == sorted(theirs)
        some = [f"k{n}" for n in range(0, KEYS, 37)]
        assert node.run("EXISTS", *some) == redis_server.run("EXISTS", *some)
        assert node.run("MGET", *some) == redis_server.run("MGET", *some)
        node.run("FLUSHALL")
        assert node.run("DBSIZE") == (":", "0")
        assert scanned(node) == set()
