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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from stratacache.client.view import ACTIVE, ShardInfo, View
from stratacache.cluster import messages as m
from stratacache.cluster.members import Member, Process, wanted_shards
from stratacache.cluster.placement import place
from stratacache.cluster.warmth import keep_at_first_start, keep_at_return, view_ring

CONFIRM_MAX_MS: Final = 3_000
"""How old a confirmation of the coordinator's name may be when a lease is granted."""
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


@dataclass(slots=True)
class Change:
    """A view change under way: `waiting` holds the shards that have not prepared in its present stage.

    Until its epoch is `remembered` nobody is told of it: after a crash the epoch would fall.
    """

    view: View
    stayers: frozenset[str]
    joiners: frozenset[str]
    waiting: set[str]
    remembered: bool = False
    joining: bool = False
    sent_ms: int = 0
    owed: dict[str, dict[str, m.DebtLog]] = field(default_factory=dict)
    prepares: dict[str, m.Prepare] = field(default_factory=dict)


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
    ) -> None:
        self.name = name
        self.uid = uid
        self.replicas = replicas
        self.lease_bound_ms = lease_ms + lease_ms // 10  # clocks may run 10 % apart
        self.start_timeout_ms = start_timeout_ms
        self.port = port
        self.members = {shard: Member(id=shard) for shard in shard_ids}
        self.nodes: tuple[m.NodeSeen, ...] = ()
        self.draining: set[str] = set()
        self.phase = Phase.NEW
        self.view: View | None = None
        self.change: Change | None = None
        self.term = 0
        self.epoch = 0
        self.reason = ""
        self._confirmed_ms = 0
        self._ticked_ms = 0
        self._judge_after_ms = 0
        self._ran_before = False  # a view was proposed in this cluster's life, though nobody may be left to tell of it
        self._takes_over = False  # the shards have not yet heard of this coordinator's term

    # -------------------------------------------------------------- reading

    def is_ready(self) -> bool:
        """Whether every shard is active and has said that it works under the present view."""
        return (
            self.phase is Phase.RUNNING
            and self.change is None
            and self.view is not None
            and all(shard.state == ACTIVE for shard in self.view.shards)
            and all(member.epoch == self.view.epoch for member in self.members.values())
        )

    def away(self) -> dict[str, int]:
        """The suspended shards and the epoch that suspended each."""
        return {one.id: one.away_since for one in self.members.values() if one.away_since is not None}

    # -------------------------------------------------------------- deciding

    def handle(self, event: m.CoordinatorEvent, now_ms: int) -> list[m.CoordinatorEffect]:
        """Take note of an event and say what is to be done."""
        effects: list[m.CoordinatorEffect] = []
        match event:
            case m.Ticked():
                self._on_tick(now_ms, effects)
            case m.LeaseRequested():
                self._on_lease_request(event, now_ms, effects)
            case m.NameConfirmed(sent_ms=sent_ms):
                self._confirmed_ms = max(self._confirmed_ms, sent_ms)
            case m.NodesSeen(nodes=nodes):
                self.nodes = nodes
                self.draining &= {node.id for node in nodes}
            case m.NodeDraining(node=node):
                self._on_draining(node, effects)
            case m.Recovered():
                self._on_recovered(event, now_ms, effects)
            case m.ShardStarted():
                self._on_started(event, effects)
            case m.ShardStartFailed():
                self._on_start_failed(event.shard, event.incarnation, event.reason, now_ms, effects)
            case m.ShardLost():
                self._on_lost(event, now_ms)
            case m.Prepared():
                self._on_prepared(event)
            case m.Activated(shard=shard, incarnation=incarnation, epoch=epoch):
                self._on_activated(shard, incarnation, epoch)
            case m.EpochRemembered(epoch=epoch):
                self._on_remembered(epoch, now_ms, effects)
            case m.Outpaced(epoch=epoch) | m.EpochTaken(epoch=epoch):
                self._go_beyond(epoch, now_ms)
            case m.StopRequested():
                self._on_stop(effects)
        if self.phase in (Phase.FORMING, Phase.RUNNING):
            self._start_missing(now_ms, effects)
            self._advance(now_ms, effects)
        return effects

    def _on_tick(self, now_ms: int, effects: list[m.CoordinatorEffect]) -> None:
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
                effects.append(m.KillShard(shard=member.id, incarnation=member.incarnation))
                self._forget_process(member, "it stopped renewing its serving lease", now_ms)
        change = self.change
        if change is not None and now_ms - change.sent_ms >= RESEND_MS:
            if change.remembered:
                self._send_prepares(change, now_ms, effects)
            else:
                change.sent_ms = now_ms
                effects.append(m.RememberEpoch(term=self.term, epoch=change.view.epoch))

    def _on_remembered(self, epoch: int, now_ms: int, effects: list[m.CoordinatorEffect]) -> None:
        change = self.change
        if change is not None and change.view.epoch == epoch and not change.remembered:
            change.remembered = True
            self._send_prepares(change, now_ms, effects)

    def _on_activated(self, shard: str, incarnation: int, epoch: int) -> None:
        member = self.members.get(shard)
        if member is not None and member.incarnation == incarnation:
            member.epoch = max(member.epoch, epoch)

    def _send_prepares(self, change: Change, now_ms: int, effects: list[m.CoordinatorEffect]) -> None:
        """To all that have not prepared; one whose successor is up already is not sent to, only waited for."""
        change.sent_ms = now_ms
        for shard in sorted(change.waiting):
            prepare, member = change.prepares[shard], self.members[shard]
            if member.process is Process.UP and member.incarnation == prepare.incarnation:
                effects.append(prepare)

    def _is_hung(self, member: Member, now_ms: int) -> bool:
        serves = member.served_by == member.incarnation
        return serves and now_ms >= self._judge_after_ms and now_ms >= member.serving_until_ms

    def _on_lease_request(self, event: m.LeaseRequested, now_ms: int, effects: list[m.CoordinatorEffect]) -> None:
        member = self.members.get(event.shard)
        if self.phase in (Phase.NEW, Phase.STOPPING):
            return  # it does not know yet whom it would refuse, or the shard is just being closed
        self._on_activated(event.shard, event.incarnation, event.epoch)  # its answer to Activate may have been lost
        if member is None or event.incarnation < member.incarnation or self.phase is Phase.FAILED:
            effects.append(m.RefuseLease(shard=event.shard, incarnation=event.incarnation, term=self.term, gone=True))
            return
        in_view = self.view is not None and self.view.by_id[event.shard].incarnation == str(event.incarnation)
        unprepared = self.change is not None and event.shard in self.change.waiting
        confirmed = now_ms - self._confirmed_ms <= CONFIRM_MAX_MS
        if self.view is None or not in_view or unprepared or not confirmed or member.process is not Process.UP:
            effects.append(m.RefuseLease(shard=event.shard, incarnation=event.incarnation, term=self.term, gone=False))
            return
        if event.epoch < self.view.epoch:
            effects.append(self._activate(event.shard))
            return
        member.serving_until_ms = now_ms + self.lease_bound_ms
        effects.append(
            m.GrantLease(shard=event.shard, incarnation=event.incarnation, term=self.term, epoch=self.view.epoch)
        )

    def _activate(self, shard: str) -> m.Activate:
        if self.view is None:
            raise RuntimeError("there is no view to activate")
        return m.Activate(shard=shard, incarnation=self.members[shard].incarnation, term=self.term, view=self.view)

    def _on_recovered(self, event: m.Recovered, now_ms: int, effects: list[m.CoordinatorEffect]) -> None:
        """Begin from what the shards know, and take them over with a view change of a higher epoch.

        When nobody who answers knows of the last epoch, a view may be in force in which those who answer are suspended
        and which goes on without them: they are ended, and the cluster is formed anew when all leases have run out.
        """
        self.term = event.term
        self.epoch = event.epoch_floor
        self._ran_before = event.epoch_floor > 0
        self._ticked_ms = now_ms
        self._judge_after_ms = now_ms + self.lease_bound_ms
        newest = max((one for one in event.found if one.view is not None), key=_epoch_found, default=None)
        if newest is None or newest.view is None or not _is_last(newest.view, event):
            self.phase = Phase.FORMING
            served: Mapping[str, str] = {}
            if self._ran_before:
                self._end_all(event, now_ms, effects)
                return
        else:
            self.phase, self.view, self._takes_over = Phase.RUNNING, newest.view, True
            self.epoch = max(self.epoch, newest.view.epoch)
            self.members = {shard.id: Member(id=shard.id) for shard in newest.view.shards}
            served = newest.fences
        for member in self.members.values():
            member.fence = served.get(member.id, "")
            member.away_since = newest.away.get(member.id) if newest is not None else None
            self._recover_member(member, event, now_ms + self.lease_bound_ms + CONFIRM_MAX_MS)

    def _end_all(self, event: m.Recovered, now_ms: int, effects: list[m.CoordinatorEffect]) -> None:
        """Whoever is left of views that nobody can tell of may serve until its lease has run out."""
        known = [(found.started.shard, found.started.incarnation) for found in event.found]
        effects.extend(
            m.KillShard(shard=shard, incarnation=number) for shard, number in sorted({*known, *event.silent})
        )
        for member in self.members.values():
            member.serving_until_ms = now_ms + self.lease_bound_ms + CONFIRM_MAX_MS

    def _recover_member(self, member: Member, event: m.Recovered, latest_ms: int) -> None:
        """What one shard's processes can be doing now: an answer tells; silence may serve until `latest_ms`."""
        entry = self.view.by_id[member.id] if self.view is not None else None
        if entry is not None and entry.state == ACTIVE:
            member.incarnation = member.served_by = int(entry.incarnation)
            member.serving_until_ms, member.home = latest_ms, entry.node
        for shard, incarnation in event.silent:
            if shard == member.id:
                member.incarnation = max(member.incarnation, incarnation)
        for found in event.found:
            started = found.started
            if started.shard != member.id or started.incarnation < member.incarnation:
                continue
            member.incarnation, member.started, member.process = started.incarnation, started, Process.UP
            member.home, member.port = started.node, started.port
            own = found.view.by_id.get(member.id) if found.view is not None else None
            if member.served_by != started.incarnation:
                continue
            if own is not None and own.state == ACTIVE and own.incarnation == str(started.incarnation):
                member.fence = started.fence
            else:  # the view that lets it join never reached it: it has not served, and is not prepared to
                member.served_by = member.serving_until_ms = 0

    def _on_started(self, event: m.ShardStarted, effects: list[m.CoordinatorEffect]) -> None:
        member = self.members.get(event.shard)
        stale = member is None or event.incarnation != member.incarnation or member.process is not Process.STARTING
        if stale or member is None or self.phase in (Phase.STOPPING, Phase.FAILED):
            effects.append(m.KillShard(shard=event.shard, incarnation=event.incarnation))
            return
        if self.view is None and event.stored is not None:
            self.epoch = max(self.epoch, event.stored.epoch)  # clients may remember it from the life before
        member.started, member.process = event, Process.UP
        member.home, member.port, member.reason, member.failures = event.node, event.port, "", 0

    def _on_start_failed(
        self, shard: str, incarnation: int, reason: str, now_ms: int, effects: list[m.CoordinatorEffect]
    ) -> None:
        member = self.members.get(shard)
        if member is None or member.incarnation != incarnation or member.process is not Process.STARTING:
            return
        effects.append(m.KillShard(shard=shard, incarnation=incarnation))
        self._forget_process(member, reason, now_ms)
        if self.phase is Phase.FORMING and self.epoch_is_unused():
            self.phase, self.reason = Phase.FAILED, reason
            for other in self.members.values():
                if other.process is not Process.NONE:
                    effects.append(m.KillShard(shard=other.id, incarnation=other.incarnation))
                    other.process = Process.NONE
            effects.append(m.ReportFailed(reason=reason))

    def epoch_is_unused(self) -> bool:
        """Whether no view has been proposed in this cluster's life: then a failure undoes everything."""
        return self.view is None and self.change is None and not self._ran_before

    def _forget_process(self, member: Member, reason: str, now_ms: int) -> None:
        member.process, member.started, member.epoch, member.reason = Process.NONE, None, 0, reason
        delay = min(RETRY_MAX_MS, RETRY_MIN_MS << min(member.failures, 10)) if member.failures else 0
        member.failures += 1
        member.retry_ms = now_ms + delay

    def _on_lost(self, event: m.ShardLost, now_ms: int) -> None:
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
            self.epoch, self.change, self._takes_over = epoch, None, True
            for member in self.members.values():
                latest_ms = now_ms + self.lease_bound_ms + CONFIRM_MAX_MS
                member.serving_until_ms = max(member.serving_until_ms, latest_ms)

    def _on_draining(self, node: str, effects: list[m.CoordinatorEffect]) -> None:
        self.draining.add(node)
        there = [one for one in self.members.values() if one.process is Process.UP and one.home == node]
        effects += [m.CloseShard(shard=member.id, incarnation=member.incarnation) for member in there]

    def _on_stop(self, effects: list[m.CoordinatorEffect]) -> None:
        self.phase, self.change = Phase.STOPPING, None
        for member in self.members.values():
            if member.process is Process.UP:
                effects.append(m.CloseShard(shard=member.id, incarnation=member.incarnation))
            elif member.process is Process.STARTING:
                effects.append(m.KillShard(shard=member.id, incarnation=member.incarnation))

    # -------------------------------------------------------------- processes and views

    def _start_missing(self, now_ms: int, effects: list[m.CoordinatorEffect]) -> None:
        nodes = [node for node in self.nodes if node.id not in self.draining]
        for index, member in enumerate(self.members.values()):
            if member.process is not Process.NONE or now_ms < member.retry_ms:
                continue
            homes = {one.id: one.home for one in self.members.values()}
            node = place(member.id, index, nodes, homes)
            if node is None:
                member.reason = "no Ray node has a place for it"
                continue
            # A range of its own for each coordinator: none gives a number that another has given, here or elsewhere.
            member.incarnation = max(member.incarnation, (self.term - 1) * INCARNATIONS_PER_TERM) + 1
            member.process, member.started_ms, member.home = Process.STARTING, now_ms, node
            port = self.port + index if self.port else member.port
            effects.append(m.StartShard(shard=member.id, incarnation=member.incarnation, node=member.home, port=port))

    def _advance(self, now_ms: int, effects: list[m.CoordinatorEffect]) -> None:
        """Begin, carry on, supersede or finish a view change."""
        if self.phase is Phase.FORMING and not all(one.may_join(now_ms) for one in self.members.values()):
            return
        wanted = wanted_shards(self.members.values(), self.view, now_ms, self.replicas)
        in_force = self.change.view if self.change is not None else self.view
        if in_force is None or wanted != in_force.shards or (self.change is None and self._takes_over):
            self._begin(wanted, now_ms, effects)
        change = self.change
        if change is None or not change.remembered:
            return
        if not change.waiting and not change.joining:
            self._prepare_joiners(change, now_ms, effects)
        if not change.waiting and change.joining:
            self._finish(change, now_ms, effects)

    def _begin(self, shards: tuple[ShardInfo, ...], now_ms: int, effects: list[m.CoordinatorEffect]) -> None:
        self.epoch += 1
        view = View(epoch=self.epoch, cluster=self.name, replicas=self.replicas, shards=shards)
        for entry in view.shards:
            member = self.members[entry.id]
            if entry.state == ACTIVE:
                continue
            if member.away_since is None:
                member.away_since = self.epoch
        active = {entry.id: entry for entry in view.shards if entry.state == ACTIVE}
        joiners = frozenset(shard for shard, entry in active.items() if self.members[shard].joins_as(entry))
        stayers = frozenset(active.keys() - joiners)
        self.change = Change(view=view, stayers=stayers, joiners=joiners, waiting=set(stayers), sent_ms=now_ms)
        effects.append(m.RememberEpoch(term=self.term, epoch=self.epoch))
        for shard in sorted(stayers):
            self.change.prepares[shard] = m.Prepare(
                shard=shard,
                incarnation=int(active[shard].incarnation),
                term=self.term,
                view=view,
                away=self._still_away(view),
                fences=self._fences(view),
            )

    def _still_away(self, view: View) -> dict[str, int]:
        return {shard: since for shard, since in self.away().items() if view.by_id[shard].state != ACTIVE}

    def _fences(self, view: View) -> dict[str, str]:
        running = (self.members[shard.id].started for shard in view.shards if shard.state == ACTIVE)
        return {started.shard: started.fence for started in running if started is not None}

    def _prepare_joiners(self, change: Change, now_ms: int, effects: list[m.CoordinatorEffect]) -> None:
        change.joining = True
        change.waiting = set(change.joiners)
        first = self.view is None
        found = {one.id: one.started.stored if one.started else None for one in self.members.values()}
        keep_all = first and keep_at_first_start(found, view_ring(change.view), self.replicas)
        for shard in sorted(change.joiners):
            member = self.members[shard]
            keep = keep_all
            debts: tuple[m.Debt, ...] = ()
            if self.view is not None and member.started is not None:
                logs = [owed[shard] for owed in change.owed.values() if shard in owed]
                keep, debts = keep_at_return(
                    member.started.stored,
                    self.view.by_id[shard],
                    self.view,
                    self.uid,
                    away_since=member.away_since,
                    logs=logs,
                )
            change.prepares[shard] = m.Prepare(
                shard=shard,
                incarnation=member.incarnation,
                term=self.term,
                view=change.view,
                away=self._still_away(change.view),
                fences=self._fences(change.view),
                keep=keep,
                debts=debts,
                returns=not first,
            )
        self._send_prepares(change, now_ms, effects)

    def _finish(self, change: Change, now_ms: int, effects: list[m.CoordinatorEffect]) -> None:
        self.view, self.change, self.phase = change.view, None, Phase.RUNNING
        self._takes_over = False
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


def _is_last(view: View, event: m.Recovered) -> bool:
    """Whether no later view than this, the newest found, can be in force.

    Either no later epoch was ever remembered, or each active shard of it still has the right to serve under it: then
    none of them was suspended, and a later view in which they stay was not prepared by all.
    """
    serving = {(one.started.shard, str(one.started.incarnation)) for one in event.found if one.serves}
    active = {(shard.id, shard.incarnation) for shard in view.shards if shard.state == ACTIVE}
    return view.epoch >= event.epoch_floor or (bool(active) and active <= serving)


def _epoch_found(found: m.Found) -> int:
    return found.view.epoch if found.view is not None else 0
