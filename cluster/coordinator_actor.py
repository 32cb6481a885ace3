"""The coordinator's process: a thin shell round its decisions, Ray, and Ray's key-value store.

One named detached actor for each cluster, restarted by Ray for ever. It keeps nothing of its own that matters: after a
restart it asks the shards. No get or put comes by here.

Invariants: events are decided one at a time, in the order of their arrival; effects begin in the order of their
decision; when a decision raises, or one of the loops below, the process ends and the next one recovers, so that none
grants leases with half a decision behind it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from typing import Any, Final, NoReturn

from stratacache.cluster import coordinator_events as c
from stratacache.cluster import messages as m
from stratacache.cluster.background import Background, end_loudly
from stratacache.cluster.config import ClusterConfig
from stratacache.cluster.coordinator import Coordinator, Phase
from stratacache.cluster.intelligence_shell import IntelligenceShell
from stratacache.cluster.membership import shard_number
from stratacache.cluster.metrics import ClusterCollector, serve_metrics
from stratacache.cluster.placement import node_seen
from stratacache.cluster.ray_metrics import keep_recording
from stratacache.cluster.registry import Registry
from stratacache.cluster.shard_handles import ShardHandles
from stratacache.cluster.tls import trust_of
from stratacache.node.elapsed import elapsed_s
from stratacache.node.errors import UnavailableError, UsageError
from stratacache.node.merging import merged_stats

TICK_S: Final = 0.25
LOOK_EVERY_S: Final = 2.0
BEGIN_AGAIN_S: Final = 1.0
LAST_WORD_S: Final = 1.0
PORT_MAX: Final = 65_535

log = logging.getLogger(__name__)


class CoordinatorActor:
    """Runs one cluster from the moment it is created; `wait_ready` tells how it went."""

    def __init__(self, config: ClusterConfig) -> None:
        self.config = config
        self.core = Coordinator(
            name=config.name,
            uid=config.uid,
            shard_ids=config.shard_ids(),
            replicas=config.replicas,
            lease_ms=config.lease_ms,
            start_timeout_ms=config.start_timeout_ms,
            port=config.port,
        )
        self.registry = Registry(config.name, config.uid)
        self._background = Background(self._fall)
        self.shards = ShardHandles(config, self._hear, self._background.spawn)
        self._addresses: dict[str, str] = {}
        self._effects: asyncio.Queue[c.CoordinatorEffect] = asyncio.Queue()
        self._changed = asyncio.Event()
        self._trouble = ""
        self._fell = ""
        self._closing: set[asyncio.Task[None]] = set()
        collector = ClusterCollector(
            asyncio.get_running_loop(), lambda: {**self.status(), "prefetch": self.intelligence.seen()}
        )
        self.metrics = serve_metrics(config, collector, None)
        self._background.spawn(keep_recording(collector.totals))
        self.intelligence = IntelligenceShell(
            config, self.registry, lambda: self.shards.actors, self.shards.operations, self._background.spawn
        )
        self._background.spawn(self.intelligence.run())
        self._background.keep(self._act())
        self._background.keep(self._run())

    # -------------------------------------------------------------- what others ask

    async def wait_ready(self, deadline_s: float) -> dict[str, Any]:
        """The status once every shard serves; raises UsageError or UnavailableError with the reason otherwise."""
        try:
            async with asyncio.timeout(deadline_s):
                while not self.core.is_ready():
                    if self.core.phase is Phase.FAILED:
                        raise UsageError(self.core.reason)
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            absent = ", ".join(member.id for member in self.core.members.values() if member.epoch == 0)
            waiting = self._trouble or absent or "the view"
            raise UnavailableError(
                f"cluster {self.config.name} is not ready after {deadline_s:g} s: {waiting}"
            ) from None
        return self.status()

    async def wait_settled(self, deadline_s: float) -> dict[str, Any]:
        """The status once every wanted shard serves and has what is its own; raises UnavailableError otherwise."""
        try:
            async with asyncio.timeout(deadline_s):
                while not self.core.is_settled():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            change = self.core.progress(_now_ms())
            what = change["waits_for"] or f"{change['phase'] or 'a view change'}, {change['left']} entries left"
            name = self.config.name
            raise UnavailableError(f"cluster {name} is not settled after {deadline_s:g} s: {what}") from None
        return self.status()

    async def renew(self, request: m.LeaseRequested) -> c.CoordinatorEffect | None:
        """Answer a shard that asks to go on serving; None when there is nothing to say yet."""
        answer: c.CoordinatorEffect | None = None
        for effect in self._decide(request):
            if isinstance(effect, m.GrantLease | m.RefuseLease) or (
                isinstance(effect, m.Activate) and effect.shard == request.shard
            ):
                answer = effect
            else:
                self._effects.put_nowait(effect)
        return answer

    async def view(self) -> tuple[bytes, str | None, tuple[str, str] | None]:
        """The view in force, the token and how to believe the shards: whoever may call this actor may use the cache."""
        if self.core.view is None:
            raise UnavailableError(f"cluster {self.config.name} is still starting: try again in a few seconds")
        return self.core.view.to_bytes(), self.config.token, trust_of(self.config)

    def status(self) -> dict[str, Any]:
        """What is known without asking the shards."""
        core = self.core
        shards = []
        for member in core.members.values():
            entry = core.view.by_id.get(member.id) if core.view is not None else None
            started = member.started
            shards.append(
                {
                    "id": member.id,
                    "state": entry.state if entry is not None else "leaving" if member.leaving else "starting",
                    "process": member.process.value,
                    "host": entry.host if entry is not None else "",
                    "port": entry.port if entry is not None else 0,
                    "unix": entry.unix if entry is not None else "",
                    "node": member.home,
                    "pid": started.pid if started is not None else 0,
                    "incarnation": member.incarnation,
                    "reason": member.reason,
                }
            )
        return {
            "name": self.config.name,
            "uid": self.config.uid,
            "phase": core.phase.value,
            "ready": core.is_ready(),
            "settled": core.is_settled(),
            "change": core.progress(_now_ms()),
            "epoch": core.view.epoch if core.view is not None else 0,
            "term": core.term,
            "replicas": core.replicas,
            "reason": core.reason,
            "fell": self._fell,
            "metrics": self.metrics.address if self.metrics is not None else "",
            "config": {name: value for name, value in self.config.to_map().items() if name != "token"},
            "shards": shards,
        }

    async def stats(self) -> dict[str, Any]:
        """The status, with each shard's figures and their sum. A shard that gives no answer keeps its last ones."""
        await self.shards.gather_stats()
        status = self.status()
        for shard in status["shards"]:
            shard["stats"] = self.shards.last_stats.get(shard["id"], {})
        status["total"] = merged_stats(shard["stats"] for shard in status["shards"])
        status["prefetch"] = self.intelligence.report()
        return status

    async def register_loader(self, packed: bytes) -> None:
        """Take a loader, by whose name recipes ask for it."""
        await self.intelligence.register(packed)

    async def drain(self, node: str, deadline_s: float) -> list[str]:
        """Close the shards of a Ray node that is about to go, and start none there; returns which those were.

        Raises UnavailableError when that takes longer.
        """
        shards = [one.id for one in self.core.members.values() if one.home == node and one.started is not None]
        before = set(self._closing)
        self._hear(c.NodeDraining(node=node))
        await self._effects.join()
        if closing := self._closing - before:
            _, late = await asyncio.wait(closing, timeout=deadline_s)
            if late:
                raise UnavailableError(
                    f"{len(late)} of {', '.join(shards)} did not close within {deadline_s:g} s: what is not on disk "
                    "when the node ends is lost, so give it more time (--timeout)"
                )
        return shards

    async def resize(self, count: int | None, weights: dict[str, float]) -> dict[str, Any]:
        """Want so many shards (None: as many as now) with these weights; returns the status. Raises UsageError."""
        target = self.core.plan_resize(count, weights)
        last = max(map(shard_number, target))
        if self.config.port and self.config.port + last > PORT_MAX:
            raise UsageError(f"shard-{last} would listen on port {self.config.port + last}: ports go up to {PORT_MAX}")
        return await self._aim(target)

    async def remove(self, shard: str) -> dict[str, Any]:
        """Want the cluster without this shard, whose entries go to the others; returns the status."""
        return await self._aim(self.core.plan_drain(shard))

    async def _aim(self, target: dict[str, float]) -> dict[str, Any]:
        if not await asyncio.to_thread(self.registry.is_newest, self.core.term):
            self._end_outpaced()
        await asyncio.to_thread(self.registry.write_target, target)
        self._hear(c.TargetSet(shards=target))
        return self.status()

    async def stop(self, deadline_s: float = 20.0) -> None:
        """Close every shard and end its process. The caller then ends this actor."""
        self._hear(c.StopRequested())
        await self._effects.join()
        if self._closing:
            await asyncio.wait(self._closing, timeout=deadline_s)
        self.shards.kill_all()
        await asyncio.to_thread(self.registry.forget)

    # -------------------------------------------------------------- deciding and acting

    def _hear(self, event: c.CoordinatorEvent) -> None:
        for effect in self._decide(event):
            self._effects.put_nowait(effect)

    def _decide(self, event: c.CoordinatorEvent) -> list[c.CoordinatorEffect]:
        try:
            effects = self.core.handle(event, _now_ms())
        except Exception as error:  # noqa: BLE001 - it ends the process
            self._fall(f"it could not decide about {type(event).__name__}", error)
        self._changed.set()
        return effects

    def _fall(self, why: str, error: BaseException) -> NoReturn:
        """End the process, and leave a word for the next one, whose status tells it."""
        word = f"term {self.core.term}: {why} ({type(error).__name__}: {error})"
        telling = threading.Thread(target=self.registry.note_fall, args=(word,), daemon=True)
        telling.start()
        telling.join(LAST_WORD_S)  # Ray's control service may be away, and nobody may be granted anything meanwhile
        end_loudly(f"the coordinator of cluster {self.config.name}", why, error)

    async def _run(self) -> None:
        await self._begin()
        self._background.keep(self._confirm())
        self._background.keep(self._look_around())
        while self.core.phase not in (Phase.STOPPING, Phase.FAILED):
            self._hear(c.Ticked())  # awaits nothing else: a late tick makes the coordinator doubt itself
            await asyncio.sleep(TICK_S)

    async def _begin(self) -> None:
        """Recover, as often as it takes. Until then nobody is granted or refused anything, and no shard is ended."""
        while True:
            try:
                await self._recover()
            except Exception as error:
                log.exception("the coordinator could not begin, and tries again")
                self._trouble = f"the coordinator could not begin: {error}"
                await asyncio.sleep(BEGIN_AGAIN_S)
            else:
                self._trouble = ""
                return

    async def _look_around(self) -> None:
        while self.core.phase not in (Phase.STOPPING, Phase.FAILED):
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self._look_at_nodes()
            except Exception as error:  # noqa: BLE001 - Ray's control service is away: what was seen last stands
                log.warning("the coordinator could not look at Ray's nodes: %s", error)
            await self.shards.gather_stats()

    async def _recover(self) -> None:
        """Take a term of its own, then ask every shard that Ray knows."""
        await self._look_at_nodes()
        self._fell = await asyncio.to_thread(self.registry.read_fall)
        term, epoch = await asyncio.to_thread(self.registry.claim)
        self._hear(c.NameConfirmed(sent_ms=_now_ms()))
        names = await asyncio.to_thread(self.registry.shard_actors)
        found, silent = await self.shards.probe_all(names)
        target = await asyncio.to_thread(self.registry.read_target)
        self._hear(c.Recovered(term=term, epoch_floor=epoch, found=tuple(found), silent=tuple(silent), target=target))
        for one in found:
            self._background.spawn(self.shards.watch(one.started.shard, one.started.incarnation))

    async def _confirm(self) -> None:
        """Ask Ray's control service each second whether this is still the coordinator of the highest term.

        One that is not ends: Ray starts the one behind the name again, with a higher term. Two that live on could each
        hold locks that the other's shards wait for.
        """
        while self.core.phase is not Phase.STOPPING:
            sent_ms = _now_ms()
            try:
                newest = await asyncio.to_thread(self.registry.is_newest, self.core.term)
            except Exception:  # noqa: BLE001 - no confirmation, then; leases run out if it lasts
                log.warning("the coordinator could not confirm its name with Ray")
            else:
                if not newest:
                    self._end_outpaced()
                self._hear(c.NameConfirmed(sent_ms=sent_ms))
            await asyncio.sleep(1.0)

    async def _look_at_nodes(self) -> None:
        import ray

        config = self.config
        known = sorted(await asyncio.to_thread(ray.nodes), key=lambda node: str(node["NodeID"]))
        found = (node_seen(node, config.node_resource) for node in known)
        nodes = tuple(node for node in found if node and config.machine in ("", node.address))
        self._addresses = {node.id: node.address for node in nodes}
        if nodes != self.core.processes.nodes:
            self._hear(c.NodesSeen(nodes=nodes))

    async def _act(self) -> None:
        while True:
            effect = await self._effects.get()
            try:
                await self._act_on(effect)
            except Exception:
                log.exception("the coordinator could not carry out %s", type(effect).__name__)
            finally:
                self._effects.task_done()

    async def _act_on(self, effect: c.CoordinatorEffect) -> None:
        match effect:
            case c.RememberEpoch():
                await self._remember(effect)
            case c.StartShard():
                self._start(effect)
            case c.KillShard(shard=shard, incarnation=incarnation):
                self.shards.kill(shard, incarnation)
            case c.CloseShard():
                closing = self._background.spawn(self.shards.close(effect))
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
            case m.Prepare() | m.Activate():
                self._background.spawn(self.shards.deliver(effect))
            case c.ReportFailed(reason=reason):
                log.error("the cluster could not be formed: %s", reason)
                self._changed.set()

    async def _remember(self, effect: c.RememberEpoch) -> None:
        if not await asyncio.to_thread(self.registry.is_newest, effect.term):
            self._end_outpaced()
        if await asyncio.to_thread(self.registry.remember, effect.term, effect.epoch):
            self._hear(c.EpochRemembered(epoch=effect.epoch))
        else:
            self._hear(c.EpochTaken(epoch=effect.epoch))

    def _end_outpaced(self) -> NoReturn:
        log.error("another coordinator has taken over cluster %s: this one ends", self.config.name)
        os._exit(1)

    def _start(self, effect: c.StartShard) -> None:
        import ray

        address = self._addresses.get(effect.node, ray.util.get_node_ip_address())
        pinned = bool(self.config.machine) or any(node.home is not None for node in self.core.processes.nodes)
        self._background.spawn(self.shards.start(effect, address, pinned=pinned))


def _now_ms() -> int:
    """Goes on while the machine sleeps: leases and confirmations grow old meanwhile."""
    return int(elapsed_s() * 1000)
