"""The coordinator's decisions: which shards run, which view is in force, who may serve, whose disk is trusted.

Pure and synchronous: `handle(event, now_ms)` returns effects in the order in which they are to be carried out.

Invariants:
- one view change at a time; an event that changes what is wanted supersedes it under a higher epoch, never undoes it;
- prepare goes to every shard that stays before any shard joins, and activate to anyone only when all have prepared, so
  an invalidation is acknowledged by all shards of one view or by none;
- a lease is granted only to the incarnation in the view, while Ray still confirms that this coordinator is the one
  behind its name; `serving_until_ms` counts from the grant, later than the shard, which counts from its request;
- nobody hears of an epoch before it is remembered where it outlives all shards; epochs and terms only grow.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any, Final

from stratacache.client.view import ACTIVE, ShardInfo, View
from stratacache.cluster import coordinator_events as c
from stratacache.cluster import messages as m
from stratacache.cluster.changes import JOIN_TIMEOUT_MS, Change, begin_change, begin_joining
from stratacache.cluster.members import Member, Process, wanted_shards
from stratacache.cluster.membership import (
    WINDOW_MS,
    HandingOver,
    in_order,
    is_gone,
    moves_keys,
    progress,
    resized,
    ring_follows,
    shard_number,
    why_not_yet,
    without,
)
from stratacache.cluster.placement import place
from stratacache.cluster.recovery import CONFIRM_MAX_MS, newest_found, recover_member, strangers
from stratacache.node.errors import UsageError

RETRY_MIN_MS: Final = 500
RETRY_MAX_MS: Final = 30_000
RESEND_MS: Final = 2_000
INCARNATIONS_PER_TERM: Final = 1_000
TICK_GAP_MAX_MS: Final = 2_000
"""A longer gap between two ticks means that the coordinator itself stood still: it judges nobody by it."""


class Phase(Enum):
    """The life of a cluster."""

    NEW = "new"
    FORMING = "forming"
    RUNNING = "running"
    STOPPING = "stopping"
    FAILED = "failed"


class Coordinator:
    """Decides for one cluster; see the module's text. `name` and `uid` identify it, `shard_ids` is its membership."""

    def __init__(
        self,
        *,
        name: str,
        uid: str,
        shard_ids: Sequence[str],
        replicas: int = 1,
        lease_ms: int = 10_000,
        start_timeout_ms: int = 60_000,
        port: int = 0,
        window_ms: int = WINDOW_MS,
    ) -> None:
        self.name = name
        self.uid = uid
        self.replicas = replicas
        self.lease_bound_ms = lease_ms + lease_ms // 10  # clocks may run 10 % apart
        self.start_timeout_ms = start_timeout_ms
        self.port = port
        self.window_ms = window_ms
        self.target: dict[str, float] = in_order(dict.fromkeys(shard_ids, 1.0))
        self.members = {shard: Member(id=shard) for shard in self.target}
        self.nodes: tuple[c.NodeSeen, ...] = ()
        self.draining: set[str] = set()
        self.phase = Phase.NEW
        self.view: View | None = None
        self.change: Change | None = None
        self.handing_over: HandingOver | None = None
        self.term = 0
        self.epoch = 0
        self.reason = ""
        self._confirmed_ms = 0
        self._ticked_ms = 0
        self._judge_after_ms = 0
        self._ran_before = False  # a view was proposed in this cluster's life, though nobody may be left to tell of it
        self._takes_over = False  # the shards have not yet heard of this coordinator's term
        self._was_in_force = False  # `view` was activated, not only prepared
        self._given: dict[str, int] = {}  # the last incarnation of each shard that is no member any more

    # -------------------------------------------------------------- reading

    def is_ready(self) -> bool:
        """Whether every shard is active, works under the present view, and has been granted the right to serve."""
        return (
            self.phase is Phase.RUNNING
            and self.change is None
            and self.view is not None
            and all(shard.state == ACTIVE for shard in self.view.shards)
            and all(self.members[shard.id].epoch == self.view.epoch for shard in self.view.shards)
            and all(self.members[shard.id].granted == self.view.epoch for shard in self.view.shards)
        )

    def is_settled(self) -> bool:
        """Whether the cluster is ready, has the ring that is wanted, and has handed over what moved."""
        leaving = any(member.leaving for member in self.members.values())
        return self.is_ready() and self.handing_over is None and not leaving and ring_follows(self.view, self.target)

    def progress(self, now_ms: int) -> dict[str, Any]:
        """How far a change of the ring is."""
        waits = ""
        if self.view is not None and self.handing_over is None and not ring_follows(self.view, self.target):
            waits = why_not_yet(self.members, self.view, self.target, now_ms)
        return progress(self.view, self.target, self.handing_over, waits)

    def plan_resize(self, count: int | None, weights: dict[str, float]) -> dict[str, float]:
        """The target with so many shards (None: as many as now) and these weights; raises UsageError."""
        self._check_may_reshape()
        return resized(self.target, count, weights)

    def plan_drain(self, shard: str) -> dict[str, float]:
        """The target without a shard; raises UsageError."""
        self._check_may_reshape()
        return without(self.target, shard)

    def _check_may_reshape(self) -> None:
        if self.replicas > 1:
            raise UsageError(
                f"this cluster keeps {self.replicas} copies of each key: shards can be added and removed, and weights "
                "changed, only with replicas=1 so far; start it anew with the number that you want"
            )
        if self.phase is not Phase.RUNNING:
            raise UsageError(f"the cluster is {self.phase.value}: try again when it runs")

    def away(self) -> dict[str, int]:
        """The suspended shards and the epoch that suspended each."""
        return {one.id: one.away_since for one in self.members.values() if one.away_since is not None}

    # -------------------------------------------------------------- deciding

    def handle(  # noqa: PLR0912 (one branch for each event)
        self, event: c.CoordinatorEvent, now_ms: int
    ) -> list[c.CoordinatorEffect]:
        """Take note of an event and say what is to be done."""
        effects: list[c.CoordinatorEffect] = []
        match event:
            case c.Ticked():
                self._on_tick(now_ms, effects)
            case m.LeaseRequested():
                self._on_lease_request(event, now_ms, effects)
            case c.NameConfirmed(sent_ms=sent_ms):
                self._confirmed_ms = max(self._confirmed_ms, sent_ms)
            case c.NodesSeen(nodes=nodes):
                self.nodes = nodes
                self.draining &= {node.id for node in nodes}
            case c.NodeDraining(node=node):
                self._on_draining(node, effects)
            case c.Recovered():
                self._on_recovered(event, now_ms, effects)
            case m.ShardStarted():
                self._on_started(event, effects)
            case c.ShardStartFailed():
                self._on_start_failed(event.shard, event.incarnation, event.reason, now_ms, effects)
            case c.ShardLost():
                self._on_lost(event, now_ms)
            case m.Prepared():
                self._on_prepared(event)
            case m.Activated(shard=shard, incarnation=incarnation, epoch=epoch):
                self._on_activated(shard, incarnation, epoch)
            case c.EpochRemembered(epoch=epoch):
                self._on_remembered(epoch, now_ms, effects)
            case m.Outpaced(epoch=epoch) | c.EpochTaken(epoch=epoch):
                self._go_beyond(epoch, now_ms)
            case c.StopRequested():
                self._on_stop(effects)
            case c.TargetSet(shards=shards):
                self._on_target(in_order(shards), effects)
        if self.phase in (Phase.FORMING, Phase.RUNNING):
            self._start_missing(now_ms, effects)
            self._advance(now_ms, effects)
            self._end_handing_over(now_ms, effects)
        return effects

    def _on_tick(self, now_ms: int, effects: list[c.CoordinatorEffect]) -> None:
        if now_ms - self._ticked_ms > TICK_GAP_MAX_MS or now_ms - self._confirmed_ms > CONFIRM_MAX_MS:
            self._judge_after_ms = now_ms + self.lease_bound_ms
        self._ticked_ms = now_ms
        if self.phase not in (Phase.FORMING, Phase.RUNNING):
            return
        for member in self.members.values():
            if member.process is Process.STARTING and now_ms - member.started_ms > self.start_timeout_ms:
                late = f"{member.id} did not start within {self.start_timeout_ms // 1000} s"
                reason = f"{late}: is there a Ray node with its memory and CPUs free?"
                self._on_start_failed(member.id, member.incarnation, reason, now_ms, effects)
            elif member.process is Process.UP and self._is_hung(member, now_ms):
                effects.append(c.KillShard(shard=member.id, incarnation=member.incarnation))
                self._forget_process(member, "it stopped renewing its serving lease", now_ms)
        change = self.change
        if change is not None and change.joining and now_ms - change.joining_ms > JOIN_TIMEOUT_MS:
            for shard in sorted(change.waiting):
                member = self.members[shard]
                if not change.awaits(member):
                    continue  # its successor is on its way, and joins by a view of its own
                effects.append(c.KillShard(shard=shard, incarnation=member.incarnation))
                self._forget_process(member, "it did not get ready to serve in time", now_ms)
                member.retry_ms = now_ms + RETRY_MAX_MS  # the others would soon hold invalidations back again
        if change is not None and now_ms - change.sent_ms >= RESEND_MS:
            if change.remembered:
                self._send_prepares(change, now_ms, effects)
            else:
                change.sent_ms = now_ms
                effects.append(c.RememberEpoch(term=self.term, epoch=change.view.epoch))

    def _on_remembered(self, epoch: int, now_ms: int, effects: list[c.CoordinatorEffect]) -> None:
        change = self.change
        if change is not None and change.view.epoch == epoch and not change.remembered:
            change.remembered = True
            self._send_prepares(change, now_ms, effects)

    def _on_activated(self, shard: str, incarnation: int, epoch: int) -> None:
        member = self.members.get(shard)
        if member is not None and member.incarnation == incarnation:
            member.epoch = max(member.epoch, epoch)

    def _send_prepares(self, change: Change, now_ms: int, effects: list[c.CoordinatorEffect]) -> None:
        """To all that have not prepared; one whose successor is up already is not sent to, only waited for."""
        change.sent_ms = now_ms
        awaited = (shard for shard in sorted(change.waiting) if change.awaits(self.members[shard]))
        effects.extend(change.prepares[shard] for shard in awaited)

    def _is_hung(self, member: Member, now_ms: int) -> bool:
        in_view = self.view is not None and member.id in self.view.by_id
        serves = in_view and member.served_by == member.incarnation
        return serves and now_ms >= self._judge_after_ms and now_ms >= member.serving_until_ms

    def _on_lease_request(self, event: m.LeaseRequested, now_ms: int, effects: list[c.CoordinatorEffect]) -> None:
        member = self.members.get(event.shard)
        if self.phase in (Phase.NEW, Phase.STOPPING):
            return  # it does not know yet whom it would refuse, or the shard is just being closed
        self._on_activated(event.shard, event.incarnation, event.epoch)  # its answer to Activate may have been lost
        if member is None or event.incarnation < member.incarnation or self.phase is Phase.FAILED:
            effects.append(m.RefuseLease(shard=event.shard, incarnation=event.incarnation, term=self.term, gone=True))
            return
        self._note_leftovers(event)
        entry = self.view.by_id.get(event.shard) if self.view is not None else None
        if entry is None and self.view is not None and 0 < event.epoch < self.view.epoch:
            change = self.change
            if change is None or event.shard not in change.waiting:
                effects.append(self._activate(event.shard))  # it learns whom its former clients are to ask
                return
        in_view = entry is not None and entry.incarnation == str(event.incarnation)
        unprepared = self.change is not None and event.shard in self.change.waiting
        confirmed = now_ms - self._confirmed_ms <= CONFIRM_MAX_MS
        if self.view is None or not in_view or unprepared or not confirmed or member.process is not Process.UP:
            effects.append(m.RefuseLease(shard=event.shard, incarnation=event.incarnation, term=self.term, gone=False))
            return
        if event.epoch < self.view.epoch:
            effects.append(self._activate(event.shard))
            return
        member.serving_until_ms, member.granted = now_ms + self.lease_bound_ms, self.view.epoch
        effects.append(
            m.GrantLease(shard=event.shard, incarnation=event.incarnation, term=self.term, epoch=self.view.epoch)
        )

    def _activate(self, shard: str) -> m.Activate:
        if self.view is None:
            raise RuntimeError("there is no view to activate")
        return m.Activate(shard=shard, incarnation=self.members[shard].incarnation, term=self.term, view=self.view)

    def _on_recovered(self, event: c.Recovered, now_ms: int, effects: list[c.CoordinatorEffect]) -> None:
        """Begin from what the shards know, and take them over with a view change of a higher epoch.

        When nobody who answers knows of the last epoch, a view may be in force in which those who answer are suspended
        and which goes on without them: they are ended, and the cluster is formed anew when all leases have run out.
        """
        self.term = event.term
        self.epoch = event.epoch_floor
        self._ran_before = event.epoch_floor > 0
        self._ticked_ms = now_ms
        self._judge_after_ms = now_ms + self.lease_bound_ms
        latest_ms = now_ms + self.lease_bound_ms + CONFIRM_MAX_MS
        newest = newest_found(event)
        view = newest.view if newest is not None else None
        self.target = in_order(event.target or self.target)
        if view is None:
            self.phase = Phase.FORMING
            self.members = {shard: Member(id=shard, weight=weight) for shard, weight in self.target.items()}
            if self._ran_before:
                self._end_all(event, latest_ms, effects)
                return
        else:
            self.phase, self.view, self._takes_over = Phase.RUNNING, view, True
            self.epoch = max(self.epoch, view.epoch)
            if not event.target:
                self.target = in_order({shard.id: shard.weight for shard in view.shards})
            ids = {*self.target, *view.by_id, *strangers(view, event)}
            self.members = {shard: Member(id=shard) for shard in sorted(ids, key=shard_number)}
        for member in self.members.values():
            member.leaving = member.id not in self.target
            member.weight = self.target.get(member.id, 1.0)
            member.fence = newest.fences.get(member.id, "") if newest is not None else ""
            member.away_since = newest.away.get(member.id) if newest is not None else None
            recover_member(member, view, event, latest_ms)

    def _end_all(self, event: c.Recovered, latest_ms: int, effects: list[c.CoordinatorEffect]) -> None:
        """Whoever is left of views that nobody can tell of may serve until its lease has run out."""
        known = [(found.started.shard, found.started.incarnation) for found in event.found]
        effects.extend(
            c.KillShard(shard=shard, incarnation=number) for shard, number in sorted({*known, *event.silent})
        )
        for member in self.members.values():
            member.serving_until_ms = latest_ms

    def _on_started(self, event: m.ShardStarted, effects: list[c.CoordinatorEffect]) -> None:
        member = self.members.get(event.shard)
        stale = member is None or event.incarnation != member.incarnation or member.process is not Process.STARTING
        if stale or member is None or self.phase in (Phase.STOPPING, Phase.FAILED):
            effects.append(c.KillShard(shard=event.shard, incarnation=event.incarnation))
            return
        if self.view is None and event.stored is not None:
            self.epoch = max(self.epoch, event.stored.epoch)  # clients may remember it from the life before
        member.started, member.process = event, Process.UP
        member.home, member.port, member.reason, member.failures = event.node, event.port, "", 0

    def _on_start_failed(
        self, shard: str, incarnation: int, reason: str, now_ms: int, effects: list[c.CoordinatorEffect]
    ) -> None:
        member = self.members.get(shard)
        if member is None or member.incarnation != incarnation or member.process is not Process.STARTING:
            return
        effects.append(c.KillShard(shard=shard, incarnation=incarnation))
        self._forget_process(member, reason, now_ms)
        if self.phase is Phase.FORMING and self.epoch_is_unused():
            self.phase, self.reason = Phase.FAILED, reason
            for other in self.members.values():
                if other.process is not Process.NONE:
                    effects.append(c.KillShard(shard=other.id, incarnation=other.incarnation))
                    other.process = Process.NONE
            effects.append(c.ReportFailed(reason=reason))

    def epoch_is_unused(self) -> bool:
        """Whether no view has been proposed in this cluster's life: then a failure undoes everything."""
        return self.view is None and self.change is None and not self._ran_before

    def _forget_process(self, member: Member, reason: str, now_ms: int) -> None:
        member.process, member.started, member.reason = Process.NONE, None, reason
        member.epoch = member.granted = 0
        delay = min(RETRY_MAX_MS, RETRY_MIN_MS << min(member.failures, 10)) if member.failures else 0
        member.failures += 1
        member.retry_ms = now_ms + delay

    def _on_lost(self, event: c.ShardLost, now_ms: int) -> None:
        member = self.members.get(event.shard)
        if member is None or member.incarnation != event.incarnation or member.process is Process.NONE:
            return
        self._forget_process(member, "its process ended", now_ms)

    def _on_prepared(self, event: m.Prepared) -> None:
        change, member = self.change, self.members.get(event.shard)
        if change is None or member is None:
            return
        if change.view.epoch != event.epoch or member.incarnation != event.incarnation:
            return
        change.waiting.discard(event.shard)
        change.owed[event.shard] = dict(event.owed)

    def _go_beyond(self, epoch: int, now_ms: int) -> None:
        """Another coordinator has used this epoch: propose the same again under a higher one.

        It may have let in processes that this one does not know; they serve for a lease at most.
        """
        if self.phase in (Phase.FORMING, Phase.RUNNING) and epoch >= self.epoch:
            self.epoch, self.change, self._takes_over, self._was_in_force = epoch, None, True, False
            for member in self.members.values():
                latest_ms = now_ms + self.lease_bound_ms + CONFIRM_MAX_MS
                member.serving_until_ms = max(member.serving_until_ms, latest_ms)

    def _on_draining(self, node: str, effects: list[c.CoordinatorEffect]) -> None:
        self.draining.add(node)
        there = [one for one in self.members.values() if one.process is Process.UP and one.home == node]
        effects += [c.CloseShard(shard=member.id, incarnation=member.incarnation) for member in there]

    def _on_stop(self, effects: list[c.CoordinatorEffect]) -> None:
        self.phase, self.change = Phase.STOPPING, None
        for member in self.members.values():
            if member.process is Process.UP:
                effects.append(c.CloseShard(shard=member.id, incarnation=member.incarnation))
            elif member.process is Process.STARTING:
                effects.append(c.KillShard(shard=member.id, incarnation=member.incarnation))

    # -------------------------------------------------------------- processes and views

    def _start_missing(self, now_ms: int, effects: list[c.CoordinatorEffect]) -> None:
        nodes = [node for node in self.nodes if node.id not in self.draining]
        for member in self.members.values():
            if member.process is not Process.NONE or now_ms < member.retry_ms or member.leaving:
                continue
            index = shard_number(member.id)
            homes = {one.id: one.home for one in self.members.values()}
            node = place(member.id, index, nodes, homes)
            if node is None:
                member.reason = "no Ray node has a place for it"
                continue
            # A range of its own for each coordinator: none gives a number that another has given, here or elsewhere.
            member.incarnation = max(member.incarnation, (self.term - 1) * INCARNATIONS_PER_TERM) + 1
            member.process, member.started_ms, member.home = Process.STARTING, now_ms, node
            port = self.port + index if self.port else member.port
            effects.append(c.StartShard(shard=member.id, incarnation=member.incarnation, node=member.home, port=port))

    def _advance(self, now_ms: int, effects: list[c.CoordinatorEffect]) -> None:
        """Begin, carry on, supersede or finish a view change."""
        if self.phase is Phase.FORMING and not all(self.members[one].may_join(now_ms) for one in self.target):
            return
        reshape = self._may_reshape(now_ms)
        wanted = wanted_shards(self.members.values(), self.view, now_ms, self.replicas, reshape=reshape)
        in_force = self.change.view if self.change is not None else self.view
        if in_force is None or wanted != in_force.shards or (self.change is None and self._takes_over):
            self._begin(wanted, now_ms, effects)
        change = self.change
        if change is None or not change.remembered:
            return
        if not change.joining:
            change.waiting -= {one for one in change.leavers if not self.members[one].may_serve(now_ms)}
        if not change.waiting and not change.joining:
            begin_joining(change, self.members, self.view, term=self.term, uid=self.uid, now_ms=now_ms)
            self._send_prepares(change, now_ms, effects)
        if not change.waiting and change.joining:
            self._finish(change, now_ms, effects)

    def _begin(self, shards: tuple[ShardInfo, ...], now_ms: int, effects: list[c.CoordinatorEffect]) -> None:
        self.epoch += 1
        view = View(epoch=self.epoch, cluster=self.name, replicas=self.replicas, shards=shards)
        for entry in view.shards:
            member = self.members[entry.id]
            if entry.state != ACTIVE and member.away_since is None:
                member.away_since = self.epoch
        former = self.view if moves_keys(self.view, view) and self._was_in_force else None
        self.change = begin_change(
            view, self.members, term=self.term, former=former, window_ms=self.window_ms, now_ms=now_ms
        )
        effects.append(c.RememberEpoch(term=self.term, epoch=self.epoch))

    def _finish(self, change: Change, now_ms: int, effects: list[c.CoordinatorEffect]) -> None:
        moved = moves_keys(self.view, change.view)
        self.view, self.change, self.phase = change.view, None, Phase.RUNNING
        self._takes_over, self._was_in_force = False, True
        for entry in change.view.shards:
            member = self.members[entry.id]
            if entry.state != ACTIVE or entry.incarnation != str(member.incarnation):
                continue
            member.away_since = None
            if member.served_by != member.incarnation and member.started is not None:
                member.served_by, member.fence = member.incarnation, member.started.fence
                member.serving_until_ms = now_ms + self.lease_bound_ms
            if member.process is Process.UP:
                effects.append(self._activate(entry.id))
        leavers = (self.members[shard] for shard in sorted(change.leavers))
        effects.extend(self._activate(member.id) for member in leavers if member.process is Process.UP)
        if moved:
            sources = {*change.stayers, *change.leavers} if change.former is not None else set[str]()
            left: dict[str, int | None] = dict.fromkeys(sorted(sources))
            self.handing_over = HandingOver(change.view.epoch, now_ms + self.window_ms, left)

    # -------------------------------------------------------------- coming and going

    def _on_target(self, target: dict[str, float], effects: list[c.CoordinatorEffect]) -> None:
        self.target = target
        for shard, weight in target.items():
            member = self.members.get(shard)
            if member is None:
                member = self.members[shard] = Member(id=shard, incarnation=self._given.pop(shard, 0))
            member.weight, member.leaving = weight, False
        for member in self.members.values():
            if member.id in target:
                continue
            member.leaving = True
            if member.process is not Process.NONE and member.served_by != member.incarnation:
                effects.append(c.KillShard(shard=member.id, incarnation=member.incarnation))  # it never came to serve
                member.process, member.started = Process.NONE, None
        self.members = {one: self.members[one] for one in sorted(self.members, key=shard_number)}

    def _may_reshape(self, now_ms: int) -> bool:
        """Whether the next view may have the ring that is wanted. One that has been proposed already may go on."""
        if self.view is None or self._takes_over or self.handing_over is not None:
            return False
        if ring_follows(self.view, self.target) or (self.change is not None and not self._reshapes(self.change)):
            return False
        return not why_not_yet(self.members, self.view, self.target, now_ms)

    def _reshapes(self, change: Change) -> bool:
        return ring_follows(change.view, self.target)

    def _note_leftovers(self, event: m.LeaseRequested) -> None:
        over = self.handing_over
        if over is not None and event.shard in over.left and event.epoch >= over.epoch:
            over.left[event.shard] = event.leftovers

    def _end_handing_over(self, now_ms: int, effects: list[c.CoordinatorEffect]) -> None:
        """Let the ring change again, and let go of shards that have left, once there is nothing to wait for."""
        over = self.handing_over
        if over is not None:
            for shard in over.left:
                member = self.members.get(shard)
                if member is None or member.process is Process.NONE:
                    over.left[shard] = 0
            if not over.is_over(now_ms):
                return
            self.handing_over = None
        for member in [one for one in self.members.values() if one.leaving]:
            in_view = self.view is not None and member.id in self.view.by_id
            if in_view or (self.change is not None and member.id in (*self.change.leavers, *self.change.view.by_id)):
                continue
            if member.process is Process.UP:
                effects.append(c.CloseShard(shard=member.id, incarnation=member.incarnation, forget=True))
            elif not is_gone(member, now_ms):
                continue
            del self.members[member.id]
            self._given[member.id] = member.incarnation
