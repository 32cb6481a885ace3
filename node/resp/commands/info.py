"""INFO: facts and counters of a node under the names that monitoring tools know from Redis.

The fields are those that redis-cli, monitoring agents and client libraries read; what has no meaning here is left out.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from stratacache.node.entry import NEVER_MS
from stratacache.node.resp.commands.session import REDIS_VERSION
from stratacache.node.resp.replies import verbatim
from stratacache.node.resp.table import Reply, command

if TYPE_CHECKING:
    from stratacache.node.engine import MultiLevelCache
    from stratacache.node.resp.connection import Connection
    from stratacache.node.resp.server import NodeServer

Facts = dict[str, Any]
KEYSPACE_PAGES_MAX: Final = 256
"""Pages (of up to 256 entries) that are looked at to tell how many keys have an expiry: 3 ms."""


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
        "total_commands_processed": server.state.commands,
        "total_net_input_bytes": server.state.bytes_in,
        "total_net_output_bytes": server.state.bytes_out,
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
    engine = server.engine
    keys = len(engine)
    if not keys:
        return {}
    share, ttl_ms = _expiring(engine)
    expires = share * len(engine.residents)
    if engine.l3 is not None and engine.l3.on:
        only_in_memory = max(0, len(engine.residents) - engine.residents.stored)
        expires = share * only_in_memory + engine.l3.count_expiring()
    return {"db0": f"keys={keys},expires={min(keys, round(expires))},avg_ttl={ttl_ms}"}


def _expiring(engine: MultiLevelCache) -> tuple[float, int]:
    """Share of the entries in memory that have an expiry, and their mean TTL in ms.

    Counted when asked, not by every put: from all pages, or from evenly spaced ones when there are many.
    """
    now_ms = engine.now_ms()
    pages = engine.groups.pages
    looked = [page for page in pages[:: -(-len(pages) // KEYSPACE_PAGES_MAX) or 1] if page is not None]
    times = [entry.expires_ms for page in looked for entry in page.entries if entry.expires_ms > now_ms]
    left = [expires_ms - now_ms for expires_ms in times if expires_ms != NEVER_MS]
    return len(left) / max(1, len(times)), sum(left) // max(1, len(left))


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
