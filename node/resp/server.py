"""The node's server: listens, admits, keeps the clients' limits, and stops without losing what was received.

Invariants: it does not listen where its configuration would let strangers in; all state is touched on one event loop;
what the clients together know of the node (view, serving right, pushes) stands here and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import msgpack

from stratacache.node.entry import NEVER_MS
from stratacache.node.errors import UsageError
from stratacache.node.resp import commands, tls
from stratacache.node.resp.commands.tracking import Tracking
from stratacache.node.resp.config import ServerConfig, is_loopback
from stratacache.node.resp.connection import Connection
from stratacache.node.resp.keepalive import CLIENT, keep_alive
from stratacache.node.resp.lookout import Lookout
from stratacache.node.resp.output import Output, ServerState
from stratacache.node.resp.reception import Reception, listening_sockets
from stratacache.node.resp.routing import Arrivals, Copies, Departures, Forwarder
from stratacache.node.resp.table import Access
from stratacache.node.resp.watch import Watchers
from stratacache.node.types import RemovalCause

if TYPE_CHECKING:
    from stratacache.node.engine import MultiLevelCache

log = logging.getLogger(__name__)

TICK_S: Final = 0.05
HTTP_LOGGED_EVERY_MS: Final = 60_000
BACKLOG: Final = 1024

ChangeListener = Callable[[str, Sequence[bytes], RemovalCause, int], None]

assert commands.__all__, "importing the commands fills the table"


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Who this node is, as SC.HELLO and SC.VIEW tell it."""

    cluster: str = ""
    shard: str = "shard-0"
    incarnation: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoints:
    """Where a started server listens; `port` is 0 and `unix` empty where it does not."""

    host: str
    port: int
    unix: str


class NodeServer:
    """Serves one engine over RESP on a TCP port, a Unix socket, or both.

    All methods are to be called on the loop on which `start` ran. `forwarder` is None when this node owns all keys.
    """

    def __init__(
        self,
        engine: MultiLevelCache,
        config: ServerConfig,
        forwarder: Forwarder | None = None,
        identity: Identity | None = None,
    ) -> None:
        config.validate()
        self.engine = engine
        self.config = config
        self.forwarder = forwarder
        self.identity = identity or Identity(incarnation=secrets.randbits(62))
        engine.leases.origin = b"%x-" % self.identity.incarnation
        self.epoch = 0
        self.view = b""
        self.endpoints = Endpoints(host="", port=0, unix="")
        self.hold_invalidations = False
        """Refuse invalidations of tags, namespaces and everything (while a view changes)."""
        self._table_is_owned = True
        self.access_without_token = Access.NONE if config.token else Access.FULL
        self.connections: dict[int, Connection] = {}
        self.slow: set[Output] = set()
        self.pushes_pending: set[Output] = set()
        self.started_ms = engine.now_ms()
        self.run_id = secrets.token_hex(20)
        self.connections_received = 0
        self.connections_rejected = 0
        self.cut_clients = 0
        self.state = ServerState()
        self.errors: dict[str, int] = {}
        self.watchers = Watchers(self)
        self.tracking = Tracking(self)
        self.listeners: list[ChangeListener] = []
        """Also told of every change of the engine; call `listen` after changing it."""
        self.owe: Callable[[Sequence[bytes]], None] | None = None
        """Told of keys that were invalidated but are not owned here: a shard that is suspended may owe them. While
        nobody records them, such keys are refused: to acknowledge them would be to forget them."""
        self.arrivals: Arrivals | None = None
        """Entries that may still have to be fetched from the former owner of their keys."""
        self.departures: Departures | None = None
        """What new owners ask for entries of keys that were this shard's."""
        self.copies: Copies | None = None
        """What the other owners of this shard's keys are served by; None when there are none."""
        self.patterns: Callable[[], dict[str, Any]] = engine.insight.patterns_dict
        """What SC.PATTERNS answers."""
        self.node_stats: Callable[[], dict[str, Any]] = engine.stats
        """What SC.STATS answers; a shard adds what its predecessors had counted."""
        self.current: Connection | None = None  # the tracking client whose command is being run
        self.loop: asyncio.AbstractEventLoop
        self.tls: ssl.SSLContext | None = None
        """What TLS connections are accepted with; certificates that are loaded into it are shown from then on."""
        self._servers: list[asyncio.AbstractServer | Reception] = []
        self._reception: Reception | None = None
        self._ticking: asyncio.TimerHandle | None = None
        self._stopping = False
        self._silent = False  # it may not serve at the moment
        self._http_logged_ms = -HTTP_LOGGED_EVERY_MS

    # -- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> Endpoints:
        """Listen; returns where. Raises OSError when an address can't be had."""
        self.loop = asyncio.get_running_loop()
        self.state.lookout = Lookout(self.state, self.loop.call_soon)
        config = self.config
        port = 0
        if config.port is not None:
            port = await self._listen_tcp(config.host, config.port)
        if config.unix_path is not None:
            await self._listen_unix(config.unix_path)
        self.endpoints = Endpoints(
            host=config.host if config.port is not None else "", port=port, unix=str(config.unix_path or "")
        )
        if not self.view:
            self.set_view(self._own_view(), 0)
        self._ticking = self.loop.call_later(TICK_S, self._tick)
        return self.endpoints

    async def stop(self, deadline_s: float = 10.0) -> None:
        """Accept no more, answer what was received, then close every connection; cut those that take too long."""
        self._stopping = True
        for server in self._servers:
            server.close()
        until = self.loop.time() + deadline_s
        while self.loop.time() < until and not all(client.idle for client in self.connections.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        for client in list(self.connections.values()):
            client.close()
        while self.connections and self.loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        for client in list(self.connections.values()):
            client.cut("the node stops")
        if self._ticking is not None:
            self._ticking.cancel()
        if self.config.unix_path is not None:
            with suppress(FileNotFoundError):
                self.config.unix_path.unlink()
        await asyncio.sleep(0)

    def _check_listener(self, address: str) -> None:
        """Raise UsageError when a name that should be this machine's alone has become another address."""
        if not (self.config.token or self.config.insecure or is_loopback(address)):
            for server in self._servers:
                server.close()
            raise UsageError(f"refusing to listen on {address}, which is {self.config.host}, without a token: set one")

    def _connection(self) -> asyncio.BaseProtocol:
        return cast("asyncio.BaseProtocol", Connection(self))  # it has the methods of one

    async def _listen_tcp(self, host: str, port: int) -> int:
        self.tls = tls.listening(self.config)
        server: asyncio.Server | Reception
        if self.tls is None:
            server = await self.loop.create_server(self._connection, host, port, backlog=BACKLOG)
        else:
            sockets = await listening_sockets(host, port, BACKLOG)
            server = self._reception = Reception(sockets, self.tls, self._connection, self._has_room)
        self._servers.append(server)
        for listener in server.sockets:
            self._check_listener(listener.getsockname()[0])
            keep_alive(listener, CLIENT)  # what is accepted there inherits it
        return int(server.sockets[0].getsockname()[1])

    async def _listen_unix(self, path: Path) -> None:
        """Listen on a socket that only this user can reach, from its first moment."""
        if path.is_socket():  # noqa: ASYNC240 (before anybody is served)
            path.unlink()  # noqa: ASYNC240
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        server = await self.loop.create_unix_server(self._connection, str(fresh), backlog=BACKLOG)
        fresh.chmod(0o600)
        fresh.rename(path)
        self._servers.append(server)

    def _tick(self) -> None:
        """What time brings: expiry, sweeping, heartbeats, slow and idle clients."""
        self._ticking = self.loop.call_later(TICK_S, self._tick)
        self.engine.tick()
        now_ms = self.engine.now_ms()
        self.watchers.tick(now_ms)
        was_silent, self._silent = self._silent, self.state.serve_until_ms <= now_ms
        if self._silent and not was_silent and self.tracking.clients:
            self.tracking.group_changed("all", ())  # changes from now on are not heard of here
        self.flush_pushes()
        config = self.config
        for client in list(self.slow):
            size = client.output_bytes
            if size > config.output_bytes_max:
                client.cut("output buffer over its limit")
            elif size <= config.output_soft_bytes_max:
                client.output_since_ms = now_ms
            elif now_ms - client.output_since_ms > config.output_soft_s * 1000:
                client.cut("reads too slowly")
        if config.idle_s:
            for client in list(self.connections.values()):
                if client.idle and now_ms - client.active_ms > config.idle_s * 1000:
                    client.close()

    # -- what the cluster tells its server ----------------------------------------------------------------------------

    def set_view(self, blob: bytes, epoch: int) -> None:
        """Set what SC.VIEW answers, and the epoch of MOVED and SUSPENDED."""
        self.view = blob
        self.epoch = epoch

    def may_serve(self) -> bool:
        """Whether data commands are answered at this moment."""
        until_ms = self.serve_until_ms
        return until_ms == NEVER_MS or self.engine.now_ms() < until_ms

    def _own_view(self) -> bytes:
        """The view of a node that is no part of a cluster."""
        shard = {
            "id": self.identity.shard,
            "host": self.endpoints.host,
            "port": self.endpoints.port,
            "unix": self.endpoints.unix,
            "weight": 1,
            "incarnation": self.identity.incarnation,
            "node": "",
        }
        view = {"epoch": 0, "cluster": self.identity.cluster, "replicas": 1, "shards": [shard]}
        packed: bytes = msgpack.packb(view)
        return packed

    @property
    def serve_until_ms(self) -> int:
        """Data commands are refused from this time of the engine's clock on (a shard's serving lease)."""
        return self.state.serve_until_ms

    @serve_until_ms.setter
    def serve_until_ms(self, until_ms: int) -> None:
        self.state.serve_until_ms = until_ms

    @property
    def table_is_owned(self) -> bool:
        """Whether every entry in the engine's table may be served from here without asking the forwarder."""
        return self._table_is_owned

    @table_is_owned.setter
    def table_is_owned(self, owned: bool) -> None:
        self._table_is_owned = owned
        for client in self.connections.values():
            client.refresh_mode()

    # -- what connections ask of their server -------------------------------------------------------------------------

    def admit(self, client: Connection) -> bool:
        """Take a client in; False when there are too many, or when the server stops."""
        if self._reception is not None:
            self._reception.greeting.discard(client)
        self.connections_received += 1
        if not self._has_room():
            return False
        client.id = self.connections_received
        self.connections[client.id] = client
        return True

    def _has_room(self) -> bool:
        """Whether one more may come; those count who are just shaking hands."""
        greeting = len(self._reception.greeting) if self._reception is not None else 0
        if self._stopping or len(self.connections) + greeting >= self.config.connections_max:
            self.connections_rejected += 1
            return False
        return True

    def dismiss(self, client: Connection) -> None:
        """Forget a client."""
        self.connections.pop(client.id, None)
        self.slow.discard(client)
        self.pushes_pending.discard(client)
        self.forget(client)

    def forget(self, client: Connection) -> None:
        """Stop telling a client of changes, and give its leases to who waits for them."""
        self.watchers.discard(client)
        self.tracking.discard(client)
        self.listen()
        for token, key in client.leases.items():
            self.engine.release_lease(key, token)
        client.leases.clear()

    def refuse_http(self, client: Connection) -> bytes:
        """Close a client that speaks HTTP, unanswered: any web page can have its reader's browser send it here."""
        now_ms = self.engine.now_ms()
        if now_ms >= self._http_logged_ms + HTTP_LOGGED_EVERY_MS:
            self._http_logged_ms = now_ms
            log.warning("client %d (%s) speaks HTTP and is closed: perhaps a web page attacks", client.id, client.peer)
        client.closing = True
        return b""

    def stats(self) -> dict[str, Any]:
        """The server's own counters."""
        return {
            "clients": len(self.connections),
            "watching": len(self.watchers),
            "connections_received": self.connections_received,
            "connections_rejected": self.connections_rejected,
            "clients_cut": self.cut_clients,
            "commands": self.state.commands,
            "errors": dict(self.errors),
            "bytes_in": self.state.bytes_in,
            "bytes_out": self.state.bytes_out,
        }

    def count_error(self, text: str) -> None:
        """Count an error reply by its first word; the words are ours, so the table stays small."""
        word = text.split(" ", 1)[0][:32]
        if word in self.errors or len(self.errors) < 128:
            self.errors[word] = self.errors.get(word, 0) + 1

    def listen(self) -> None:
        """Hear of the engine's changes as long as anybody wants to be told: each put costs less without."""
        wanted = len(self.watchers) or self.tracking.clients or self.listeners
        self.engine.listener = self if wanted else None
        self.engine.residents.gone = self._gone if self.tracking.clients else None

    def changed(self, kind: str, names: Sequence[bytes], cause: RemovalCause, seq: int) -> None:
        """Take note of a change of the engine; it is pushed before its maker is answered."""
        self.state.dirty = True
        if kind == "keys":
            self.watchers.keys_changed(names)
            if self.tracking.clients:
                self.tracking.keys_changed(names)
        else:
            self.watchers.group_changed(kind, names)
            if self.tracking.clients:
                self.tracking.group_changed(kind, names)
        for listener in self.listeners:
            listener(kind, names, cause, seq)

    def keys_moved(self) -> None:
        """Have near caches and tracking clients forget what they read here: others change it from now on."""
        self.watchers.group_changed("all", ())
        if self.tracking.clients:
            self.tracking.group_changed("all", ())
        self.flush_pushes()

    def _gone(self, key: bytes, cause: RemovalCause) -> None:  # noqa: ARG002
        self.state.dirty = True
        self.tracking.keys_changed((key,))

    def flush_pushes(self, writer: Output | None = None) -> None:
        """Send what waits for near caches and tracking clients.

        `writer`, about to send its replies, hears of its own changes behind them if it tracks, as in Redis: a value
        that it has read before in the same pipeline must not come after the news that it is out of date.
        """
        self.state.dirty = False
        self.watchers.flush()
        self.tracking.flush()
        while self.pushes_pending:
            client = self.pushes_pending.pop()
            if client is not writer or client.tracking is None:
                client.flush_pushes()

    def post(self, fn: Callable[[], Any]) -> None:
        """Run `fn` on the server's loop; callable from any thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(fn)
