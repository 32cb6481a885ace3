"""Every standard command is answered as a real redis-server answers it: replies, types, error texts."""

from __future__ import annotations

import codecs
from typing import Any

import pytest

from stratacache.node.resp import commands
from stratacache.node.resp.table import COMMANDS
from tests.wire.raw import Raw, request
from tests.wire.sequences import SCENARIOS, STANDARD

pytestmark = pytest.mark.server

CLOSE_MS = 2_000
AT_ONCE = {b"MULTI", b"EXEC", b"DISCARD", b"RESET", b"QUIT"}  # not queued
OWN_RULES = ([b"config"], [b"function", b"function|flush"], [b"reset"])
"""Differ on purpose: they need the full token, or any token (docs/PROTOCOL.md)."""

assert commands.__all__, "importing the commands fills the table"


def words(line: str) -> list[bytes]:
    long = {"XLONG": b"a" * 85, "YLONG": b"b" * 60, '""': b""}
    return [long[word] if word in long else codecs.escape_decode(word.encode())[0] for word in line.split(" ")]


def check(line: str, ours: Any, theirs: Any) -> str | None:
    """What is wrong with our reply, or None."""
    if line.startswith("?"):
        return None if ours[0] == theirs[0] else f"{line}: type {ours[0]!r}, redis has {theirs[0]!r}: {ours!r:.200}"
    if line.startswith("~"):
        near = ours[0] == theirs[0] == ":" and abs(int(ours[1]) - int(theirs[1])) <= CLOSE_MS
        return None if near or ours == theirs else f"{line}: {ours!r}, redis has {theirs!r}"
    return None if ours == theirs else f"{line}: {ours!r}, redis has {theirs!r}"


@pytest.mark.parametrize("resp", [2, 3])
@pytest.mark.parametrize("name", SCENARIOS)
def test_replies_are_those_of_redis(name: str, resp: int, node: Raw, redis_server: Raw) -> None:
    """The same commands get the same replies, over RESP2 and RESP3."""
    if resp == 3:
        node.run("HELLO", 3)
        redis_server.run("HELLO", 3)
    wrong = []
    for line in SCENARIOS[name]:
        argv = words(line.lstrip("?~"))
        wrong.append(check(line, node.run(*argv), redis_server.run(*argv)))
    assert not [problem for problem in wrong if problem], "\n".join(problem for problem in wrong if problem)


@pytest.mark.parametrize("resp", [2, 3])
@pytest.mark.parametrize("name", SCENARIOS)
def test_transactions_are_those_of_redis(name: str, resp: int, node: Raw, redis_server: Raw) -> None:
    """The same commands behind MULTI: refused or queued alike, and run alike when none was refused."""
    lines = [line for line in SCENARIOS[name] if words(line.lstrip("?~"))[0].upper() not in AT_ONCE]
    queued = lines
    for round_ in ("spoiled", "whole"):
        for client in (node, redis_server):
            client.run("RESET")
            client.run("FLUSHALL")
            client.run("HELLO", resp)
            client.send(request("MULTI") + b"".join(request(*words(line.lstrip("?~"))) for line in queued))
            assert client.read() == ("+", "OK")
        replies = [(node.read(), redis_server.read()) for _ in queued]
        assert [pair for pair in replies if pair[0] != pair[1]] == []
        ours, theirs = node.run("EXEC"), redis_server.run("EXEC")
        if round_ == "spoiled" and theirs[0] == "-":
            assert ours == theirs
            queued = [line for line, (_, reply) in zip(lines, replies, strict=True) if reply == ("+", "QUEUED")]
    assert ours[0] == theirs[0] == "*"
    wrong = [check(line, *pair) for line, *pair in zip(queued, ours[1], theirs[1], strict=True)]
    assert not any(wrong), "\n".join(filter(None, wrong))


def facts(entry: Any) -> tuple[Any, ...]:
    """Of a command, as COMMAND INFO tells: its name, arity, where its keys stand, and whether it reads or writes."""
    name, arity, flags, first, last, step = (value for _, value in entry[1][:6])
    return name, arity, first, last, step, {flag for _, flag in flags} & {"readonly", "write", "admin", "no_auth"}


def test_the_command_table_is_that_of_redis(node: Raw, redis_server: Raw) -> None:
    """What clients ask COMMAND for is what redis-server says of every command and subcommand."""
    for name in sorted(STANDARD):
        ours, theirs = (client.run("COMMAND", "INFO", name)[1][0] for client in (node, redis_server))
        subs = {facts(sub)[0]: facts(sub) for sub in theirs[1][9][1]}
        told = [facts(ours), *[facts(sub) for sub in ours[1][9][1] if facts(sub)[0] in subs]]
        expected = [facts(theirs), *[subs[sub[0]] for sub in told[1:]]]
        differing = [pair for pair in zip(told, expected, strict=True) if pair[0] != pair[1]]
        assert [pair[0][0] for pair in differing] in ([], *OWN_RULES), differing


def test_every_standard_command_is_compared() -> None:
    """No command of the list is left out."""
    compared = {line.lstrip("?~").split(" ")[0].upper() for name in SCENARIOS for line in SCENARIOS[name]}
    assert STANDARD - compared == {"QUIT"}, "QUIT closes the connection and has a test of its own"
    ours = {name.decode() for name in COMMANDS if not name.startswith(b"SC.")}
    assert ours == STANDARD


def test_quit(node_port: int, redis_port: int) -> None:
    """QUIT answers, closes, and drops what was sent behind it."""
    for port in (node_port, redis_port):
        with Raw(port) as client:
            client.send(request("QUIT") + request("PING"))
            assert client.read() == ("+", "OK")
            assert client.closed_by_server()


INLINE = [
    b"PING\r\n",
    b"PING\n",
    b"  PING   hello  \r\n",
    b'SET inl "a \\x41\\n\\"b"\r\n',
    b"GET inl\r\n",
    b"SET inl 'a\\'b \\n'\r\n",
    b"GET inl\r\n",
    b"\r\n\r\nPING\r\n",
    b'SET inl ""\r\n',
    b"GET inl\r\n",
    b"*0\r\n*-1\r\nPING\r\n",
    b'ECHO foo"bar"\r\n',
    b"$4\r\nPING\r\n",
]


@pytest.mark.parametrize("data", INLINE, ids=repr)
def test_inline_commands(data: bytes, node: Raw, redis_server: Raw) -> None:
    """A command typed by hand is split as Redis splits it."""
    for client in (node, redis_server):
        client.send(b'SET inl "a \\x41\\n\\"b"\r\n' + data)
        assert client.read() == ("+", "OK")
    assert node.read() == redis_server.read()


MALFORMED = [
    b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\n$2000000000\r\n\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\n$-10\r\n\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\n$blabla\r\n\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\n:5\r\n",
    b"*1\r\n*1\r\n$4\r\nPING\r\n",
    b"*1\r\n+PING\r\n",
    b"*1\r\n=8\r\ntxt:PING\r\n",
    b"*2\r\n$3\r\nGET\r\n+a\r\n",
    b"*2\r\n$3\r\nGET\r\n(12\r\n",
    b"*2\r\n$3\r\nGET\r\n,1.5\r\n",
    b"*2\r\n$3\r\nGET\r\n_\r\n",
    b"*2\r\n$3\r\nGET\r\n$01\r\na\r\n",
    b"*2\r\n$3\r\nGET\r\n$+1\r\na\r\n",
    b"*02\r\n$3\r\nGET\r\n$1\r\na\r\n",
    b"*3000000000\r\n",
    b"*blabla\r\n",
    b"*1\r\nfoo\r\n",
    b"*1\r\n\r\n",
    b'PING "abc\r\n',
    b'PING "abc"d\r\n',
    b"PING 'abc\r\n",
    b"*" + b"1" * 70_000,
    b"*1\r\n$" + b"1" * 70_000,
    b"A" * 70_000,
]


@pytest.mark.parametrize("data", MALFORMED, ids=lambda data: repr(data[:40]))
def test_malformed_requests(data: bytes, node: Raw, redis_server: Raw) -> None:
    """What is no request gets Redis's protocol error, and the connection is closed behind it."""
    for good in (b"", request("ECHO", "first")):
        with Raw(node.socket.getpeername()[1]) as ours, Raw(redis_server.socket.getpeername()[1]) as theirs:
            for client in (ours, theirs):
                client.send(good + data)
                if good:
                    assert client.read() == ("$", b"first")
            assert ours.read() == theirs.read()
            assert ours.closed_by_server()


def test_info_counts_keys_with_an_expiry(node: Raw, redis_server: Raw) -> None:
    """INFO's keyspace line: as many keys and expiries as redis-server counts, and the mean TTL."""
    lines = []
    for client in (node, redis_server):
        client.run("SET", "forever", 1)
        for number in range(600):
            client.run("SET", f"k{number}", 1, "EX", 1000)
        client.run("PERSIST", "k0")
        client.run("DEL", "k1")
        client.run("EXPIRE", "k2", 0)
        text = client.run("INFO", "keyspace")[1].decode()
        lines.append([int(fact.split("=")[1]) for fact in text.split("db0:")[1].strip().split(",")[:3]])
    assert lines[0][:2] == lines[1][:2] == [599, 597]
    assert 0 <= 1_000_000 - lines[0][2] < CLOSE_MS  # redis-server measures its own only now and then
