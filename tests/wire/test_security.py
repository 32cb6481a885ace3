"""Nobody gets in unasked: protected mode, tokens, the read-only token. TLS: test_tls.py."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from stratacache.node.config import NodeConfig
from stratacache.node.engine import MultiLevelCache
from stratacache.node.errors import UsageError
from stratacache.node.resp import commands
from stratacache.node.resp.config import ServerConfig
from stratacache.node.resp.server import NodeServer
from stratacache.node.resp.table import COMMANDS, Access, Command
from tests.wire.processes import running_node
from tests.wire.raw import Raw, request

assert commands.__all__, "importing the commands fills the table"

OPEN = {"auth", "hello", "quit"}


def whole_table() -> list[Command]:
    return [
        found
        for parent in COMMANDS.values()
        for found in (list(parent.subcommands.values()) if parent.subcommands else [parent])
    ]


def example_of(found: Command) -> list[bytes]:
    """Words that fit the arity of a command."""
    words = found.name.encode().split(b"|")
    return words + [b"1"] * (abs(found.arity) - len(words))


@pytest.fixture(scope="module")
def guarded() -> Iterator[int]:
    """Port of a node with both tokens."""
    with running_node("--token", "s3cret", "--read-token", "look") as (_, port):
        yield port


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",
        "::",
        "0",
        "*",
        "10.1.2.3",
        "169.254.1.1",
        "fe80::1",
        "::ffff:10.1.2.3",
        "example.org",
        "localhost.",
        "",
    ],
)
def test_without_a_token_only_loopback(host: str) -> None:
    """A node that anybody could reach does not start without a token, unless it is said in so many words."""
    with pytest.raises(UsageError, match="refusing to listen"):
        ServerConfig(host=host).validate()
    ServerConfig(host=host, token="t").validate()
    ServerConfig(host=host, insecure=True).validate()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    """This machine alone may connect: no token is asked for."""
    ServerConfig(host=host).validate()


@pytest.mark.parametrize(
    "more", [("--bind", "0.0.0.0"), ("--bind", "::", "--token", ""), ("--bind", "localhost.localdomain")]
)
def test_the_process_refuses_to_start(more: tuple[str, ...]) -> None:
    """The command line says what is wrong and ends; an empty token is none, and a name is not believed."""
    command = [sys.executable, "-m", "stratacache.node", "--port", "0", *more]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 2
    assert f"refusing to listen on {more[1]} without a token" in ended.stderr


def test_localhost_must_be_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the name leads elsewhere, a node without a token does not stay."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("0.0.0.0", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

    async def start(**settings: Any) -> None:
        node = NodeServer(MultiLevelCache(NodeConfig()), ServerConfig(host="localhost", **settings))
        try:
            await node.start()
        finally:
            await node.stop(1)
            node.engine.close()

    with pytest.raises(UsageError, match=r"refusing to listen on 0\.0\.0\.0, which is localhost"):
        asyncio.run(start())
    asyncio.run(start(token="t"))


def test_before_auth_every_other_command_is_refused(guarded: int) -> None:
    """The whole table: nothing but AUTH, HELLO and QUIT is run for a stranger."""
    for found in whole_table():
        if found.name in OPEN:
            assert found.access is Access.NONE
            continue
        with Raw(guarded) as client:
            reply = client.run(*example_of(found))
            around = "EXECABORT Transaction discarded because of: " if found.name == "exec" else ""  # as Redis
            assert reply == ("-", f"{around}NOAUTH Authentication required."), found.name
            assert client.run("AUTH", "s3cret") == ("+", "OK")


def test_before_auth_hello_tells_nothing(guarded: int) -> None:
    """HELLO without AUTH is refused, with a wrong token too; QUIT works."""
    with Raw(guarded) as client:
        assert client.run("HELLO", 3)[1].startswith("NOAUTH HELLO must be called")
        assert client.run("HELLO", 3, "AUTH", "default", "wrong")[1].startswith("WRONGPASS")
        assert client.run("AUTH", "")[1].startswith("WRONGPASS")
        assert client.run("AUTH", "nobody", "s3cret")[1].startswith("WRONGPASS")
        assert client.run("QUIT") == ("+", "OK")
        assert client.closed_by_server()


def test_before_auth_requests_are_kept_small(guarded: int) -> None:
    """A stranger can't make the node gather a large request."""
    for data, text in ((b"*11\r\n", "multibulk"), (b"*2\r\n$16385\r\n", "bulk")):
        with Raw(guarded) as client:
            client.send(data)
            assert client.read() == ("-", f"ERR Protocol error: unauthenticated {text} length")
            assert client.closed_by_server()


def test_the_read_only_token(guarded: int) -> None:
    """The whole table: what writes or administers is refused, what reads is not."""
    with Raw(guarded) as client:
        assert client.run("AUTH", "look") == ("+", "OK")
        for found in whole_table():
            if found.name in OPEN or found.name in ("reset", "client|kill", "sc.watch", "multi", "exec", "discard"):
                continue
            reply = client.run(*example_of(found))
            refused = reply[0] == "-" and str(reply[1]).startswith("NOPERM")
            assert refused == (found.access is Access.FULL), found.name
            client.run("CLIENT", "REPLY", "ON")
        assert client.run("MULTI") == ("+", "OK")
        assert client.run("SET", "a", "1")[1].startswith("NOPERM")
        assert client.run("EXEC")[1].startswith("EXECABORT")
        assert client.run("AUTH", "s3cret") == ("+", "OK")
        assert client.run("SET", "a", "1") == ("+", "OK")
        assert client.run("RESET") == ("+", "RESET")
        assert client.run("GET", "a")[1].startswith("NOAUTH")


def test_auth_inside_a_pipeline(guarded: int) -> None:
    """What stands behind AUTH in the same packet is judged by it."""
    with Raw(guarded) as client:
        client.send(
            request("GET", "a") + request("AUTH", "s3cret") + request("PING") + request("SET", "b", "x" * 20_000)
        )
        assert [client.read()[0] for _ in range(4)] == ["-", "+", "+", "+"]
