"""The coordinator's process: the real decisions, and the shell of `cluster/coordinator_actor.py` mirrored."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stratacache.client.view import View
from stratacache.cluster import coordinator_events as c
from stratacache.cluster import messages as m
from stratacache.cluster.coordinator import Coordinator, Phase
from tests.simulation.world import Machine, Process

if TYPE_CHECKING:
    from tests.simulation.cluster import SimCluster
    from tests.simulation.shards import ShardProcess

TICK_MS = 250
CONFIRM_MS = 1000
PROBE_DEADLINE_MS = 3000
CALL_DEADLINE_MS = 30_000
NODES_MS = 2000


class CoordinatorProcess(Process):
    """One run of the coordinator."""

    def __init__(self, cluster: SimCluster, machine: Machine, number: int) -> None:
        super().__init__(cluster.world, machine, f"coordinator-{number}")
        self.cluster = cluster
        self.control = cluster.control
        config = cluster.config
        self.core = Coordinator(
            name=config.name,
            uid=config.uid,
            shard_ids=config.shard_ids(),
            replicas=config.replicas,
            lease_ms=config.lease_ms,
            start_timeout_ms=config.start_timeout_ms,
            window_ms=cluster.window_ms,
        )
        self._effects: deque[c.CoordinatorEffect] = deque()
        self._acting = False
        self._handles: dict[tuple[str, int], ShardProcess] = {}
        self.on_death.append(lambda: self.control.coordinator_died(self))
        self._claim()

    def now_ms(self) -> int:
        return self.machine.now_ms()

    # -------------------------------------------------------------- Ray's key-value store

    def _ask_control(self, fn: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """`done` gets what `fn` gives at the control service, or None when it can't be reached."""
        self.cluster.network.call(self, self.control, lambda reply: reply(fn()), done, timeout_ms=5000)

    def _claim(self) -> None:
        def claim() -> tuple[int, int]:
            kv = self.control.kv
            term = int(kv.get("term", 0)) + 1  # type: ignore[call-overload]
            kv["term"] = term
            return term, int(kv.get("epoch", 0))  # type: ignore[call-overload]

        def claimed(answer: tuple[int, int] | None) -> None:
            if answer is None:
                self.after(500, self._claim)
            else:
                self._recover(*answer)

        self._ask_control(claim, claimed)

    def _confirm(self) -> None:
        sent_ms, term = self.now_ms(), self.core.term

        def confirmed(answer: bool | None) -> None:
            if answer:
                self.hear(c.NameConfirmed(sent_ms=sent_ms))
            elif answer is False:
                self.world.say(f"{self.name} learns of a later coordinator and ends")
                self.die()
            self.after(CONFIRM_MS, self._confirm)

        self._ask_control(lambda: self.control.kv["term"] == term, confirmed)

    def _remember(self, effect: c.RememberEpoch, done: Callable[[], None]) -> None:
        """As CoordinatorActor._remember: two questions, and somebody else may come between them."""

        def newest(answer: bool | None) -> None:
            if answer is False:
                self.world.say(f"{self.name} learns of a later coordinator and ends")
                self.die()
            elif answer is None:
                done()
            else:
                self._ask_control(claim, claimed)

        def claim() -> bool:
            kv = self.control.kv
            if kv.get(f"epoch/{effect.epoch}", effect.term) != effect.term:
                return False
            kv[f"epoch/{effect.epoch}"] = effect.term
            kv["epoch"] = max(int(kv.get("epoch", 0)), effect.epoch)  # type: ignore[call-overload]
            return True

        def claimed(answer: bool | None) -> None:
            if answer:
                self.hear(c.EpochRemembered(epoch=effect.epoch))
            elif answer is False:
                self.hear(c.EpochTaken(epoch=effect.epoch))
            done()

        self._ask_control(lambda: self.control.kv["term"] == effect.term, newest)

    # -------------------------------------------------------------- recovery

    def _recover(self, term: int, epoch: int) -> None:
        self.hear(c.NodesSeen(nodes=self.control.nodes()))
        self.hear(c.NameConfirmed(sent_ms=self.now_ms()))
        names = sorted(self.control.actors)
        answers: dict[tuple[str, int], m.Found | str] = {}

        def answered(name: tuple[str, int], answer: m.Found | str | None) -> None:
            answers[name] = answer or "silent"
            if len(answers) == len(names):
                self._recovered(term, epoch, answers)

        if not names:
            self._recovered(term, epoch, answers)
        for name in names:
            self._probe(name, lambda answer, name=name: answered(name, answer))  # type: ignore[misc]

    def _probe(self, name: tuple[str, int], done: Callable[[m.Found | str | None], None]) -> None:
        process = self.control.actors.get(name)
        if process is None or not process.alive:
            done("dead")
            return
        self._handles[name] = process

        def probe(reply: Callable[[Any], None]) -> None:
            if process.started is None:
                reply("dead")
                self.control.kill(name)
                return
            serving = process.serving
            reply(
                m.Found(
                    started=process.started,
                    view=serving.newest_view(),
                    serves=serving.may_serve(process.engine.now_ms()),
                    away=dict(serving.away),
                    fences=dict(serving.fences),
                )
            )

        self.cluster.network.call(self, process, probe, done, timeout_ms=PROBE_DEADLINE_MS)

    def _recovered(self, term: int, epoch: int, answers: dict[tuple[str, int], m.Found | str]) -> None:
        found = tuple(answer for answer in answers.values() if isinstance(answer, m.Found))
        silent = tuple(name for name, answer in answers.items() if answer == "silent")
        self.world.say(f"{self.name} term {term} recovers: found {[f.started.shard for f in found]} silent {silent}")
        target = dict(self.control.target)
        self.hear(c.Recovered(term=term, epoch_floor=epoch, found=found, silent=silent, target=target))
        for one in found:
            self._watch(one.started.shard, one.started.incarnation)
        self._confirm()
        self._tick()
        self.after(NODES_MS, self._look_at_nodes)

    def _tick(self) -> None:
        if self.core.phase not in (Phase.STOPPING, Phase.FAILED):
            self.hear(c.Ticked())
            self.after(TICK_MS, self._tick)

    def _look_at_nodes(self) -> None:
        def seen(nodes: tuple[c.NodeSeen, ...] | None) -> None:
            if nodes is not None and nodes != self.core.processes.nodes:
                self.hear(c.NodesSeen(nodes=nodes))
            self.after(NODES_MS, self._look_at_nodes)

        self._ask_control(self.control.nodes, seen)

    # -------------------------------------------------------------- what others ask

    def renew(self, request: m.LeaseRequested, reply: Callable[[Any], None]) -> None:
        """As CoordinatorActor.renew."""
        answer: c.CoordinatorEffect | None = None
        for effect in self.core.handle(request, self.now_ms()):
            if isinstance(effect, m.GrantLease | m.RefuseLease) or (
                isinstance(effect, m.Activate) and effect.shard == request.shard
            ):
                answer = effect
            else:
                self._effects.append(effect)
        self._act()
        reply(answer)

    def aim(self, target: dict[str, float]) -> None:
        """As CoordinatorActor._aim: two steps, and this process may end between them."""
        term = self.core.term

        def write() -> bool:
            if self.control.kv["term"] != term:
                return False
            self.control.target = dict(target)
            return True

        def written(done: bool | None) -> None:
            if done:
                self.hear(c.TargetSet(shards=target))

        self._ask_control(write, written)

    def view(self) -> View | None:
        """The view in force, for clients that find no shard."""
        return self.core.view

    # -------------------------------------------------------------- deciding and acting

    def hear(self, event: c.CoordinatorEvent) -> None:
        """Decide, and queue what follows."""
        self._effects.extend(self.core.handle(event, self.now_ms()))
        self.cluster.oracle.saw_epoch(self)
        self._act()

    def _act(self) -> None:
        if self._acting:
            return
        self._acting = True
        while self._effects:
            effect = self._effects.popleft()
            if isinstance(effect, c.RememberEpoch):
                self.cluster.proposed(self)
                self._remember(effect, self._go_on)
                return
            self._act_on(effect)
        self._acting = False

    def _go_on(self) -> None:
        self._acting = False
        self._act()

    def _act_on(self, effect: c.CoordinatorEffect) -> None:
        match effect:
            case c.StartShard():
                self._start(effect)
            case c.KillShard(shard=shard, incarnation=incarnation):
                self.world.say(f"{self.name} kills {shard}/{incarnation}")
                self._handles.pop((shard, incarnation), None)
                self._ask_control(lambda: self.control.kill((shard, incarnation)), lambda _: None)
            case c.CloseShard(shard=shard, incarnation=incarnation):
                self._close((shard, incarnation))
            case m.Prepare() | m.Activate():
                self._deliver(effect)

    def _start(self, effect: c.StartShard) -> None:
        shard, incarnation = effect.shard, effect.incarnation
        self.world.say(f"{self.name} starts {shard}/{incarnation} on {effect.node or 'any'}")

        def ended(started: m.ShardStarted | str | None) -> None:
            process = self.control.actors.get((shard, incarnation))
            if isinstance(started, m.ShardStarted) and process is not None:
                self._handles[shard, incarnation] = process
                self.hear(started)
                self._watch(shard, incarnation)
            else:
                self.hear(c.ShardStartFailed(shard=shard, incarnation=incarnation, reason="could not start"))

        self.cluster.network.call(
            self,
            self.control,
            lambda reply: self.cluster.start_shard(effect, reply),
            ended,
            timeout_ms=40_000,
        )

    def _close(self, name: tuple[str, int]) -> None:
        process = self._handles.pop(name, None)
        self.world.say(f"{self.name} closes {name[0]}/{name[1]}")

        def close(reply: Callable[[Any], None]) -> None:
            if process is not None:
                process.close()
            reply(True)

        def closed(_: Any) -> None:
            self._ask_control(lambda: self.control.kill(name), lambda _: None)

        if process is not None:
            self.cluster.network.call(self, process, close, closed, timeout_ms=CALL_DEADLINE_MS)

    def _watch(self, shard: str, incarnation: int) -> None:
        def lost() -> None:  # the control service tells it again until it gets through
            if self.cluster.network.is_cut(self.control, self):
                self.world.after(500, lost)
            else:
                delay_ms = self.cluster.network.delay_ms(self.control, self)
                event = c.ShardLost(shard=shard, incarnation=incarnation)
                self.world.after(delay_ms, lambda: self.deliver(lambda: self.hear(event)))

        def gone(answer: object) -> None:
            if answer is None:
                self.after(1000, lambda: self._watch(shard, incarnation))

        self._ask_control(lambda: self.control.watch((shard, incarnation), lost) or True, gone)

    def _deliver(self, effect: m.Prepare | m.Activate) -> None:
        process = self._handles.get((effect.shard, effect.incarnation))
        if process is None:
            return
        joins = (
            f", keep {effect.keep}, {len(effect.debts)} debts"
            if isinstance(effect, m.Prepare) and effect.keep is not None
            else ""
        )
        self.world.say(f"{self.name} {type(effect).__name__} {effect.view.epoch} -> {process.name}{joins}")

        def answered(answers: list[Any] | None) -> None:
            for answer in answers or ():
                self.hear(answer)

        self.cluster.network.call(
            self,
            process,
            lambda reply: process.handle(effect, reply),
            answered,
            timeout_ms=CALL_DEADLINE_MS,
            twice=True,
        )
