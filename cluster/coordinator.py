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
from stratacache.cluster.authority import Authority
from stratacache.cluster.changes import JOIN_TIMEOUT_MS, Change, begin_change, begin_joining
from stratacache.cluster.members import Member, Process, wanted_shards
from stratacache.cluster.membership import (
    WINDOW_MS,
    Membership,
    in_order,
    moves_keys,
    resized,
    ring_follows,
    without,
)
from stratacache.cluster.processes import RETRY_MAX_MS, Effects, Processes
from stratacache.cluster.recovery import newest_found, recovered_members
from stratacache.node.errors import UsageError

RESEND_MS: Final = 2_000


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
        self.authority = Authority(lease_ms)
        self.membership = Membership(shard_ids, window_ms=window_ms)
        members = {shard: Member(id=shard) for shard in self.membership.target}
        self.processes = Processes(members, start_timeout_ms=start_timeout_ms, port=port)
        self.phase = Phase.NEW
        self.view: View | None = None
        self.change: Change | None = None
        self.term = 0
        self.epoch = 0
        self.reason = ""
        self._ran_before = False  # a view was proposed in this cluster's life, though nobody may be left to tell of it
        self._takes_over = False  # the shards have not yet heard of this coordinator's term
        self._was_in_force = False  # `view` was activated, not only prepared

    # -------------------------------------------------------------- reading

    @property
    def members(self) -> dict[str, Member]:
        """What is known of each shard that is wanted, or not yet gone."""
        return self.processes.members

    @property
    def target(self) -> dict[str, float]:
        """The shards that are wanted, with their weights."""
        return self.membership.target

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
        is_done = self.membership.handing_over is None and not leaving
        return is_done and self.is_ready() and ring_follows(self.view, self.target)

    def progress(self, now_ms: int) -> dict[str, Any]:
        """How far a change of the ring is."""
        return self.membership.progress(self.members, self.view, now_ms)

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

    # -------------------------------------------------------------- deciding

    def handle(  # noqa: PLR0912 (one branch for each event)
        self, event: c.CoordinatorEvent, now_ms: int
    ) -> Effects:
        """Take note of an event and say what is to be done."""
        effects: Effects = []
        match event:
            case c.Ticked():
                self._on_tick(now_ms, effects)
            case m.LeaseRequested():
                self._on_lease_request(event, now_ms, effects)
            case c.NameConfirmed(sent_ms=sent_ms):
                self.authority.confirm(sent_ms)
            case c.NodesSeen(nodes=nodes):
                self.processes.see(nodes)
            case c.NodeDraining(node=node):
                self.processes.drain(node, effects)
            case c.Recovered():
                self._on_recovered(event, now_ms, effects)
            case m.ShardStarted():
                self._on_started(event, effects)
            case c.ShardStartFailed():
                self._on_start_failed(event, now_ms, effects)
            case c.ShardLost():
                self.processes.lost(event, now_ms)
            case m.Prepared():
                self._on_prepared(event)
            case m.Activated(shard=shard, incarnation=incarnation, epoch=epoch):
                self._on_activated(shard, incarnation, epoch)
            case c.EpochRemembered(epoch=epoch):
                self._on_remembered(epoch, now_ms, effects)
            case m.Outpaced(epoch=epoch) | c.EpochTaken(epoch=epoch):
                self._go_beyond(epoch, now_ms)
            case c.StopRequested():
                self.phase, self.change = Phase.STOPPING, None
                self.processes.close_all(effects)
            case c.TargetSet(shards=shards):
                self.processes.members = self.membership.aim(shards, self.members, effects)
        if isinstance(event, m.LeaseRequested):
            return effects  # a thousand come each second: what they tell is looked at with the next tick
        if self.phase in (Phase.FORMING, Phase.RUNNING):
            self.processes.start_missing(self.term, now_ms, effects)
            self._advance(now_ms, effects)
            self.membership.let_go(self.members, self._needed(), now_ms, effects)
        return effects

    def _on_tick(self, now_ms: int, effects: Effects) -> None:
        self.authority.tick(now_ms)
        if self.phase not in (Phase.FORMING, Phase.RUNNING):
            return
        for late in self.processes.too_slow(now_ms):
            self._on_start_failed(late, now_ms, effects)
        for member in self.processes.up():
            if self._is_hung(member, now_ms):
                self.processes.give_up(member, "it stopped renewing its serving lease", now_ms, effects)
        self._end_slow_joiners(now_ms, effects)
        change = self.change
        if change is not None and now_ms - change.sent_ms >= RESEND_MS:
            if change.remembered:
                effects.extend(change.send(self.members, now_ms))
            else:
                change.sent_ms = now_ms
                effects.append(c.RememberEpoch(term=self.term, epoch=change.view.epoch))

    def _end_slow_joiners(self, now_ms: int, effects: Effects) -> None:
        change = self.change
        if change is None or not change.joining or now_ms - change.joining_ms <= JOIN_TIMEOUT_MS:
            return
        for shard in sorted(change.waiting):
            member = self.members[shard]
            if change.awaits(member):  # else its successor is on its way, and joins by a view of its own
                self.processes.give_up(member, "it did not get ready to serve in time", now_ms, effects)
                member.retry_ms = now_ms + RETRY_MAX_MS  # the others would soon hold invalidations back again

    def _on_remembered(self, epoch: int, now_ms: int, effects: Effects) -> None:
        change = self.change
        if change is not None and change.view.epoch == epoch and not change.remembered:
            change.remembered = True
            effects.extend(change.send(self.members, now_ms))

    def _on_activated(self, shard: str, incarnation: int, epoch: int) -> None:
        member = self.members.get(shard)
        if member is not None and member.incarnation == incarnation:
            member.epoch = max(member.epoch, epoch)

    def _is_hung(self, member: Member, now_ms: int) -> bool:
        in_view = self.view is not None and member.id in self.view.by_id
        serves = in_view and member.served_by == member.incarnation
        return serves and self.authority.may_judge(now_ms) and now_ms >= member.serving_until_ms

    def _on_lease_request(self, event: m.LeaseRequested, now_ms: int, effects: Effects) -> None:
        if self.phase in (Phase.NEW, Phase.STOPPING):
            return  # it does not know yet whom it would refuse, or the shard is just being closed
        self._on_activated(event.shard, event.incarnation, event.epoch)  # its answer to Activate may have been lost
        effects.append(self._lease_answer(event, now_ms))

    def _lease_answer(self, event: m.LeaseRequested, now_ms: int) -> m.GrantLease | m.RefuseLease | m.Activate:
        view, member, shard, incarnation = self.view, self.members.get(event.shard), event.shard, event.incarnation
        if member is None or incarnation < member.incarnation or self.phase is Phase.FAILED:
            return m.RefuseLease(shard=shard, incarnation=incarnation, term=self.term, gone=True)
        self.membership.note_leftovers(event)
        refusal = m.RefuseLease(shard=shard, incarnation=incarnation, term=self.term, gone=False)
        if view is None:
            return refusal
        entry = view.by_id.get(shard)
        unprepared = self.change is not None and shard in self.change.waiting
        if entry is None and 0 < event.epoch < view.epoch and not unprepared:
            return self._activate(shard)  # it learns whom its former clients are to ask
        serves = entry is not None and entry.incarnation == str(incarnation) and member.process is Process.UP
        if not serves or unprepared or not self.authority.may_grant(now_ms):
            return refusal
        if event.epoch < view.epoch:
            return self._activate(shard)
        member.serving_until_ms, member.granted = self.authority.granted_until_ms(now_ms), view.epoch
        return m.GrantLease(shard=shard, incarnation=incarnation, term=self.term, epoch=view.epoch)

    def _activate(self, shard: str) -> m.Activate:
        if self.view is None:
            raise RuntimeError("there is no view to activate")
        return m.Activate(shard=shard, incarnation=self.members[shard].incarnation, term=self.term, view=self.view)

    def _on_recovered(self, event: c.Recovered, now_ms: int, effects: Effects) -> None:
        """Begin from what the shards know, and take them over with a view change of a higher epoch.

        When nobody who answers knows of the last epoch, a view may be in force in which those who answer are suspended
        and which goes on without them: they are ended, and the cluster is formed anew when all leases have run out.
        """
        self.term = event.term
        self.epoch = event.epoch_floor
        self._ran_before = event.epoch_floor > 0
        self.authority.begin(now_ms)
        latest_ms = self.authority.granted_by_others_until_ms(now_ms)
        newest = newest_found(event)
        view = self.view = newest.view if newest is not None else None
        if event.target:
            self.membership.target = in_order(event.target)
        elif view is not None:
            self.membership.target = in_order({shard.id: shard.weight for shard in view.shards})
        self.processes.members = recovered_members(event, newest, self.target, latest_ms)
        if view is not None:
            self.phase, self._takes_over = Phase.RUNNING, True
            self.epoch = max(self.epoch, view.epoch)
            return
        self.phase = Phase.FORMING
        if self._ran_before:
            self._end_all(event, latest_ms, effects)

    def _end_all(self, event: c.Recovered, latest_ms: int, effects: Effects) -> None:
        """Whoever is left of views that nobody can tell of may serve until its lease has run out."""
        known = [(found.started.shard, found.started.incarnation) for found in event.found]
        effects.extend(
            c.KillShard(shard=shard, incarnation=number) for shard, number in sorted({*known, *event.silent})
        )
        for member in self.members.values():
            member.serving_until_ms = latest_ms

    def _on_started(self, event: m.ShardStarted, effects: Effects) -> None:
        if not self.processes.is_expected(event) or self.phase in (Phase.STOPPING, Phase.FAILED):
            effects.append(c.KillShard(shard=event.shard, incarnation=event.incarnation))
            return
        if self.view is None and event.stored is not None:
            self.epoch = max(self.epoch, event.stored.epoch)  # clients may remember it from the life before
        self.processes.started(event)

    def _on_start_failed(self, event: c.ShardStartFailed, now_ms: int, effects: Effects) -> None:
        if not self.processes.is_expected(event):
            return
        self.processes.give_up(self.members[event.shard], event.reason, now_ms, effects)
        no_view_yet = self.view is None and self.change is None and not self._ran_before
        if self.phase is Phase.FORMING and no_view_yet:  # nobody has served: a failure undoes everything
            self.phase, self.reason = Phase.FAILED, event.reason
            self.processes.kill_all(effects)
            effects.append(c.ReportFailed(reason=event.reason))

    def _on_prepared(self, event: m.Prepared) -> None:
        member = self.members.get(event.shard)
        if self.change is not None and member is not None and member.incarnation == event.incarnation:
            self.change.note(event)

    def _go_beyond(self, epoch: int, now_ms: int) -> None:
        """Another coordinator has used this epoch: propose the same again under a higher one.

        It may have let in processes that this one does not know; they serve for a lease at most.
        """
        if self.phase in (Phase.FORMING, Phase.RUNNING) and epoch >= self.epoch:
            self.epoch, self.change, self._takes_over, self._was_in_force = epoch, None, True, False
            latest_ms = self.authority.granted_by_others_until_ms(now_ms)
            for member in self.members.values():
                member.serving_until_ms = max(member.serving_until_ms, latest_ms)

    # -------------------------------------------------------------- view changes

    def _advance(self, now_ms: int, effects: Effects) -> None:
        """Begin, carry on, supersede or finish a view change."""
        if self.phase is Phase.FORMING and not all(self.members[one].may_join(now_ms) for one in self.target):
            return
        proposed = self.change.view if self.change is not None else None
        reshape = self.membership.may_follow(
            self.members, self.view, proposed, is_sure=not self._takes_over, now_ms=now_ms
        )
        wanted = wanted_shards(self.members.values(), self.view, now_ms, self.replicas, reshape=reshape)
        newest = proposed or self.view
        if newest is None or wanted != newest.shards or (proposed is None and self._takes_over):
            self._begin(wanted, now_ms, effects)
        change = self.change
        if change is None or not change.remembered:
            return
        if not change.joining:
            change.waiting -= {one for one in change.leavers if not self.members[one].may_serve(now_ms)}
        if not change.waiting and not change.joining:
            begin_joining(change, self.members, self.view, term=self.term, uid=self.uid, now_ms=now_ms)
            effects.extend(change.send(self.members, now_ms))
        if not change.waiting and change.joining:
            self._finish(change, now_ms, effects)

    def _begin(self, shards: tuple[ShardInfo, ...], now_ms: int, effects: Effects) -> None:
        self.epoch += 1
        view = View(epoch=self.epoch, cluster=self.name, replicas=self.replicas, shards=shards)
        for entry in view.shards:
            member = self.members[entry.id]
            if entry.state != ACTIVE and member.away_since is None:
                member.away_since = self.epoch
        former = self.view if moves_keys(self.view, view) and self._was_in_force else None
        self.change = begin_change(
            view,
            self.members,
            term=self.term,
            after=self.view.epoch if self.view is not None else 0,
            former=former,
            window_ms=self.membership.window_ms,
            now_ms=now_ms,
        )
        effects.append(c.RememberEpoch(term=self.term, epoch=self.epoch))

    def _finish(self, change: Change, now_ms: int, effects: Effects) -> None:
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
                member.serving_until_ms = self.authority.granted_until_ms(now_ms)
            if member.process is Process.UP:
                effects.append(self._activate(entry.id))
        leavers = (self.members[shard] for shard in sorted(change.leavers))
        effects.extend(self._activate(member.id) for member in leavers if member.process is Process.UP)
        if moved:
            sources = {*change.stayers, *change.leavers} if change.former is not None else set[str]()
            self.membership.begin_handing_over(change.view.epoch, sources, now_ms)

    def _needed(self) -> set[str]:
        """The shards of the view in force and of the one under way."""
        needed = set(self.view.by_id) if self.view is not None else set()
        return needed if self.change is None else needed | self.change.leavers | self.change.view.by_id.keys()
