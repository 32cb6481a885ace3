"""A cluster without Ray: the real decision cores, wired together in one thread with a clock that the test moves.

Messages are delivered at once and in order unless the test cuts a shard off. Each shard's content is a set of
(tag, number) pairs, its disk a copy of it that survives the process.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

from stratacache.client.view import ACTIVE, View
from stratacache.cluster import coordinator_events as c
from stratacache.cluster import messages as m
from stratacache.cluster import serving_events as s
from stratacache.cluster.coordinator import Coordinator, Phase
from stratacache.cluster.serving import Serving

LEASE_MS = 10_000
UID = "life-1"


@dataclass
class Process:
    """One shard process: its decisions, what it holds, and what the test does to it."""

    serving: Serving
    started: m.ShardStarted
    content: set[tuple[bytes, int]]
    holding: bool = False
    serve_until_ms: int = 0
    cut_off: bool = False
    ended: bool = False


@dataclass
class Disk:
    """What survives a process."""

    stored: m.Stored | None = None
    content: set[tuple[bytes, int]] = field(default_factory=set)


class FakeCluster:
    """Coordinator, shard processes, disks and one clock. `now_ms` moves only by `run`."""

    def __init__(self, shards: int = 3, uid: str = UID, disks: dict[str, Disk] | None = None) -> None:
        self.ids = tuple(f"shard-{i}" for i in range(shards))
        self.uid = uid
        self.now_ms = 1_000_000
        self.disks = disks if disks is not None else {shard: Disk() for shard in self.ids}
        self.processes: dict[str, Process] = {}
        self.failing: dict[str, str] = {}
        self.same_machine = True
        self.forgetful = False
        self.remembered = (0, 0)
        self.reported: list[str] = []
        self.killed: list[tuple[str, int]] = []
        self.closed: list[tuple[str, int, bool]] = []
        self.unheard: set[str] = set()
        """Shards whose answers to a prepare are lost."""
        self.slow: set[str] = set()
        """Shards whose processes take their time to start: they stand in `held`."""
        self.held: list[c.StartShard] = []
        self.leftovers: dict[str, int] = {}
        """What each shard says that it still holds of keys that moved."""
        self.prepares: list[m.Prepare] = []
        self.target: dict[str, float] = {}
        self.queue: deque[c.CoordinatorEvent] = deque()
        self.working = False
        self.coordinator_is_down = False
        self.coordinator = self.new_coordinator()

    def new_coordinator(self) -> Coordinator:
        return Coordinator(name="test", uid=self.uid, shard_ids=self.ids, lease_ms=LEASE_MS)

    def start(self) -> None:
        self.tell(c.NodesSeen(nodes=(c.NodeSeen(id="node-a", address="10.0.0.1"),)))
        self.tell(c.Recovered(term=1, epoch_floor=0))
        self.run(1_000)

    def run(self, ms: int, step_ms: int = 250) -> None:
        """Let time pass: ticks, name confirmations and lease requests."""
        until = self.now_ms + ms
        while self.now_ms < until:
            self.now_ms += step_ms
            if not self.coordinator_is_down:
                self.tell(c.NameConfirmed(sent_ms=self.now_ms))
                self.tell(c.Ticked())
            if self.now_ms % 1_000 == 0:
                for process in list(self.processes.values()):
                    self.ask_lease(process)

    def tell(self, event: c.CoordinatorEvent) -> None:
        """Queue an event; whoever is not yet working through the queue does it now, in order."""
        self.queue.append(event)
        if self.working:
            return
        self.working = True
        while self.queue:
            event = self.queue.popleft()
            if not self.coordinator_is_down:
                for effect in self.coordinator.handle(event, self.now_ms):
                    self.act(effect)
        self.working = False

    def act(self, effect: c.CoordinatorEffect) -> None:
        match effect:
            case c.RememberEpoch() if self.forgetful:
                pass
            case c.RememberEpoch(term=term, epoch=epoch):
                assert (term, epoch) > self.remembered, "epochs and terms only grow"
                self.remembered = (term, epoch)
                self.tell(c.EpochRemembered(epoch=epoch))
            case c.StartShard():
                self.start_process(effect)
            case c.KillShard(shard=shard, incarnation=incarnation):
                self.killed.append((shard, incarnation))
                process = self.processes.get(shard)
                if process is not None and process.started.incarnation == incarnation and not process.cut_off:
                    del self.processes[shard]
            case c.CloseShard(shard=shard, incarnation=incarnation, forget=forget):
                self.closed.append((shard, incarnation, forget))
                process = self.processes.pop(shard)
                disk = self.disks[shard]
                assert disk.stored is not None
                disk.stored = replace(disk.stored, clean=True)
                process.ended = True
            case m.Prepare() | m.Activate():
                if isinstance(effect, m.Prepare):
                    self.prepares.append(effect)
                self.deliver(effect.shard, effect.incarnation, effect)
            case m.GrantLease(shard=shard, incarnation=incarnation, term=term, epoch=epoch):
                self.deliver(shard, incarnation, s.LeaseGranted(term=term, epoch=epoch, sent_ms=self.now_ms))
            case m.RefuseLease():
                self.deliver(effect.shard, effect.incarnation, effect)
            case c.ReportFailed(reason=reason):
                self.reported.append(reason)

    def start_process(self, effect: c.StartShard) -> None:
        shard, incarnation = effect.shard, effect.incarnation
        if shard in self.failing:
            self.tell(c.ShardStartFailed(shard=shard, incarnation=incarnation, reason=self.failing[shard]))
            return
        if shard in self.slow:
            self.held.append(effect)
            return
        disk = self.disks.setdefault(shard, Disk())
        started = m.ShardStarted(
            shard=shard,
            incarnation=incarnation,
            host="127.0.0.1",
            port=7000 + incarnation,
            unix="",
            node=effect.node,
            pid=incarnation,
            fence=f"lock-{shard}" if self.same_machine else f"lock-{shard}-{incarnation}",
            stored=disk.stored,
        )
        serving = Serving(shard=shard, incarnation=incarnation, lease_ms=LEASE_MS)
        self.processes[shard] = Process(serving=serving, started=started, content=set(disk.content))
        self.tell(started)

    def deliver(self, shard: str, incarnation: int, event: s.ServingEvent) -> None:
        process = self.processes.get(shard)
        if process is None or process.cut_off or process.started.incarnation != incarnation:
            return
        for effect in process.serving.handle(event, self.now_ms):
            self.act_on_shard(process, effect)

    def act_on_shard(self, process: Process, effect: s.ServingEffect) -> None:
        disk = self.disks[process.serving.shard]
        match effect:
            case s.HoldInvalidations(on=on):
                process.holding = on
            case s.ServeUntil(ms=ms):
                process.serve_until_ms = ms
            case s.DropContent():
                process.content.clear()
                disk.content.clear()
            case s.PayDebts(debts=debts):
                for debt in debts:
                    self.forget(process, debt)
            case s.StoreState(epoch=epoch, ring=ring):
                disk.stored = m.Stored(
                    uid=self.uid,
                    incarnation=process.serving.incarnation,
                    epoch=epoch,
                    ring=ring,
                    clean=False,
                    pinned=self.same_machine,
                )
            case s.Answer(event=event) if process.serving.shard not in self.unheard:
                self.tell(event)
            case s.AskLease():
                self.ask_lease(process)
            case s.End():
                process.ended = True

    def ask_lease(self, process: Process) -> None:
        if process.cut_off:
            return
        started = process.started
        self.tell(
            m.LeaseRequested(
                shard=started.shard,
                incarnation=started.incarnation,
                epoch=process.serving.epoch,
                leftovers=self.leftovers.get(started.shard, 0),
            )
        )

    def aim(self, target: dict[str, float]) -> None:
        """What `resize` and `drain` do once the coordinator has agreed."""
        self.target = target
        self.tell(c.TargetSet(shards=target))

    # ------------------------------------------------------- what a test does to it

    def lose(self, shard: str) -> None:
        """SIGKILL, seen by Ray."""
        process = self.processes.pop(shard)
        self.tell(c.ShardLost(shard=shard, incarnation=process.started.incarnation))

    def restart_coordinator(self, silent: tuple[str, ...] = ()) -> None:
        """SIGKILL of the coordinator; the next one asks the shards."""
        self.coordinator_is_down = False
        self.coordinator = self.new_coordinator()
        found = tuple(
            m.Found(
                started=one.started,
                view=one.serving.newest_view(),
                serves=self.serves(shard),
                away=one.serving.away,
                fences=one.serving.fences,
            )
            for shard, one in self.processes.items()
            if shard not in silent and not one.cut_off
        )
        quiet = tuple((shard, self.processes[shard].started.incarnation) for shard in silent)
        self.tell(c.NodesSeen(nodes=(c.NodeSeen(id="node-a", address="10.0.0.1"),)))
        self.tell(
            c.Recovered(
                term=self.remembered[0] + 1,
                epoch_floor=self.remembered[1],
                found=found,
                silent=quiet,
                target=self.target,
            )
        )

    # ------------------------------------------------------- what a client does

    def serves(self, shard: str) -> bool:
        process = self.processes.get(shard)
        return process is not None and process.serving.epoch > 0 and self.now_ms < process.serve_until_ms

    def put(self, shard: str, tag: bytes, number: int) -> bool:
        if not self.serves(shard):
            return False
        self.processes[shard].content.add((tag, number))
        self.disks[shard].content.add((tag, number))
        return True

    def forget(self, process: Process, debt: m.Debt) -> None:
        for content in (process.content, self.disks[process.serving.shard].content):
            content -= {one for one in content if debt.kind == "all" or one[0] in debt.names}

    def invalidate_tag(self, tag: bytes, view: View | None = None) -> bool:
        """What a client does: every active shard of one view must apply it under that view."""
        view = view or self.newest_client_view()
        active = [shard.id for shard in view.shards if shard.state == ACTIVE]
        debt = m.Debt(kind="tags", names=(tag,))
        for shard in active:
            process = self.processes.get(shard)
            if process is None or process.holding or not self.serves(shard) or process.cut_off:
                return False
            self.forget(process, debt)
            process.serving.handle(s.Invalidated(debt=debt), self.now_ms)
            if process.serving.epoch != view.epoch:
                return False
        return bool(active)

    def newest_client_view(self) -> View:
        views = [one.serving.view for one in self.processes.values() if one.serving.view is not None]
        return max(views, key=lambda view: view.epoch)

    def view(self) -> View:
        assert self.coordinator.view is not None
        return self.coordinator.view

    def is_running(self) -> bool:
        return self.coordinator.phase is Phase.RUNNING
