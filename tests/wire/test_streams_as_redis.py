"""Whole streams of bytes, answered by the same bytes as from a real redis-server: where one reply is not all there is.

Replies that are turned off, commands before AUTH, protocols changed in between, HTTP, and the form of inline commands.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest

from tests.wire.processes import running_node, running_redis
from tests.wire.raw import TIMEOUT_S, Raw, request

pytestmark = pytest.mark.server

Stream = list[str | bytes]
"""Commands in words, and raw bytes."""


@pytest.fixture(scope="module")
def guarded_ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """Ports of a node with a token and of a redis-server with a password, both `s`."""
    directory = tmp_path_factory.mktemp("redis")
    with running_node("--token", "s") as (_, node), running_redis(directory, "--requirepass", "s") as redis:
        yield node, redis


def answers(port: int, stream: Stream) -> bytes:
    """Everything that a server sends until it closes, which it does when it has answered all."""
    data = b"".join(part if isinstance(part, bytes) else request(*part.split(" ")) for part in stream)
    received = b""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        while part := sock.recv(65536):
            received += part
    received = re.sub(rb"(version\r\n)\$\d+\r\n[0-9.]+", rb"\1", received)
    return re.sub(rb"(\$2\r\nid\r\n):\d+", rb"\1", received)  # HELLO: each server's own


OPEN: list[Stream] = [
    ["CLIENT REPLY OFF", "SUBSCRIBE a", "PING"],
    ["CLIENT REPLY SKIP", "SUBSCRIBE a", "PING", "UNSUBSCRIBE", "PING"],
    ["HELLO 3", "CLIENT REPLY OFF", "SUBSCRIBE a b", "UNSUBSCRIBE a b", "CLIENT REPLY ON", "PING"],
    ["CLIENT REPLY OFF", "UNSUBSCRIBE", "SUBSCRIBE", "PING"],
    ["CLIENT REPLY SKIP", "CLIENT REPLY SKIP", "PING", "PING"],
    ["CLIENT REPLY OFF", "CLIENT REPLY SKIP", "PING", "CLIENT REPLY ON", "PING"],
    ["CLIENT REPLY SKIP", "MULTI", "PING", "EXEC"],
    ["CLIENT REPLY OFF", "MULTI", "NOSUCH", "CLIENT REPLY ON", "PING", "DISCARD", "PING"],
    ["HELLO 3", "CLIENT REPLY OFF", "CLIENT TRACKING on", "GET a", "SET a 1", "CLIENT REPLY ON", "PING"],
    ["HELLO 3", "CLIENT TRACKING on", "GET a", "CLIENT REPLY SKIP", "SET a 1", "PING"],
    ["HELLO 3", "CLIENT REPLY SKIP", "SUBSCRIBE a", "RESET", "PING"],
    ["CLIENT REPLY OFF", "RESET", "PING"],
    ["CLIENT REPLY SKIP", "RESET", "PING"],
    ["MULTI", "HELLO 3", "GET a", "HELLO 2", "GET a", "EXEC", "GET a"],
    ["MULTI", "SUBSCRIBE a b", "PING", "UNSUBSCRIBE a b", "PING", "EXEC"],
    [b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\nSET a b\r\nGET a\r\n"],
    [b"pOsT\r\nPING\r\n"],
    [b"*1\r\n$5\r\nhost:\r\n", "PING"],
    [b"ECHO a\x0bb\r\nECHO 'a'\x0bb\r\n\x0b\x0cPING\r\nECHO \"a\"\x0c\r\nPING \r \r\n\n\nPING\n"],
    [b'ECHO "\\xzz\\q\\"\\x4"\r\nECHO a"b"\r\nECHO \'\\x41\\\'\'\r\nECHO "a""b"\r\nPING\r\n'],
    ["OBJECT NOSUCH a", "CONFIG NOSUCH a", "COMMAND NOSUCH a", "CLIENT NOSUCH a", "FUNCTION NOSUCH a"],
]
GUARDED: list[Stream] = [
    ["EXEC", "EXEC x", "MULTI", "MULTI x", "DISCARD", "AUTH s", "EXEC"],
    ["AUTH s", "MULTI", "SET a 1", "RESET", "EXEC", "AUTH s", "EXEC", "GET a"],
    ["AUTH s", "MULTI", "AUTH x", "GET a", "EXEC", "PING"],
    ["AUTH s", "MULTI", "AUTH", "AUTH s", "EXEC"],
    ["AUTH s", "MULTI", "HELLO 3 AUTH default x", "GET a", "EXEC", "PING"],
    ["AUTH s", "HELLO 3 SETNAME ab AUTH default x", "CLIENT GETNAME", "PING"],
    ["NOSUCH", "GET", "CLIENT FOO", "CLIENT", "CLIENT ID x", "SUBSCRIBE a", "PING"],
    ["CLIENT REPLY OFF", "AUTH s", "CLIENT REPLY OFF", "AUTH s", "PING"],
    ["AUTH", "AUTH a b c", "AUTH x", "AUTH nobody s", "AUTH default x", "AUTH default s", "PING"],
    ["HELLO", "HELLO 2", "HELLO 4", "HELLO x", "HELLO 3 FOO", "HELLO 3 SETNAME x", "HELLO 3 AUTH default x", "PING"],
    ["HELLO 3 AUTH default s", "PING"],
    ["HELLO 3 SETNAME x AUTH default s", "CLIENT GETNAME"],
    ["AUTH s", "SUBSCRIBE a", "RESET", "PING", "AUTH s", "PING"],
    [b"PING\r\nAUTH s\r\nPING\r\n"],
    ["QUIT a b", "PING"],
    [b"*11\r\n$4\r\nPING\r\n"],
    ["AUTH s", b"*11\r\n$4\r\nECHO\r\n"],
    [b"POST / HTTP/1.1\r\n\r\nAUTH s\r\nPING\r\n"],
]


@pytest.mark.parametrize("stream", OPEN, ids=repr)
def test_streams(stream: Stream, node: Raw, redis_server: Raw) -> None:
    """The same bytes come back, and no more."""
    ports = [client.socket.getpeername()[1] for client in (node, redis_server)]
    assert answers(ports[0], stream) == answers(ports[1], stream)


@pytest.mark.parametrize("stream", GUARDED, ids=repr)
def test_streams_before_and_after_auth(stream: Stream, guarded_ports: tuple[int, int]) -> None:
    """The same where a token is asked for; but RESET has no say before AUTH."""
    node, redis = guarded_ports
    assert answers(node, stream) == answers(redis, stream)
