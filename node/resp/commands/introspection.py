"""What tools ask of a server: INFO, CONFIG GET, COMMAND.

The fields are those that redis-cli, monitoring agents and client libraries read; what has no meaning here is left out.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from stratacache.node.resp.arguments import glob
from stratacache.node.resp.commands.session import REDIS_VERSION
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
    verbatim,
)
from stratacache.node.resp.table import COMMANDS, Command, Flag, Reply, command, find

if TYPE_CHECKING:
    from stratacache.node.resp.connection import Connection
    from stratacache.node.resp.server import NodeServer

Facts = dict[str, Any]
MIB: Final = 1024 * 1024


def _server(server: NodeServer) -> Facts:
    uptime_s = (server.engine.now_ms() - server.started_ms) // 1000
    return {
        "redis_version": REDIS_VERSION,
        "redis_mode": "standalone",
        "server_name": "stratacache",
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "arch_bits": 64 if sys.maxsize > 1 << 32 else 32,
        "process_id": os.getpid(),
        "run_id": server.run_id,
        "tcp_port": server.endpoints.port,
        "server_time_usec": server.engine.now_ms() * 1000,
        "uptime_in_seconds": uptime_s,
        "uptime_in_days": uptime_s // 86400,
        "shard": server.identity.shard,
        "incarnation": server.identity.incarnation,
        "epoch": server.epoch,
    }


def _clients(server: NodeServer) -> Facts:
    clients = server.connections.values()
    return {
        "connected_clients": len(server.connections),
        "maxclients": server.config.connections_max,
        "client_recent_max_input_buffer": max((client.query_bytes for client in clients), default=0),
        "client_recent_max_output_buffer": max((client.output_bytes for client in clients), default=0),
        "blocked_clients": sum(not client.idle for client in clients),
        "tracking_clients": sum(client.tracking is not None for client in clients),
        "watching_clients": len(server.watchers),
    }


def _memory(server: NodeServer) -> Facts:
    used = server.engine.stats()["memory_bytes"]
    rss = resident_bytes()
    config = server.engine.config
    maximum = config.l1_bytes_max + config.l2_bytes_max
    return {
        "used_memory": used,
        "used_memory_human": _human(used),
        "used_memory_rss": rss,
        "used_memory_rss_human": _human(rss),
        "used_memory_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "maxmemory": maximum,
        "maxmemory_human": _human(maximum),
        "maxmemory_policy": config.policy.value,
        "mem_fragmentation_ratio": f"{rss / max(1, used):.2f}",
        "mem_clients_normal": sum(client.query_bytes + client.output_bytes for client in server.connections.values()),
    }


def _stats(server: NodeServer) -> Facts:
    stats = server.engine.stats()
    removed = stats["removed"]
    return {
        "total_connections_received": server.connections_received,
        "total_commands_processed": server.commands,
        "total_net_input_bytes": server.bytes_in,
        "total_net_output_bytes": server.bytes_out,
        "rejected_connections": server.connections_rejected,
        "expired_keys": removed.get("expired", 0),
        "evicted_keys": removed.get("evicted", 0),
        "evicted_clients": server.cut_clients,
        "keyspace_hits": stats["hits"],
        "keyspace_misses": stats["misses"],
        "total_error_replies": sum(server.errors.values()),
        "tracking_total_keys": server.tracking.keys,
        "tracking_total_items": server.tracking.items,
        "tracking_total_prefixes": server.tracking.prefixes,
    }


def _replication(_: NodeServer) -> Facts:
    return {"role": "master", "connected_slaves": 0}


def _cpu(_: NodeServer) -> Facts:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"used_cpu_sys": f"{usage.ru_stime:.6f}", "used_cpu_user": f"{usage.ru_utime:.6f}"}


def _errors(server: NodeServer) -> Facts:
    return {f"errorstat_{word}": f"count={count}" for word, count in sorted(server.errors.items())}


def _cluster(_: NodeServer) -> Facts:
    return {"cluster_enabled": 0}


def _keyspace(server: NodeServer) -> Facts:
    keys = len(server.engine)
    return {"db0": f"keys={keys},expires=0,avg_ttl=0"} if keys else {}


SECTIONS: Final[dict[str, Callable[[NodeServer], Facts]]] = {
    "Server": _server,
    "Clients": _clients,
    "Memory": _memory,
    "Stats": _stats,
    "Replication": _replication,
    "CPU": _cpu,
    "Errorstats": _errors,
    "Cluster": _cluster,
    "Keyspace": _keyspace,
}


def info_text(server: NodeServer, names: Iterable[str]) -> str:
    """INFO's text for these sections; no names: the default ones."""
    wanted = {name.lower() for name in names}
    everything = not wanted or wanted & {"default", "all", "everything"}
    parts = []
    for title, facts in SECTIONS.items():
        if everything or title.lower() in wanted:
            lines = [f"{name}:{value}\r\n" for name, value in facts(server).items()]
            parts.append(f"# {title}\r\n" + "".join(lines))
    return "\r\n".join(parts)


def resident_bytes() -> int:
    """Bytes of memory that the process has in RAM."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 (not a place, a kernel's answer)
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _human(size: int) -> str:
    if size < 1024:
        return f"{size}B"
    power = min(4, (size.bit_length() - 1) // 10)
    return f"{size / 1024**power:.2f}{'BKMGT'[power]}"


@command("info", -1, group="server")
def info(connection: Connection, argv: list[bytes]) -> Reply:
    """Facts and counters, by section."""
    text = info_text(connection.server, [name.decode("latin-1") for name in argv[1:]])
    return verbatim(text.encode(), connection.resp)


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
        raise CommandError("ERR wrong number of arguments for 'config|set' command")
    known = settings(connection.server)
    for name, value in zip(argv[2::2], argv[3::2], strict=True):
        text = name.decode("utf-8", "surrogateescape")
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
    return OK


@command("config|resetstat", 2, Flag.ADMIN, group="server")
def config_resetstat(connection: Connection, argv: list[bytes]) -> Reply:
    """Set the server's own counters to zero (the cache's counters stay)."""
    server = connection.server
    server.commands = server.bytes_in = server.bytes_out = server.connections_rejected = 0
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
