"""What one shard process is made of: its home on this machine, the engine, the RESP server, and the links to others.

Invariants: nothing is served before `serve_until_ms` is set by who decides on it (serving_shell.py); the home's lock is
held from the beginning of `open` to the end of `close`, or of the process.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from stratacache.cluster.background import Background, end_loudly
from stratacache.cluster.config import ClusterConfig
from stratacache.cluster.forwarder import RingForwarder
from stratacache.cluster.handoff import Handoffs
from stratacache.cluster.home import ShardHome
from stratacache.cluster.links import Credentials
from stratacache.cluster.peers import LinkPeers
from stratacache.cluster.replicated import ReplicatedCache
from stratacache.cluster.replication import Replication
from stratacache.cluster.stream_links import StreamLinks
from stratacache.cluster.tls import Renewal, check_files, credentials_of, keep_renewed, server_files
from stratacache.node.config import NodeConfig
from stratacache.node.engine import MultiLevelCache
from stratacache.node.errors import UsageError
from stratacache.node.merging import with_base
from stratacache.node.pages import PageServer
from stratacache.node.resp.config import ServerConfig
from stratacache.node.resp.server import Identity, NodeServer
from stratacache.node.tuning import tune_process
from stratacache.node.types import EvictionPolicy

FIRST_LOCK_WAIT_S: Final = 2.0
LOCK_WAIT_S: Final = 20.0
"""Ray takes some 5 s to kill a process that does not answer; its successor waits for the lock."""

_CANT_LISTEN: Final = {
    errno.EADDRINUSE: "is in use",
    errno.EACCES: "is not allowed for this user",
    errno.EADDRNOTAVAIL: "can't be used, the address is none of this machine's",
}


@dataclass(frozen=True, kw_only=True)
class ShardSpec:
    """What one incarnation of a shard is told. `port` is a wish, unless the config fixes it.

    `base` is what earlier incarnations had counted.
    """

    config: ClusterConfig
    shard: str
    incarnation: int
    host: str
    port: int
    node: str
    pinned: bool
    base: Mapping[Any, Any] = field(default_factory=dict)


class ShardNode:
    """The parts of one incarnation of one shard. `open` makes them; `close` ends them in order.

    `owe` records keys that are invalidated while their owner is suspended, `missed` those that change without one of
    their owners, and `gone` hears that all that had moved away by an epoch is gone.
    """

    engine: MultiLevelCache
    server: NodeServer
    forwarder: RingForwarder
    peers: LinkPeers
    handoffs: Handoffs
    credentials: Credentials

    def __init__(
        self,
        spec: ShardSpec,
        *,
        owe: Callable[[Sequence[bytes]], None],
        missed: Callable[[str, Sequence[bytes]], None],
        gone: Callable[[int], Coroutine[Any, Any, None]],
    ) -> None:
        config = spec.config
        self.spec = spec
        self.home = ShardHome(data_dir=config.data_dir, cluster=config.name, uid=config.uid, shard=spec.shard)
        self.replication: Replication | None = None
        self.links: StreamLinks | None = None
        self.metrics: PageServer | None = None
        self._owe = owe
        self._missed = missed
        self._gone = gone
        self.background = Background(self.fall)

    @property
    def alone(self) -> MultiLevelCache:
        """The engine for what concerns this shard only."""
        return self.engine.alone() if isinstance(self.engine, ReplicatedCache) else self.engine

    def stats(self) -> dict[str, Any]:
        """The engine's figures, with those of earlier incarnations."""
        return with_base(self.engine.stats(), self.spec.base)

    # -------------------------------------------------------------- opening

    async def open(self) -> None:
        """Take the home's lock, open what lies there, and listen; raises UsageError with one line for the user."""
        spec, config = self.spec, self.spec.config
        renewal = Renewal(config)
        check_files(config, comes_back=spec.incarnation > 1)
        self.credentials = credentials_of(config)
        await self.home.open(FIRST_LOCK_WAIT_S if spec.incarnation == 1 else LOCK_WAIT_S)
        tune_process()
        post = asyncio.get_running_loop().call_soon_threadsafe
        if config.replicas > 1:
            engine = self.engine = ReplicatedCache(node_config(config, self.home), post=post)
            self.replication = Replication(spec.shard, engine, may_serve=self._may_serve, missed=self._missed)
            self.forwarder = RingForwarder(spec.shard, self.credentials, self.replication.chains)
            self.links = StreamLinks(spec.incarnation, self.credentials, self.replication, self.fall)
        else:
            self.engine = MultiLevelCache(node_config(config, self.home), post=post)
            self.forwarder = RingForwarder(spec.shard, self.credentials)
        self.peers = LinkPeers(self.credentials, self.fall)
        await self._listen()
        await self._serve_metrics()
        if self.server.tls is not None:
            self.background.keep(keep_renewed(renewal, self.server.tls, self.credentials))

    def _may_serve(self) -> bool:
        return self.server.may_serve()  # the server is made later, and may be made again

    async def _listen(self) -> None:
        config, wish = self.spec.config, self.spec.port
        ports: Sequence[int] = (wish,) if config.port or not wish else (wish, 0)
        if config.port_span:
            ports = range(config.port, config.port + config.port_span)
        for port in ports:
            self._make_server(port)
            try:
                await self.server.start()
            except OSError as error:
                await self.server.stop(0)
                reason = _CANT_LISTEN.get(error.errno or 0)
                if reason is None:
                    raise
                problem = UsageError(f"port {port} on {self.spec.host} {reason}: choose another --port or --host")
                continue
            return
        raise problem

    def _make_server(self, port: int) -> None:
        spec, config = self.spec, self.spec.config
        self.server = NodeServer(
            self.engine,
            ServerConfig(
                host=spec.host,
                port=port,
                unix_path=self.home.unix,
                token=config.token,
                insecure=config.insecure,
                **server_files(config),
            ),
            self.forwarder,
            Identity(cluster=config.name, shard=spec.shard, incarnation=spec.incarnation),
        )
        self.handoffs = Handoffs(
            self.engine,
            self.server,
            self.forwarder.ownership,
            self.peers,
            incarnation=spec.incarnation,
            gone=lambda epoch: self.background.spawn(self._gone(epoch)),
        )
        self.server.serve_until_ms = 0
        self.server.owe = self._owe
        self.server.copies = self.replication
        self.server.departures = self.handoffs
        self.server.node_stats = self.stats

    async def _serve_metrics(self) -> None:
        from stratacache.cluster.metrics import serve_metrics
        from stratacache.cluster.ray_metrics import keep_recording
        from stratacache.node.metrics import NodeCollector

        collector = NodeCollector(self.server, lambda stats: with_base(stats, self.spec.base))
        place = int(self.spec.shard.rpartition("-")[2])
        self.metrics = await asyncio.to_thread(serve_metrics, self.spec.config, collector, place)
        self.background.spawn(keep_recording(collector.totals))

    # -------------------------------------------------------------- running and closing

    def fall(self, why: str, error: BaseException) -> NoReturn:
        """End the process because of what must not fail."""
        end_loudly(self.spec.shard, why, error)

    async def close(self, deadline_s: float, *, forget: bool, clean: bool) -> None:
        """Stop serving and flush the L3, `forget` after emptying it; `clean` marks it as written to the end."""
        if self.metrics is not None:
            await asyncio.to_thread(self.metrics.close)
        await self.server.stop(deadline_s / 2)
        if self.links is not None:
            await self.links.close()
        await self.forwarder.close()
        self.peers.close()
        if forget:
            await when_done(self.engine.clear())
        await asyncio.to_thread(self.engine.close, deadline_s / 2)
        if clean:
            self.home.mark_clean()
        self.home.close()


def node_config(config: ClusterConfig, home: ShardHome) -> NodeConfig:
    """One shard's share of a cluster's configuration."""
    return NodeConfig(
        l1_bytes_max=config.l1_bytes_max,
        l2_bytes_max=config.l2_bytes_max,
        l3_bytes_max=config.l3_bytes_max if home.l3 is not None else 0,
        data_dir=home.l3,
        policy=EvictionPolicy(config.policy),
    )


async def when_done(result: int | bool | Future[Any]) -> Any:
    """The engine's answer, waited for when the disk has to be."""
    if isinstance(result, Future):
        return await asyncio.wrap_future(result)
    return result
