"""Puts that are acknowledged by the disk: in order, together, and never before their commit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stratacache.node.config import NodeConfig, WriteMode
from tests.wire.inprocess import InProcess
from tests.wire.raw import request

PUTS = 200


@pytest.fixture
def node(tmp_path: Path) -> Iterator[InProcess]:
    """A node that acknowledges a put after its commit."""
    config = NodeConfig(
        l1_bytes_max=16 << 20,
        l3_bytes_max=16 << 20,
        data_dir=tmp_path / "l3",
        l3_write_mode=WriteMode.WRITE_THROUGH,
    )
    served = InProcess(config, posts=True)
    yield served
    served.engine.validate()
    served.engine.close()


def commits(node: InProcess) -> int:
    """Transactions that the file has seen."""
    disk = node.engine.l3
    assert disk is not None
    assert disk._open is not None
    return disk._open.store.last_txn


def answered(node: InProcess, chunk: bytes, replies: bytes) -> None:
    """Send a chunk over a new connection and wait for exactly these replies."""
    client, seen = node.connect()
    client.data_received(chunk)
    node.loop.run_until(lambda: len(seen.written) >= len(replies))
    assert seen.written == replies
    assert client.idle
    client.connection_lost(None)


def test_the_puts_of_a_pipeline_are_committed_together(node: InProcess) -> None:
    """A pipeline costs a handful of commits, not one for each put; what it reads in between, it reads at once."""
    before = commits(node)
    chunk = b"".join(request("SET", f"k{n}", n) + request("GET", f"k{n}") for n in range(PUTS))
    answered(node, chunk, b"".join(b"+OK\r\n$%d\r\n%d\r\n" % (len(str(n)), n) for n in range(PUTS)))
    assert commits(node) - before <= PUTS // 10


def test_nothing_overtakes_a_put_that_waits(node: InProcess) -> None:
    """Replies, errors and refusals behind a put wait for it, in their order; QUIT closes behind the last of them."""
    client, seen = node.connect()
    puts = request("SC.PUT", "a", 1, "TAGS", 1, "t") + request("MSET", "b", 2, "c", 3)
    client.data_received(puts + request("FOO") + request("GET", "c") + request("SET", "d", 4, "NX") + request("QUIT"))
    assert not seen.written
    node.loop.run_until(lambda: seen.closed)
    lines = seen.written.split(b"\r\n")
    assert lines[:2] == [b"+OK", b"+OK"]
    assert lines[2].startswith(b"-ERR unknown command")
    assert lines[3:] == [b"$1", b"3", b"+OK", b"+OK", b""]


def test_client_reply_holds_from_its_own_place_on(node: InProcess) -> None:
    """A put before CLIENT REPLY OFF is answered although its commit comes later."""
    chunk = request("SET", "a", 1) + request("CLIENT", "REPLY", "OFF") + request("SET", "b", 2)
    answered(node, chunk + request("CLIENT", "REPLY", "ON") + request("GET", "b"), b"+OK\r\n+OK\r\n$1\r\n2\r\n")


def test_a_transaction_commits_together(node: InProcess) -> None:
    """EXEC waits once for all that it has put."""
    before = commits(node)
    chunk = b"".join(request("SET", f"k{n}", n) for n in range(PUTS))
    queued = b"+QUEUED\r\n" * PUTS
    replies = b"+OK\r\n" + queued + b"*%d\r\n" % PUTS + b"+OK\r\n" * PUTS
    answered(node, request("MULTI") + chunk + request("EXEC"), replies)
    assert commits(node) - before <= PUTS // 10


def test_a_client_that_leaves_takes_its_waiting_lease_along(node: InProcess) -> None:
    """A lease that was asked for behind a waiting put is not held by a client that is gone."""
    holder, answers = node.connect()
    holder.data_received(request("SC.LEASE", "k", 0, 60_000))
    waiter, seen = node.connect()
    waiter.data_received(request("SET", "a", 1) + request("SC.LEASE", "k", 60_000, 60_000))
    waiter.connection_lost(None)
    holder.connection_lost(None)
    third, granted = node.connect()
    third.data_received(request("SC.LEASE", "k", 0, 60_000))
    assert not seen.written
    assert granted.written[:8] == answers.written[:8]
    third.connection_lost(None)


@pytest.mark.parametrize("mode", [(), ("BCAST",)], ids=str)
def test_a_client_hears_of_its_own_puts_behind_their_replies(node: InProcess, mode: tuple[str, ...]) -> None:
    """As where nothing waits for the disk: the reply first, then the report; so for a transaction, too."""
    client, seen = node.connect()
    client.data_received(request("HELLO", 3) + request("CLIENT", "TRACKING", "ON", *mode))
    told = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"
    puts = (request("GET", "k") + request("SET", "k", 1)) * (1 if mode else 2)  # broadcasts are gathered
    transaction = request("MULTI") + request("GET", "k") + request("SET", "k", 2) + request("EXEC")
    for chunk, replies in (
        (puts, (b"_\r\n+OK\r\n" + told + b"$1\r\n1\r\n+OK\r\n" + told) if not mode else b"_\r\n+OK\r\n" + told),
        (transaction, b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n$1\r\n1\r\n+OK\r\n" + told),
    ):
        seen.written.clear()
        client.data_received(chunk + request("PING"))
        node.loop.run_until(lambda: seen.written.endswith(b"+PONG\r\n"))
        assert seen.written == replies + b"+PONG\r\n"
