"""A shard process: the real engine, RESP server and serving decisions, without Ray, sockets and threads.

It mirrors what `cluster/serving_shell.py` does with the decisions' effects, in the same order and with the same pauses.
Its disk is a double: what a process leaves behind is a random part of what it held when it ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from stratacache.cluster import coordinator_events as c
from stratacache.cluster import messages as m
from stratacache.cluster import serving_events as s
from stratacache.cluster.debts import merged
from stratacache.cluster.handoff import Handoffs
from stratacache.cluster.replicated import ReplicatedCache
from stratacache.cluster.replication import Replication
from stratacache.cluster.serving import Serving
from stratacache.node.config import NodeConfig
from stratacache.node.engine import MultiLevelCache
from stratacache.node.resp.config import ServerConfig
from stratacache.node.resp.server import Connection, Identity, NodeServer
from stratacache.node.types import RemovalCause
from tests.simulation.copies import SimLinks
from tests.simulation.elastic import SimPeers
from tests.simulation.network import Pipe
from tests.simulation.routing import RingRouter
from tests.simulation.world import Loop, Machine, Process

if TYPE_CHECKING:
    from tests.simulation.cluster import SimCluster

RENEW_MS = 1000
CALL_DEADLINE_MS = 2000
TICK_S = 0.25


@dataclass
class Record:
    """One entry on a disk."""

    key: bytes
    payload: bytes
    expires_ms: int
    tags: tuple[bytes, ...]
    codec: int


@dataclass
class Home:
    """A shard's directory on one machine: what survives its processes."""

    fence: str
    stored: m.Stored | None = None
    records: list[Record] = field(default_factory=list)
    holder: Process | None = None

    def wipe(self) -> None:
        """The disk was lost, and another one took its place."""
        self.stored, self.records = None, []


class ShardProcess(Process):
    """One incarnation of one shard."""

    def __init__(self, cluster: SimCluster, effect: c.StartShard, machine: Machine, home: Home) -> None:
        super().__init__(cluster.world, machine, f"{effect.shard}/{effect.incarnation}")
        self.cluster = cluster
        self.shard, self.incarnation = effect.shard, effect.incarnation
        self.home = home
        self.serving = Serving(shard=effect.shard, incarnation=effect.incarnation, lease_ms=cluster.lease_ms)
        self.started: m.ShardStarted | None = None
        self.engine: MultiLevelCache
        self.server: NodeServer
        self.router: RingRouter
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
        self.on_death.append(self._leave_disk)

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
        self.engine = made(
            NodeConfig(l1_bytes_max=config.l1_bytes_max, seed=self.incarnation), clock=self.machine, post=self._soon
        )
        if isinstance(self.engine, ReplicatedCache):
            self.replication = Replication(
                self.shard, self.engine, may_serve=lambda: bool(self.server.may_serve()), missed=self._missed
            )
            self.links = SimLinks(self, self.replication)
        for record in self.home.records:
            MultiLevelCache.put(
                self.engine,
                record.key,
                record.payload,
                expires_ms=record.expires_ms,
                tags=record.tags,
                codec=record.codec,
            )
        self.port = self.cluster.listen(self, port)
        self.router = RingRouter(self.shard, self.replication.chains if self.replication is not None else None)
        self.server = NodeServer(
            self.engine,
            ServerConfig(port=self.port),
            cast("Any", self.router),
            Identity(cluster=self.cluster.name, shard=self.shard, incarnation=self.incarnation),
        )
        self.server.loop = cast("Any", Loop(self))
        self.server.serve_until_ms = 0
        self.server.owe = self._owe
        self.server.copies = self.replication
        self.handoffs = Handoffs(
            self.engine,
            self.server,
            self.router.ownership,
            SimPeers(self),
            incarnation=self.incarnation,
            gone=lambda epoch: self.handle(s.LeftoversGone(epoch=epoch)),
        )
        self.server.departures = self.handoffs
        self._tick()

    def _soon(self, fn: Callable[[], object]) -> None:
        """As an event loop: never while what asks for it is still under way."""
        self.after(0, fn)

    def _tick(self) -> None:
        self.engine.tick()
        self.after(TICK_S * 1000, self._tick)

    def _leave_disk(self) -> None:
        self.cluster.closed(self)
        if self.home.holder is self and self.started is not None and self.cluster.has_disk:
            now_ms = self.machine.now_ms()
            random = self.world.random
            unsettled = self.replication.outbox.unsettled if self.replication is not None else ()
            kept = 1.0 if random.random() < 0.5 else 0.8
            self.home.records = [
                Record(one.key, one.payload, one.expires_ms, one.tags, one.codec)
                for one in self.engine.table.values()
                if one.expires_ms > now_ms and random.random() < kept and one.key not in unsettled
            ]

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
            self._hear_invalidations(self.serving.is_logging())
            self._carry_out(effects, [], done)

    def _hear_invalidations(self, on: bool) -> None:
        hears = self._note in self.server.listeners
        if on != hears:
            (self.server.listeners.append if on else self.server.listeners.remove)(self._note)
            self.server.listen()

    def _note(self, kind: str, names: Sequence[bytes], cause: RemovalCause, seq: int) -> None:
        if kind != "keys":
            self.serving.handle(s.Invalidated(debt=m.Debt(kind=kind, names=tuple(names))), 0)
        elif self.replication is not None:
            for key in names:
                for shard in self.replication.chains.away(key):
                    self._missed(shard, (key,))

    def _missed(self, shard: str, keys: Sequence[bytes]) -> None:
        for key in keys:
            self.serving.handle(s.Invalidated(debt=m.Debt(kind="keys", names=(key,)), shard=shard), 0)

    @property
    def _alone(self) -> MultiLevelCache:
        return self.engine.alone() if isinstance(self.engine, ReplicatedCache) else self.engine

    def _owe(self, keys: Sequence[bytes]) -> None:
        self.serving.handle(s.Invalidated(debt=m.Debt(kind="keys", names=tuple(keys))), 0)

    def _carry_out(self, effects: deque[Any], answers: list[Any], done: Callable[[list[Any]], None]) -> None:
        while effects:
            effect = effects.popleft()
            if isinstance(effect, s.StopMoving):
                self.handoffs.stop_moving(effect.view)
                continue
            if isinstance(effect, s.BeginHandoff):
                self.world.faults["handoffs begun" if effect.former is not None else "rings without a handoff"] += 1
                self.handoffs.begin(effect)
                continue
            if isinstance(effect, s.DropLeftovers):
                self.handoffs.drop_leftovers(lambda: self._carry_out(effects, answers, done))
                return
            pause_ms = self._act_on(effect, answers)
            if pause_ms:
                self.after(pause_ms, lambda: self._carry_out(effects, answers, done))
                return
        done(answers)
        self._next()

    def _act_on(self, effect: s.ServingEffect, answers: list[Any]) -> float:
        """Carry an effect out; how long it takes."""
        random = self.world.random
        slow_ms = random.choice((0.5, 5, 50, 300))
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
                self._alone.clear()
                return slow_ms
            case s.PayDebts(debts=debts):
                self._pay(debts)
                return slow_ms
            case s.StoreState(epoch=epoch, ring=ring, mixed=mixed):
                self.after(slow_ms * 0.99, lambda: self._store(epoch, ring, mixed))
                return slow_ms
            case s.ShowView(view=view, returns=returns):
                self.server.set_view(view.to_bytes(), view.epoch)
                self.router.set_view(view)
                if self.replication is not None and self.links is not None:
                    self.replication.activate(view, returns=returns)
                    self.links.follow(view)
                self.cluster.oracle.saw_view(view, self.name)
            case s.Answer(event=answer):
                answers.append(answer)
            case s.AskLease():
                self._keep_lease()
            case s.End():
                self.die()
        return 0.0

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

    def _pay(self, debts: tuple[m.Debt, ...]) -> None:
        self.world.faults["debts paid"] += len(debts)
        for debt in merged(debts):
            match debt.kind:
                case "tags":
                    self._alone.invalidate_tags(debt.names)
                case "keys":
                    self._alone.invalidate_keys(debt.names)
                case "namespace":
                    self._alone.invalidate_namespace(debt.names[0])
                case _:
                    self._alone.clear()

    def close(self) -> None:
        """Forget everything and end, as ShardActor.close does with `forget`."""
        self.engine.clear()
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
        self._renewal = self.after(1 if self._ask_again else RENEW_MS, self._keep_lease)


class ServerEnd:
    """The server's end of a connection: a transport for the real `Connection`, over two pipes."""

    def __init__(self, shard: ShardProcess, client: Process, deliver: Callable[[bytes | None], None]) -> None:
        self._shard = shard
        self._reading = True
        self._held: deque[bytes | None] = deque()
        self._open = True
        network = shard.cluster.network
        self.requests = Pipe(network, client, shard, self._arrive)
        self._replies = Pipe(network, shard, client, deliver)
        self._connection = Connection(shard.server)
        self._connection.connection_made(cast("Any", self))
        shard.on_death.append(lambda: self._replies.send(None))

    def _arrive(self, chunk: bytes | None) -> None:
        if not self._open:
            return
        if not self._reading and chunk is not None:
            self._held.append(chunk)
            return
        if chunk is None:
            self._end()
            return
        if self._shard.may_serve():
            self._shard.cluster.oracle.serves(self._shard)
        self._connection.data_received(chunk)

    def _end(self) -> None:
        if self._open:
            self._open = False
            self._replies.send(None)
            self._connection.connection_lost(None)

    # what a Connection asks of its transport

    def write(self, data: bytes) -> None:
        if self._open and self._shard.alive:
            self._replies.send(bytes(data))

    def close(self) -> None:
        self._shard.after(0, self._end)

    abort = close

    def is_closing(self) -> bool:
        return not self._open

    def is_reading(self) -> bool:
        return self._reading

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        while self._held and self._reading:
            self._arrive(self._held.popleft())

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, **_: int) -> None:
        """Nothing is buffered here."""
