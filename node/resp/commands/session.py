"""Commands about the session itself: who the client is, which protocol it speaks, whether anybody is there."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

from stratacache.node.resp.arguments import SYNTAX, integer_in, integer_of, shown
from stratacache.node.resp.replies import OK, PONG, CommandError, bulk, bulks, integer, pairs, status
from stratacache.node.resp.table import Access, Flag, Reply, command

if TYPE_CHECKING:
    from stratacache.node.resp.connection import Connection

REDIS_VERSION = "7.4.0"
"""What clients that look at it are told: the first version with which redis-py turns its client-side caching on."""


NAME_BYTES_MAX: Final = 1024
INT32_MAX: Final = (1 << 31) - 1
INT32_MIN: Final = -(1 << 31)


@command("ping", -1, group="connection")
def ping(connection: Connection, argv: list[bytes]) -> Reply:
    """Answer PONG, or the argument."""
    if len(argv) > 2:
        raise CommandError("ERR wrong number of arguments for 'ping' command")
    if connection.channels and connection.resp == 2:  # there a reply must look like a message
        return bulks([b"pong", argv[1] if len(argv) == 2 else b""])
    return bulk(argv[1]) if len(argv) == 2 else PONG


@command("echo", 2, group="connection")
def echo(connection: Connection, argv: list[bytes]) -> Reply:
    """Answer the argument."""
    return bulk(argv[1])


@command("quit", -1, Flag.NO_AUTH | Flag.NO_MULTI, group="connection")
def quit_(connection: Connection, argv: list[bytes]) -> Reply:
    """Close the connection."""
    connection.closing = True
    return OK


@command("select", 2, group="connection")
def select(connection: Connection, argv: list[bytes]) -> Reply:
    """Choose database 0, the only one."""
    number = integer_of(argv[1])
    if not INT32_MIN <= number <= INT32_MAX:
        raise CommandError(f"ERR value is out of range, value must between {INT32_MIN} and {INT32_MAX}")
    if number != 0:
        raise CommandError("ERR DB index is out of range")
    return OK


@command("reset", 1, Flag.NO_MULTI, group="connection")
def reset(connection: Connection, argv: list[bytes]) -> Reply:
    """Make the connection as it was when it was new."""
    connection.reset()
    return status(b"RESET")


def authenticate(connection: Connection, user: bytes, token: bytes) -> None:
    """Let the client in by its token; raises CommandError. Both comparisons are made, in constant time."""
    config = connection.server.config
    full = hmac.compare_digest(token, (config.token or "").encode("utf-8", "surrogateescape"))
    reading = hmac.compare_digest(token, (config.read_token or "").encode("utf-8", "surrogateescape"))
    if user == b"default" and config.token and full:
        access = Access.FULL
    elif user == b"default" and config.read_token and reading:
        access = Access.READ
    elif user == b"default" and not config.token:
        access = Access.FULL  # as Redis: a default user without a password lets everybody in
    else:
        connection.server.count_error("WRONGPASS")
        raise CommandError("WRONGPASS invalid username-password pair or user is disabled.")
    connection.access = access
    connection.refresh_mode()


@command("auth", -2, Flag.NO_AUTH, group="connection")
def auth(connection: Connection, argv: list[bytes]) -> Reply:
    """Show the token."""
    if len(argv) > 3:
        raise CommandError(SYNTAX)
    if len(argv) == 2 and not connection.server.config.token:
        raise CommandError(
            "ERR AUTH <password> called without any password configured for the default user. "
            "Are you sure your configuration is correct?"
        )
    authenticate(connection, argv[1] if len(argv) == 3 else b"default", argv[-1])
    return OK


def check_name(name: bytes, what: str) -> bytes:
    """A client name without spaces or special characters; raises CommandError."""
    if len(name) > NAME_BYTES_MAX:
        raise CommandError(f"LIMIT {what.lower()} may have {NAME_BYTES_MAX} bytes: choose a shorter one")
    if any(not 33 <= byte <= 126 for byte in name):
        raise CommandError(f"ERR {what} cannot contain spaces, newlines or special characters.")
    return name


@command("hello", -1, Flag.NO_AUTH, group="connection")
def hello(connection: Connection, argv: list[bytes]) -> Reply:
    """Choose the protocol, authenticate, and learn about the server."""
    resp = connection.resp
    position = 1
    if len(argv) > 1:
        version = integer_in(argv[1])
        if version is None:
            raise CommandError("ERR Protocol version is not an integer or out of range")
        if version not in (2, 3):
            raise CommandError("NOPROTO unsupported protocol version")
        resp = version
        position = 2
    while position < len(argv):  # each option has its effect, whatever is wrong behind it: as in Redis 7.0
        option = argv[position].upper()
        left = len(argv) - position - 1
        if option == b"AUTH" and left >= 2:
            authenticate(connection, argv[position + 1], argv[position + 2])
            position += 3
        elif option == b"SETNAME" and left >= 1:
            connection.name = check_name(argv[position + 1], "Client names")
            position += 2
        else:
            raise CommandError(f"ERR Syntax error in HELLO option '{shown(argv[position])}'")
    if connection.access is Access.NONE:
        raise CommandError(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH "
            "<user> <pass> option can be used to authenticate the client and select the RESP protocol version at the "
            "same time"
        )
    connection.set_protocol(resp)
    facts: list[tuple[bytes, bytes]] = [
        (bulk(b"server"), bulk(b"redis")),
        (bulk(b"version"), bulk(REDIS_VERSION.encode())),
        (bulk(b"proto"), integer(resp)),
        (bulk(b"id"), integer(connection.id)),
        (bulk(b"mode"), bulk(b"standalone")),
        (bulk(b"role"), bulk(b"master")),
        (bulk(b"modules"), bulks([])),
    ]
    return pairs(facts, resp)
