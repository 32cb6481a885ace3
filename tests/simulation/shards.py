"""A shard process: the real engine, RESP server and serving decisions, without Ray, sockets and threads.

It mirrors what `cluster/serving_shell.py` does with those effects of the decisions that take a while, in the same order
and with the same pauses; what is done at once is the shell's own code (`cluster/acting.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, cast

from stratacache.cluster import coordinator_events as c
from stratacache.cluster import messages as m
from stratacache.cluster import serving_events as s
from stratacache.cluster.acting import act_at_once
from stratacache.cluster.handoff import Handoffs
from stratacache.cluster.owing import Owing, pay
from stratacache.cluster.replicated import ReplicatedCache
from stratacache.cluster.replication import Replication
from stratacache.cluster.serving import Serving
from stratacache.node.engine import MultiLevelCache
from stratacache.node.resp.config import ServerConfig
from stratacache.node.resp.server import Endpoints, Identity, NodeServer
from tests.simulation.accepted import ServerEnd
from tests.simulation.copies import SimLinks
from tests.simulation.elastic import SimPeers
from tests.simulation.routing import RingRouter
from tests.simulation.world import Loop, Machine, Process

if TYPE_CHECKING:
    from tests.simulation.cluster import SimCluster
    from tests.simulation.homes import Home

RENEW_MS = 1000
"""As the actor does, a lease is renewed this often, or ten times in its life."""
CALL_DEADLINE_MS = 2000
TICK_S = 0.25
SLOW_MS = (0.5, 5, 50, 300)
"""How long a disk takes."""


class ShardProcess(Process):
    """One incarnation of one shard."""

    def __init__(self, cluster: SimCluster, effect: c.StartShard, machine: Machine, home: Home) -> None:
        super().__init__(cluster.world, machine, f"{effect.shard}/{effect.incarnation}")
        self.cluster = cluster
        self.shard, self.incarnation = effect.shard, effect.incarnation
        self.home = home
        self.serving = Serving(shard=effect.shard, incarnation=effect.incarnation, lease_ms=cluster.lease_ms)
        self._renew_ms = min(RENEW_MS, cluster.lease_ms / 10)
        self.owing = Owing(self.serving)
        self.started: m.ShardStarted | None = None
        self.engine: MultiLevelCache
        self.server: NodeServer
        self.forwarder: RingRouter
        self.handoffs: Handoffs
        self.replication: Replication | None = None
        self.links: SimLinks | None = None
        self._settling = 0
        self._coordinator: Any = None
        self._events: deque[tuple[s.ServingEvent, Callable[[list[Any]], None]]] = deque()
        self._busy = False
        self._renewal: Any = None
        self._asking = False
        self._ask_again = False
        self.on_death.append(self._leave)

    # -------------------------------------------------------------- start and end

    def start(self, port: int, lock_until_ms: float, done: Callable[[m.ShardStarted | None], None]) -> None:
        """Take the lock, open the disk and listen; `done` gets None when another process kept the lock."""
        home = self.home
        if home.holder is not None and home.holder.alive:
            if self.world.now_ms > lock_until_ms:
                done(None)
            else:
                self.after(100, lambda: self.start(port, lock_until_ms, done))
            return
        home.holder = self
        self._open(port)
        self.started = m.ShardStarted(
            shard=self.shard,
            incarnation=self.incarnation,
            host=self.machine.name,
            port=self.port,
            unix="",
            node=self.machine.name,
            pid=self.incarnation,
            fence=home.fence,
            stored=home.stored,
        )
        self._keep_lease()
        done(self.started)

    def _open(self, port: int) -> None:
        config = self.cluster.config
        made = ReplicatedCache if config.replicas > 1 else MultiLevelCache
        self.engine = self.home.disk.open(self, made)
        if isinstance(self.engine, ReplicatedCache):
            self.replication = Replication(
                self.shard, self.engine, may_serve=lambda: bool(self.server.may_serve()), missed=self.owing.missed
            )
            self.links = SimLinks(self, self.replication)
        self.port = self.cluster.listen(self, port)
        self.forwarder = RingRouter(self.shard, self.replication.chains if self.replication is not None else None)
        self.server = NodeServer(
            self.engine,
            ServerConfig(port=self.port),
            cast("Any", self.forwarder),
            Identity(cluster=self.cluster.name, shard=self.shard, incarnation=self.incarnation),
        )
        self.server.loop = cast("Any", Loop(self))
        self.server.endpoints = Endpoints(host=self.machine.name, port=self.port, unix="")
        self.server.set_view(self.server._own_view(), 0)
        self.server.serve_until_ms = 0
        self.server.owe = self.owing.owe
        self.server.copies = self.replication
        self.handoffs = Handoffs(
            self.engine,
            self.server,
            self.forwarder.ownership,
            SimPeers(self),
            incarnation=self.incarnation,
            gone=lambda epoch: self.handle(s.LeftoversGone(epoch=epoch)),
        )
        self.server.departures = self.handoffs
        self._tick()

    def soon(self, fn: Callable[[], object]) -> None:
        """As an event loop: never while what asks for it is still under way."""
        self.after(0, fn)

    def _tick(self) -> None:
        self.engine.tick()
        self.after(TICK_S * 1000, self._tick)

    def _leave(self) -> None:
        self.cluster.closed(self)
        if self.started is not None:
            self.home.disk.leave(self)

    def may_serve(self) -> bool:
        """Whether it would answer data commands at this moment."""
        return self.alive and self.started is not None and self.server.may_serve()

    def accept(self, client: Process, deliver: Callable[[bytes | None], None]) -> ServerEnd:
        """Take a connection in; `deliver` brings the replies to the client."""
        return ServerEnd(self, client, deliver)

    # -------------------------------------------------------------- events and effects, as ServingShell.handle

    def handle(self, event: s.ServingEvent, done: Callable[[list[Any]], None] = lambda _: None) -> None:
        """Queue an event; `done` gets what this shard vouches for."""
        self._events.append((event, lambda answers: self._answer(answers, done)))
        if not self._busy:
            self._next()

    def _answer(self, answers: list[Any], done: Callable[[list[Any]], None]) -> None:
        """As ServingShell.deliver: what is on its way to other owners is waited for outside the turn."""
        if not self._settling or self.replication is None:
            done(answers)
            return
        epoch, self._settling = self._settling, 0
        waited = self.replication.outbox.drained()
        waited.add_done_callback(lambda _: self.deliver(lambda: self.handle(s.Settled(epoch=epoch), done)))

    def _next(self) -> None:
        self._busy = bool(self._events)
        if self._events:
            event, done = self._events.popleft()
            effects = deque(self.serving.handle(event, self.engine.now_ms()))
            self.owing.listen(self.server, self.replication)
            self._carry_out(effects, [], done)

    @property
    def _alone(self) -> MultiLevelCache:
        return self.engine.alone() if isinstance(self.engine, ReplicatedCache) else self.engine

    def _carry_out(self, effects: deque[Any], answers: list[Any], done: Callable[[list[Any]], None]) -> None:
        """Carry effects out in their order; those that take a while go on from where they stopped."""

        def go_on() -> None:
            self._carry_out(effects, answers, done)

        while effects:
            effect = effects.popleft()
            match effect:
                case s.DropLeftovers():
                    self.handoffs.drop_leftovers(go_on)
                    return
                case s.DropContent():
                    self._one_by_one(iter((self._alone.clear(),)), go_on)
                    return
                case s.PayDebts(debts=debts):
                    self.world.faults["debts paid"] += len(debts)
                    self._one_by_one(pay(self._alone, debts), go_on)
                    return
                case s.StoreState(epoch=epoch, ring=ring, mixed=mixed):
                    slow_ms = self.world.random.choice(SLOW_MS)
                    self.after(slow_ms * 0.99, lambda: self._store(epoch, ring, mixed))
                    self.after(slow_ms, go_on)
                    return
                case _:
                    self._act_on(effect, answers)
        done(answers)
        self._next()

    def _one_by_one(self, steps: Iterator[int | Future[int]], done: Callable[[], None]) -> None:
        step = next(steps, None)
        if step is None:
            done()
        elif isinstance(step, Future):
            step.add_done_callback(lambda _: self.deliver(lambda: self._one_by_one(steps, done)))
        else:
            self.after(self.world.random.choice(SLOW_MS), lambda: self._one_by_one(steps, done))

    def _act_on(self, effect: s.ServingEffect, answers: list[Any]) -> None:
        act_at_once(self, effect)
        match effect:
            case s.Settle(epoch=epoch):
                self._settling = epoch
            case s.BeginHandoff(former=former):
                self.world.faults["handoffs begun" if former is not None else "rings without a handoff"] += 1
            case s.ShowView(view=view):
                self.cluster.oracle.saw_view(view, self.name)
            case s.Answer(event=answer):
                answers.append(answer)
            case s.AskLease():
                self._keep_lease()
            case s.End():
                self.die()

    def _store(self, epoch: int, ring: str, mixed: bool) -> None:
        if not self.cluster.has_disk:
            return
        self.home.stored = m.Stored(
            uid=self.cluster.uid,
            incarnation=self.incarnation,
            epoch=epoch,
            ring=ring,
            clean=False,
            pinned=self.cluster.pinned,
            mixed=mixed,
        )

    def close(self) -> None:
        """Forget everything and end, as ShardNode.close does with `forget`."""
        self.engine.clear()
        self.home.disk.flush()
        self.die()

    # -------------------------------------------------------------- the serving lease, as ShardActor._keep_lease

    def _keep_lease(self) -> None:
        if self._asking:
            self._ask_again = True
            return
        if self._renewal is not None:
            self._renewal.cancel()
        self._asking, self._ask_again = True, False
        sent_ms = self.engine.now_ms()
        request = m.LeaseRequested(
            shard=self.shard,
            incarnation=self.incarnation,
            epoch=self.serving.epoch,
            leftovers=self.handoffs.left,
        )
        coordinator = self._coordinator
        if coordinator is None or not coordinator.alive:
            coordinator = self._coordinator = self.cluster.control.find_coordinator(self)
        if coordinator is None:
            self._renewed(None, sent_ms)
            return
        self.cluster.network.call(
            self,
            coordinator,
            lambda reply: coordinator.renew(request, reply),
            lambda answer: self._renewed(answer, sent_ms),
            timeout_ms=CALL_DEADLINE_MS,
        )

    def _renewed(self, answer: Any, sent_ms: int) -> None:
        match answer:
            case m.GrantLease(term=term, epoch=epoch):
                self.handle(s.LeaseGranted(term=term, epoch=epoch, sent_ms=sent_ms))
            case m.RefuseLease() | m.Activate():
                self.handle(answer)
            case None if self.world.random.random() < 0.5:
                self._coordinator = None
        self._asking = False
        self._renewal = self.after(1 if self._ask_again else self._renew_ms, self._keep_lease)
