"""What client libraries ask of a server: TIME, CONFIG GET, COMMAND. INFO stands in info.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from stratacache.node.resp.arguments import SYNTAX, glob, shown
from stratacache.node.resp.commands.helps import enter_help
from stratacache.node.resp.replies import (
    OK,
    CommandError,
    array,
    bulk,
    bulks,
    integer,
    members,
    pairs,
    status,
)
from stratacache.node.resp.table import COMMANDS, Command, Flag, Reply, command, find

if TYPE_CHECKING:
    from stratacache.node.resp.connection import Connection
    from stratacache.node.resp.server import NodeServer

Facts = dict[str, Any]
MIB: Final = 1024 * 1024
NAMES_MAX: Final = 1000
"""That COMMAND INFO and COMMAND DOCS answer at a time: each costs some 10 us, and nobody else is served meanwhile."""


@command("time", 1, group="server")
def time(connection: Connection, argv: list[bytes]) -> Reply:
    """The node's clock: seconds and microseconds."""
    seconds, ms = divmod(connection.engine.now_ms(), 1000)
    return bulks([b"%d" % seconds, b"%d" % (ms * 1000)])


def settings(server: NodeServer) -> dict[str, str]:
    """What CONFIG GET knows."""
    config = server.config
    engine = server.engine.config
    return {
        "appendonly": "no",
        "bind": config.host,
        "client-output-buffer-limit": (
            f"normal {config.output_bytes_max} {config.output_soft_bytes_max} {int(config.output_soft_s)}"
        ),
        "client-query-buffer-limit": str(config.query_bytes_max),
        "databases": "1",
        "maxclients": str(config.connections_max),
        "maxmemory": str(engine.l1_bytes_max + engine.l2_bytes_max),
        "maxmemory-policy": engine.policy.value,
        "port": str(server.endpoints.port),
        "proto-max-bulk-len": str(config.value_bytes_max),
        "save": "",
        "timeout": str(int(config.idle_s)),
        "tracking-table-max-keys": str(config.tracked_keys_max),
        "unixsocket": server.endpoints.unix,
    }


@command("config", -2, Flag.ADMIN, group="server")
def config(connection: Connection, argv: list[bytes]) -> Reply:
    """Settings of the server."""
    raise NotImplementedError("dispatch resolves the subcommand")


@command("config|get", -3, Flag.ADMIN, group="server")
def config_get(connection: Connection, argv: list[bytes]) -> Reply:
    """Read settings; they are set where the node is started."""
    patterns = [glob(pattern.lower()) for pattern in argv[2:]]
    known = settings(connection.server)
    chosen = [name for name in known if any(pattern.match(name.encode()) for pattern in patterns)]
    return pairs([(bulk(name.encode()), bulk(known[name].encode())) for name in chosen], connection.resp)


@command("config|set", -4, Flag.ADMIN, group="server")
def config_set(connection: Connection, argv: list[bytes]) -> Reply:
    """Take what is set already; everything else belongs to the start of the node."""
    if len(argv) % 2:
        raise CommandError(SYNTAX)
    known = settings(connection.server)
    for name, value in zip(argv[2::2], argv[3::2], strict=True):
        text = shown(name)
        if text.lower() not in known:
            raise CommandError(f"ERR Unknown option or number of arguments for CONFIG SET - '{text}'")
        if known[text.lower()].encode() != value:
            raise CommandError(
                f"ERR CONFIG SET failed (possibly related to argument '{text}') - can't set immutable config"
            )
    return OK


@command("function", -2, Flag.WRITE, group="scripting")
def function(connection: Connection, argv: list[bytes]) -> Reply:
    """Functions: there are none."""
    raise NotImplementedError("dispatch resolves the subcommand")


@command("function|flush", -2, Flag.ADMIN, group="scripting")
def function_flush(connection: Connection, argv: list[bytes]) -> Reply:
    """Nothing to do; test suites call it before they begin."""
    if len(argv) > 3 or (len(argv) == 3 and argv[2].upper() not in (b"SYNC", b"ASYNC")):
        raise CommandError("ERR FUNCTION FLUSH only supports SYNC|ASYNC option")
    return OK


@command("config|resetstat", 2, Flag.ADMIN, group="server")
def config_resetstat(connection: Connection, argv: list[bytes]) -> Reply:
    """Set the server's own counters to zero (the cache's counters stay)."""
    server = connection.server
    state = server.state
    state.commands = state.bytes_in = state.bytes_out = server.connections_rejected = 0
    server.errors.clear()
    return OK


def _flags(found: Command) -> list[bytes]:
    names = []
    if found.flags & Flag.WRITE:
        names.append(b"write")
    elif found.flags & Flag.READ:
        names.append(b"readonly")
    if found.flags & Flag.ADMIN:
        names.append(b"admin")
    if found.flags & Flag.NO_AUTH:
        names.append(b"no_auth")
    return names


def _entry(found: Command, resp: int) -> bytes:
    """One command as COMMAND INFO shows it."""
    kinds = [b"@" + (b"write" if found.flags & Flag.WRITE else b"read" if found.flags & Flag.READ else b"connection")]
    return array(
        [
            bulk(found.name.encode()),
            integer(found.arity),
            members([status(name) for name in _flags(found)], resp),
            integer(found.first),
            integer(found.last),
            integer(found.step),
            members([status(kind) for kind in kinds], resp),
            array([]),
            array([]),
            array([_entry(sub, resp) for sub in found.subcommands.values()]),
        ]
    )


def _doc(found: Command, resp: int) -> bytes:
    facts = [
        (bulk(b"summary"), bulk(found.summary.encode())),
        (bulk(b"since"), bulk(b"1.0.0")),
        (bulk(b"group"), bulk(found.group.encode())),
        (bulk(b"complexity"), bulk(b"O(1)" if found.last == found.first else b"O(N)")),
    ]
    if found.subcommands:
        subs = [(bulk(sub.name.encode()), _doc(sub, resp)) for sub in found.subcommands.values()]
        facts.append((bulk(b"subcommands"), pairs(subs, resp)))
    return pairs(facts, resp)


def _named(argv: list[bytes]) -> list[Command | None]:
    if not argv:
        return list(COMMANDS.values())
    if len(argv) > NAMES_MAX:
        raise CommandError(f"LIMIT {len(argv)} names are asked for, the limit is {NAMES_MAX}: ask in several commands")
    named = []
    for name in argv:
        parent, _, sub = name.partition(b"|")
        named.append(find(parent, sub or None) if not sub or find(parent) else None)
    return named


@command("command", -1, group="server")
def command_(connection: Connection, argv: list[bytes]) -> Reply:
    """All commands, with their arity, flags and keys."""
    return array([_entry(found, connection.resp) for found in COMMANDS.values()])


@command("command|count", 2, group="server")
def command_count(connection: Connection, argv: list[bytes]) -> Reply:
    """Count the commands."""
    return integer(len(COMMANDS))


@command("command|info", -2, group="server")
def command_info(connection: Connection, argv: list[bytes]) -> Reply:
    """Arity, flags and keys of commands."""
    return array([_entry(found, connection.resp) if found else connection.null for found in _named(argv[2:])])


@command("command|docs", -2, group="server")
def command_docs(connection: Connection, argv: list[bytes]) -> Reply:
    """Summaries of commands."""
    resp = connection.resp
    return pairs([(bulk(found.name.encode()), _doc(found, resp)) for found in _named(argv[2:]) if found], resp)


@command("command|list", -2, group="server")
def command_list(connection: Connection, argv: list[bytes]) -> Reply:
    """Names of the commands."""
    return bulks([found.name.encode() for found in COMMANDS.values()])


@command("command|getkeys", -4, group="server")
def command_getkeys(connection: Connection, argv: list[bytes]) -> Reply:
    """The keys of a whole command."""
    words = argv[2:]
    found = find(words[0], words[1] if len(words) > 1 else None)
    if found is None:
        raise CommandError("ERR Invalid command specified")
    if not found.fits(len(words)):
        raise CommandError("ERR Invalid number of arguments specified for command")
    keys = found.keys(words)
    if not keys:
        raise CommandError("ERR The command has no key arguments")
    return bulks(keys)


for parent in ("command", "config", "function"):
    enter_help(parent)
