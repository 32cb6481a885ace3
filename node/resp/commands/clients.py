"""CLIENT: names, lists, replies on and off, and closing other clients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from stratacache.node.resp.arguments import SYNTAX, integer_in, integer_of, shown
from stratacache.node.resp.commands.helps import enter_help
from stratacache.node.resp.commands.session import check_name
from stratacache.node.resp.connection import ReplyMode
from stratacache.node.resp.replies import OK, CommandError, bulk, integer, verbatim
from stratacache.node.resp.table import Flag, Reply, command

if TYPE_CHECKING:
    from stratacache.node.resp.connection import Connection


@command("client", -2, group="connection")
def client(connection: Connection, argv: list[bytes]) -> Reply:
    """About client connections."""
    raise NotImplementedError("dispatch resolves the subcommand")


@command("client|id", 2, group="connection")
def client_id(connection: Connection, argv: list[bytes]) -> Reply:
    """Number of this connection."""
    return integer(connection.id)


@command("client|getname", 2, group="connection")
def client_getname(connection: Connection, argv: list[bytes]) -> Reply:
    """Name of this connection."""
    return bulk(connection.name) if connection.name else connection.null


@command("client|setname", 3, group="connection")
def client_setname(connection: Connection, argv: list[bytes]) -> Reply:
    """Name this connection."""
    connection.name = check_name(argv[2], "Client names")
    return OK


@command("client|setinfo", 4, group="connection")
def client_setinfo(connection: Connection, argv: list[bytes]) -> Reply:
    """Tell the client library's name or version."""
    name, version = connection.client_library
    option = argv[2].upper()
    if option == b"LIB-NAME":
        connection.client_library = (check_name(argv[3], "lib-name"), version)
    elif option == b"LIB-VER":
        connection.client_library = (name, check_name(argv[3], "lib-ver"))
    else:
        raise CommandError(f"ERR Unrecognized option '{shown(argv[2])}'")
    return OK


def _flags(other: Connection) -> str:
    tracking = other.tracking
    flags = {
        "P": bool(other.channels),
        "x": other.transaction is not None,
        "t": tracking is not None,
        "R": tracking is not None and tracking.redirect and tracking.redirect not in other.server.connections,
        "B": tracking is not None and tracking.broadcast,
    }
    return "".join([flag for flag, holds in flags.items() if holds]) or "N"


def _of_type(clients: Iterable[Connection], name: bytes) -> list[Connection]:
    """The clients of one of Redis's types; there are no others here than normal ones and those that have subscribed."""
    kind = name.lower()
    if kind not in (b"normal", b"master", b"replica", b"slave", b"pubsub"):
        raise CommandError(f"ERR Unknown client type '{shown(name)}'")
    return [other for other in clients if kind == (b"pubsub" if other.channels else b"normal")]


def describe(other: Connection) -> bytes:
    """One line of CLIENT LIST."""
    now_ms = other.engine.now_ms()
    queued = -1 if other.transaction is None else len(other.transaction)
    redirect = -1 if other.tracking is None else other.tracking.redirect or -1
    fields = {
        "id": other.id,
        "addr": other.peer,
        "laddr": other.local,
        "fd": other.fd,
        "name": other.name.decode("latin-1"),
        "age": (now_ms - other.connected_ms) // 1000,
        "idle": (now_ms - other.active_ms) // 1000,
        "flags": _flags(other),
        "db": 0,
        "sub": len(other.channels),
        "psub": 0,
        "ssub": 0,
        "multi": queued,
        "qbuf": other.query_bytes,
        "qbuf-free": 0,
        "argv-mem": 0,
        "multi-mem": 0 if other.transaction is None else other.transaction.bytes,
        "rbs": 0,
        "rbp": 0,
        "obl": 0,
        "oll": 0,
        "omem": other.output_bytes,
        "tot-mem": other.query_bytes + other.output_bytes,
        "events": "r",
        "cmd": other.last_command,
        "user": "default",
        "redir": redirect,
        "resp": other.resp,
        "lib-name": other.client_library[0].decode("latin-1"),
        "lib-ver": other.client_library[1].decode("latin-1"),
    }
    return " ".join([f"{name}={value}" for name, value in fields.items()]).encode("latin-1") + b"\n"


@command("client|info", 2, group="connection")
def client_info(connection: Connection, argv: list[bytes]) -> Reply:
    """Describe this connection."""
    return verbatim(describe(connection), connection.resp)


@command("client|list", -2, Flag.ADMIN, group="connection")
def client_list(connection: Connection, argv: list[bytes]) -> Reply:
    """Describe all connections."""
    clients = connection.server.connections
    chosen = list(clients.values())
    if len(argv) > 3 and argv[2].upper() == b"ID":
        most = connection.server.config.connections_max
        if len(argv) - 3 > most:
            raise CommandError(f"LIMIT {len(argv) - 3} IDs are asked for, the limit is {most}: ask in several commands")
        numbers = [integer_in(text) for text in argv[3:]]
        if None in numbers:
            raise CommandError("ERR Invalid client ID")
        chosen = [clients[number] for number in numbers if number in clients]
    elif len(argv) == 4 and argv[2].upper() == b"TYPE":
        chosen = _of_type(chosen, argv[3])
    elif len(argv) != 2:
        raise CommandError(SYNTAX)
    return verbatim(b"".join([describe(other) for other in chosen]), connection.resp)


@command("client|reply", 3, group="connection")
def client_reply(connection: Connection, argv: list[bytes]) -> Reply:
    """Turn replies on or off, or leave the next one out."""
    mode = argv[2].upper()
    if mode == b"ON":
        connection.reply_mode = ReplyMode.ON
    elif mode == b"OFF":
        connection.reply_mode = ReplyMode.OFF
    elif mode == b"SKIP":
        if connection.reply_mode is not ReplyMode.OFF:
            connection.reply_mode = ReplyMode.SKIP_NEXT
    else:
        raise CommandError(SYNTAX)
    connection.refresh_mode()
    return OK


@command("client|no-evict", 3, Flag.ADMIN, group="connection")
def client_no_evict(connection: Connection, argv: list[bytes]) -> Reply:
    """Taken for Redis's sake; clients are only cut off at their own limit here."""
    if argv[2].upper() not in (b"ON", b"OFF"):
        raise CommandError(SYNTAX)
    return OK


def _kill_filters(connection: Connection, words: list[bytes]) -> tuple[list[Connection], bool]:
    """The clients that CLIENT KILL's filters name, and whether the caller itself is spared."""
    chosen = list(connection.server.connections.values())
    spare = True
    for index in range(0, len(words), 2):
        if index + 1 == len(words):
            raise CommandError(SYNTAX)
        name, value = words[index].upper(), words[index + 1]
        text = shown(value)
        if name == b"ID":
            number = integer_of(value, "ERR client-id should be greater than 0")
            if number < 1:
                raise CommandError("ERR client-id should be greater than 0")
            chosen = [other for other in chosen if other.id == number]
        elif name == b"ADDR":
            chosen = [other for other in chosen if other.peer == text]
        elif name == b"LADDR":
            chosen = [other for other in chosen if other.local == text]
        elif name == b"TYPE":
            chosen = _of_type(chosen, value)
        elif name == b"USER":
            if text != "default":
                raise CommandError(f"ERR No such user '{text}'")
        elif name == b"SKIPME" and text.lower() in ("yes", "no"):
            spare = text.lower() == "yes"
        else:
            raise CommandError(SYNTAX)
    return chosen, spare


@command("client|kill", -3, Flag.ADMIN, group="connection")
def client_kill(connection: Connection, argv: list[bytes]) -> Reply:
    """Close clients, by address or by filters."""
    if len(argv) == 3:
        address = shown(argv[2])
        chosen = [other for other in connection.server.connections.values() if other.peer == address]
        if not chosen:
            raise CommandError("ERR No such client")
        _close(connection, chosen)
        return OK
    chosen, spare = _kill_filters(connection, argv[2:])
    chosen = [other for other in chosen if not (spare and other is connection)]
    _close(connection, chosen)
    return integer(len(chosen))


def _close(connection: Connection, chosen: list[Connection]) -> None:
    for other in chosen:
        if other is connection:
            connection.closing = True
        else:
            other.close()


enter_help("client")
