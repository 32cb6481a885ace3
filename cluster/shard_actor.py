"""The shard's process: a thin shell round the serving decisions, the node's engine and its RESP server.

Ray calls only control it; gets and puts come over sockets. The actor is never restarted by Ray: every process is one
incarnation, made by the coordinator, so that what it holds and who it is never disagree.

Invariant: events are handled one at a time and their effects carried out in order (`_turn`).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from stratacache.cluster import coordinator_events as c
from stratacache.cluster import messages as m
from stratacache.cluster import serving_events as s
from stratacache.cluster.config import RAY_NAMESPACE, ClusterConfig, coordinator_name
from stratacache.cluster.debts import merged
from stratacache.cluster.forwarder import RingForwarder
from stratacache.cluster.handoff import Handoffs
from stratacache.cluster.home import ShardHome
from stratacache.cluster.links import Credentials
from stratacache.cluster.peers import LinkPeers
from stratacache.cluster.replicated import ReplicatedCache
from stratacache.cluster.replication import Replication
from stratacache.cluster.serving import Serving
from stratacache.cluster.stream_links import StreamLinks
from stratacache.cluster.tls import Renewal, check_files, credentials_of, server_files
from stratacache.node.config import NodeConfig
from stratacache.node.engine import MultiLevelCache
from stratacache.node.errors import UsageError
from stratacache.node.merging import with_base
from stratacache.node.pages import PageServer
from stratacache.node.resp.config import ServerConfig
from stratacache.node.resp.server import Identity, NodeServer
from stratacache.node.tuning import tune_process
from stratacache.node.types import EvictionPolicy, RemovalCause

if TYPE_CHECKING:
    from stratacache.cluster.intelligence.facts import PatternReporter

CERTIFICATE_EVERY_S: Final = 30.0
RENEW_MAX_S: Final = 1.0
CALL_DEADLINE_S: Final = 2.0
ORPHAN_AFTER_S: Final = 120.0
"""A shard whose coordinator is gone for good (not only restarting) ends itself: nothing of ours is left behind."""
FIRST_LOCK_WAIT_S: Final = 2.0
LOCK_WAIT_S: Final = 20.0
"""Ray takes some 5 s to kill a process that does not answer; its successor waits for the lock."""

log = logging.getLogger(__name__)

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


class ShardActor:
    """One incarnation of one shard. Call `start` first."""

    def __init__(self, spec: ShardSpec) -> None:
        self.spec = spec
        config = spec.config
        self.serving = Serving(shard=spec.shard, incarnation=spec.incarnation, lease_ms=config.lease_ms)
        self.home = ShardHome(data_dir=config.data_dir, cluster=config.name, uid=config.uid, shard=spec.shard)
        self.engine: MultiLevelCache
        self.server: NodeServer
        self.forwarder: RingForwarder
        self.replication: Replication | None = None
        self.links: StreamLinks | None = None
        self._settling = 0
        self.peers: LinkPeers
        self.handoffs: Handoffs
        self.credentials: Credentials
        self.started: m.ShardStarted | None = None
        self.metrics: PageServer | None = None
        self._turn = asyncio.Lock()
        self._ask = asyncio.Event()
        self._reporter: PatternReporter | None = None
        self._coordinator: Any = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> m.ShardStarted:
        """Open the home and listen, without serving yet; raises UsageError with one line for the user."""
        spec, config = self.spec, self.spec.config
        check_files(config)
        self.credentials = credentials_of(config)
        await self.home.open(FIRST_LOCK_WAIT_S if spec.incarnation == 1 else LOCK_WAIT_S)
        stored = self.home.read_state()
        loop = asyncio.get_running_loop()
        tune_process()
        if config.replicas > 1:
            self._open_replicated(loop)
        else:
            self.engine = MultiLevelCache(node_config(config, self.home), post=loop.call_soon_threadsafe)
            self.forwarder = RingForwarder(spec.shard, self.credentials)
        await self._listen()
        await self._serve_metrics()
        endpoints = self.server.endpoints
        self.started = m.ShardStarted(
            shard=spec.shard,
            incarnation=spec.incarnation,
            host=endpoints.host,
            port=endpoints.port,
            unix=endpoints.unix,
            node=spec.node,
            pid=os.getpid(),
            fence=self.home.fence,
            stored=stored,
        )
        self._tasks.append(loop.create_task(self._keep_lease()))
        if config.tls_certificate:
            self._tasks.append(loop.create_task(self._keep_certificate()))
        return self.started

    def _open_replicated(self, loop: asyncio.AbstractEventLoop) -> None:
        spec, config = self.spec, self.spec.config
        engine = ReplicatedCache(node_config(config, self.home), post=loop.call_soon_threadsafe)
        self.engine = engine
        self.replication = Replication(spec.shard, engine, may_serve=self._may_serve, missed=self._missed)
        self.forwarder = RingForwarder(spec.shard, self.credentials, self.replication.chains)
        self.links = StreamLinks(spec.incarnation, self.credentials, self.replication, self.forwarder)

    def _may_serve(self) -> bool:
        return self.server.may_serve()

    async def _listen(self) -> None:
        spec, config = self.spec, self.spec.config
        ports: Sequence[int] = (spec.port,) if config.port or not spec.port else (spec.port, 0)
        if config.port_span:
            ports = range(config.port, config.port + config.port_span)
        for port in ports:
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
            self.server.serve_until_ms = 0
            self.server.owe = self._owe
            self.server.copies = self.replication
            self._hand_over()
            self.server.node_stats = self._node_stats
            try:
                await self.server.start()
            except OSError as error:
                await self.server.stop(0)
                reason = _CANT_LISTEN.get(error.errno or 0)
                if reason is None:
                    raise
                problem = UsageError(f"port {port} on {spec.host} {reason}: choose another --port or --host")
                continue
            return
        raise problem

    async def _serve_metrics(self) -> None:
        from stratacache.cluster.metrics import serve_metrics
        from stratacache.cluster.ray_metrics import keep_recording
        from stratacache.node.metrics import NodeCollector

        collector = NodeCollector(self.server, lambda stats: with_base(stats, self.spec.base))
        place = int(self.spec.shard.rpartition("-")[2])
        self.metrics = await asyncio.to_thread(serve_metrics, self.spec.config, collector, place)
        self._tasks.append(asyncio.get_running_loop().create_task(keep_recording(collector.totals)))

    def _hand_over(self) -> None:
        spec, engine = self.spec, self.engine
        loop = asyncio.get_running_loop()
        self.peers = LinkPeers(self.credentials)

        def gone(epoch: int) -> None:
            self._tasks.append(loop.create_task(self._leftovers_gone(epoch)))

        self.handoffs = Handoffs(
            engine, self.server, self.forwarder.ownership, self.peers, incarnation=spec.incarnation, gone=gone
        )
        self.server.departures = self.handoffs

    async def _move(self, effect: s.StopMoving | s.DropLeftovers | s.BeginHandoff) -> None:
        match effect:
            case s.StopMoving(view=view):
                self.handoffs.stop_moving(view)
            case s.DropLeftovers():
                gone = asyncio.get_running_loop().create_future()
                self.handoffs.drop_leftovers(lambda: gone.set_result(None))
                await gone
            case s.BeginHandoff():
                self.handoffs.begin(effect)

    async def _leftovers_gone(self, epoch: int) -> None:
        await self._handle(s.LeftoversGone(epoch=epoch))

    async def _keep_certificate(self) -> None:
        """Show a renewed certificate; a file that can't be read leaves the old one."""
        renewal = Renewal(self.spec.config.tls_certificate, self.spec.config.tls_key)
        while True:
            await asyncio.sleep(CERTIFICATE_EVERY_S)
            assert self.server.tls is not None
            try:
                await asyncio.to_thread(renewal.apply, self.server.tls)
            except OSError as error:
                log.warning("the renewed certificate can't be used: %s", error)

    async def deliver(self, event: m.Prepare | m.Activate) -> list[m.Prepared | m.Activated | m.Outpaced]:
        """Take a step of a view change; returns what this shard vouches for."""
        answers = await self._handle(event)
        if self._settling and self.replication is not None:
            epoch, self._settling = self._settling, 0
            await asyncio.wrap_future(self.replication.outbox.drained())  # not in the turn: leases go on
            answers += await self._handle(s.Settled(epoch=epoch))
        return answers

    async def _handle(self, event: s.ServingEvent) -> list[m.Prepared | m.Activated | m.Outpaced]:
        answers = []
        async with self._turn:
            effects = self.serving.handle(event, self.engine.now_ms())
            self._hear_invalidations(self.serving.is_logging())
            for effect in effects:
                match effect:
                    case s.HoldInvalidations(on=on):
                        self.server.hold_invalidations = on
                    case s.ServeUntil(ms=ms):
                        self.server.serve_until_ms = ms
                    case s.HoldChains(view=view) if self.replication is not None and self.links is not None:
                        self.replication.prepare(view)
                        self.links.follow(view)
                    case s.Settle(epoch=epoch):
                        self._settling = epoch
                    case s.DropContent():
                        await settled(self._alone.clear())
                    case s.PayDebts(debts=debts):
                        await self._pay(debts)
                    case s.StoreState(epoch=epoch, ring=ring, mixed=mixed):
                        await asyncio.to_thread(self.home.write_state, self._stored(epoch, ring, mixed))
                    case s.StopMoving() | s.DropLeftovers() | s.BeginHandoff():
                        await self._move(effect)
                    case s.ShowView(view=view, returns=returns):
                        self.server.set_view(view.to_bytes(), view.epoch)
                        self.forwarder.set_view(view)
                        if self.replication is not None and self.links is not None:
                            self.replication.activate(view, returns=returns)
                            self.links.follow(view)
                    case s.Answer(event=answer):
                        answers.append(answer)
                    case s.AskLease():
                        self._ask.set()
                    case s.End():
                        os._exit(0)
        return answers

    def _hear_invalidations(self, on: bool) -> None:
        """Be told of the engine's changes only while some shard owes them: each put costs less without."""
        hears = self._note in self.server.listeners
        if on and not hears:
            self.server.listeners.append(self._note)
            self.server.listen()
        elif hears and not on:
            self.server.listeners.remove(self._note)
            self.server.listen()

    def _note(self, kind: str, names: Sequence[bytes], cause: RemovalCause, seq: int) -> None:  # noqa: ARG002
        if kind != "keys":
            self.serving.handle(s.Invalidated(debt=m.Debt(kind=kind, names=tuple(names))), 0)
        elif self.replication is not None:
            for key in names:
                for shard in self.replication.chains.away(key):
                    self._missed(shard, (key,))

    def _missed(self, shard: str, keys: Sequence[bytes]) -> None:
        """Note keys that have changed without one of their owners."""
        for key in keys:
            self.serving.handle(s.Invalidated(debt=m.Debt(kind="keys", names=(key,)), shard=shard), 0)

    @property
    def _alone(self) -> MultiLevelCache:
        """The engine for what concerns this shard only."""
        return self.engine.alone() if isinstance(self.engine, ReplicatedCache) else self.engine

    def _owe(self, keys: Sequence[bytes]) -> None:
        """Note keys that a client invalidates everywhere, since their owner is suspended."""
        self.serving.handle(s.Invalidated(debt=m.Debt(kind="keys", names=tuple(keys))), 0)

    def _stored(self, epoch: int, ring: str, mixed: bool) -> m.Stored:
        return m.Stored(
            uid=self.spec.config.uid,
            incarnation=self.spec.incarnation,
            epoch=epoch,
            ring=ring,
            clean=False,
            pinned=self.spec.pinned,
            mixed=mixed,
        )

    async def _pay(self, debts: Sequence[m.Debt]) -> None:
        for debt in merged(debts):
            match debt.kind:
                case "tags":
                    await settled(self._alone.invalidate_tags(debt.names))
                case "keys":
                    await settled(self._alone.invalidate_keys(debt.names))
                case "namespace":
                    await settled(self._alone.invalidate_namespace(debt.names[0]))
                case _:
                    await settled(self._alone.clear())

    async def _keep_lease(self) -> None:
        """Ask for the right to serve, each second and when told to. The lease counts from when the request was sent."""
        from ray.exceptions import ActorDiedError, RayError

        loop = asyncio.get_running_loop()
        heard_s = loop.time()
        renew_s = min(RENEW_MAX_S, self.spec.config.lease_ms / 10_000)
        while True:
            self._ask.clear()
            sent_ms = self.engine.now_ms()
            request = m.LeaseRequested(
                shard=self.spec.shard,
                incarnation=self.spec.incarnation,
                epoch=self.serving.epoch,
                leftovers=self.handoffs.left,
            )
            try:
                coordinator = await self._find_coordinator()
                effect = await asyncio.wait_for(coordinator.renew.remote(request), CALL_DEADLINE_S)
                heard_s = loop.time()
                await self._take_lease(effect, sent_ms)
            except (RayError, TimeoutError, ValueError) as error:
                if isinstance(error, ActorDiedError | ValueError):
                    self._coordinator = None
                    if loop.time() - heard_s > ORPHAN_AFTER_S:
                        self.home.close()
                        os._exit(0)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ask.wait(), renew_s)

    async def _find_coordinator(self) -> Any:
        if self._coordinator is None:
            import ray

            name = coordinator_name(self.spec.config.name)
            self._coordinator = await asyncio.to_thread(ray.get_actor, name, RAY_NAMESPACE)
        return self._coordinator

    async def _take_lease(self, effect: c.CoordinatorEffect | None, sent_ms: int) -> None:
        match effect:
            case m.GrantLease(term=term, epoch=epoch):
                await self._handle(s.LeaseGranted(term=term, epoch=epoch, sent_ms=sent_ms))
            case m.RefuseLease() | m.Activate():
                await self._handle(effect)

    async def probe(self) -> tuple[str, m.Found | None]:
        """What a new coordinator has to know: the cluster's life, and this shard's state once it has started."""
        if self.started is None:
            return self.spec.config.uid, None
        serving = self.serving
        found = m.Found(
            started=self.started,
            view=serving.newest_view(),
            serves=serving.may_serve(self.engine.now_ms()),
            away=dict(serving.away),
            fences=dict(serving.fences),
        )
        return self.spec.config.uid, found

    def _node_stats(self) -> dict[str, Any]:
        return with_base(self.engine.stats(), self.spec.base)

    async def stats(self) -> dict[str, Any]:
        """The node's counters and gauges."""
        return {
            **self._node_stats(),
            "server": self.server.stats(),
            "metrics": self.metrics.address if self.metrics is not None else "",
            "pid": os.getpid(),
            "serving": self.serving.may_serve(self.engine.now_ms()),
            "epoch": self.serving.epoch,
            "uptime_ms": self.engine.now_ms() - self.server.started_ms,
        }

    async def patterns(self, reader: str, keys_max: int) -> bytes:
        """What changed of this shard's access patterns since `reader` asked last."""
        if self._reporter is None:
            from stratacache.cluster.intelligence.facts import PatternReporter

            self._reporter = PatternReporter(self.engine, f"{self.spec.shard}/{self.spec.incarnation}")
        return self._reporter.report(reader, keys_max).to_bytes()

    async def wake(self, keys: Sequence[bytes]) -> list[bytes]:
        """Bring keys up to L1, some at a time; those that were not there before."""
        woken = []
        for number, key in enumerate(keys):
            if self.serving.may_serve(self.engine.now_ms()) and await settled(self.engine.wake(key)):
                woken.append(key)
            if number % 16 == 15:
                await asyncio.sleep(0)
        return woken

    async def watch(self) -> None:
        """Never returns: the caller learns of this process's end by the error."""
        await asyncio.Event().wait()

    async def close(self, deadline_s: float = 10.0, *, forget: bool = False) -> None:
        """Stop serving, flush the L3, and mark it clean; with `forget` empty it first."""
        for task in self._tasks:
            task.cancel()
        async with self._turn:
            serves = self.serving.prepared is None and self.serving.epoch > 0
            if self.started is None:
                return
            if self.metrics is not None:
                await asyncio.to_thread(self.metrics.close)
            await self.server.stop(deadline_s / 2)
            if self.links is not None:
                await self.links.close()
            await self.forwarder.close()
            self.peers.close()
            if forget:
                await settled(self.engine.clear())
            await asyncio.to_thread(self.engine.close, deadline_s / 2)
            if serves:
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


async def settled(result: int | bool | Future[Any]) -> Any:
    """The engine's answer, waited for when the disk has to be."""
    if isinstance(result, Future):
        return await asyncio.wrap_future(result)
    return result


def listen_address(config: ClusterConfig, node_address: str) -> str:
    """Where a shard on a Ray node listens: as configured, else loopback on one machine, else the node's address."""
    if config.host:
        return config.host
    return "127.0.0.1" if config.machine else node_address
