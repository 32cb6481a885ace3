"""One view change: who has to prepare it, in which order, and with what.

Invariants: all that may serve under the view in force prepare before any shard joins, also those that leave; nobody is
told of the view before its epoch is remembered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from stratacache.client.view import ACTIVE, View
from stratacache.cluster import messages as m
from stratacache.cluster.members import Member, Process
from stratacache.cluster.membership import moves_keys
from stratacache.cluster.warmth import keep_at_first_start, keep_at_return, view_ring

JOIN_TIMEOUT_MS: Final = 20_000
"""How long the others hold invalidations back for a process that joins; then it is ended and tried again later."""


@dataclass(slots=True)
class Change:
    """A view change under way: `waiting` holds the shards that have not prepared in its present stage.

    Until its epoch is `remembered` nobody is told of it: after a crash the epoch would fall. `former` is the view in
    force when its ring differs and it is certain that it was in force.
    """

    view: View
    stayers: frozenset[str]
    leavers: frozenset[str]
    joiners: frozenset[str]
    waiting: set[str]
    after: int = 0
    former: View | None = None
    window_ms: int = 0
    remembered: bool = False
    joining: bool = False
    sent_ms: int = 0
    joining_ms: int = 0
    owed: dict[str, dict[str, m.DebtLog]] = field(default_factory=dict)
    prepares: dict[str, m.Prepare] = field(default_factory=dict)

    def awaits(self, member: Member) -> bool:
        """Whether it is this very process that has yet to prepare, not one that has taken its place."""
        prepare = self.prepares[member.id]
        return member.id in self.waiting and member.process is Process.UP and member.incarnation == prepare.incarnation

    def send(self, members: Mapping[str, Member], now_ms: int) -> list[m.Prepare]:
        """To all that have not prepared; one whose successor is up already is not sent to, only waited for."""
        self.sent_ms = now_ms
        return [self.prepares[shard] for shard in sorted(self.waiting) if self.awaits(members[shard])]

    def note(self, event: m.Prepared) -> None:
        """A shard has prepared."""
        if event.epoch == self.view.epoch:
            self.waiting.discard(event.shard)
            self.owed[event.shard] = dict(event.owed)


def begin_change(
    view: View,
    members: Mapping[str, Member],
    *,
    term: int,
    after: int,
    former: View | None,
    window_ms: int,
    now_ms: int,
) -> Change:
    """The change to `view` from that of epoch `after`; `former` is the view in force when it has another ring."""
    active = {entry.id: entry for entry in view.shards if entry.state == ACTIVE}
    joiners = frozenset(shard for shard, entry in active.items() if members[shard].joins_as(entry))
    stayers = frozenset(active.keys() - joiners)
    leavers = frozenset(one.id for one in members.values() if one.id not in view.by_id and one.may_serve(now_ms))
    change = Change(
        view=view,
        stayers=stayers,
        leavers=leavers,
        joiners=joiners,
        waiting=set(stayers | leavers),
        after=after,
        former=former,
        window_ms=window_ms,
        sent_ms=now_ms,
    )
    for shard in sorted(stayers | leavers):
        entry = active.get(shard)
        incarnation = int(entry.incarnation) if entry is not None else members[shard].incarnation
        change.prepares[shard] = _prepare(change, members, shard, incarnation, term)
    return change


def begin_joining(
    change: Change, members: Mapping[str, Member], before: View | None, *, term: int, uid: str, now_ms: int
) -> None:
    """All others have prepared: it is the joiners' turn. `before` is the view in force."""
    change.joining, change.joining_ms = True, now_ms
    change.waiting = set(change.joiners)
    in_view = [member for member in members.values() if member.id in change.view.by_id]
    found = {one.id: one.started.stored if one.started else None for one in in_view}
    keep_all = before is None and keep_at_first_start(found, view_ring(change.view), change.view.replicas)
    for shard in sorted(change.joiners):
        member = members[shard]
        keep = keep_all
        debts: tuple[m.Debt, ...] = ()
        was = before.by_id.get(shard) if before is not None else None
        if before is not None and member.started is not None and was is not None:
            logs = [owed[shard] for owed in change.owed.values() if shard in owed]
            away = {one.id: one.away_since for one in members.values() if one.away_since is not None}
            keep, debts = keep_at_return(member.started.stored, was, before, uid, away=away, logs=logs)
            keep = keep and not moves_keys(before, change.view)  # what it has must be of the ring that comes
        change.prepares[shard] = _prepare(
            change, members, shard, member.incarnation, term, keep, debts, returns=before is not None
        )


def _prepare(
    change: Change,
    members: Mapping[str, Member],
    shard: str,
    incarnation: int,
    term: int,
    keep: bool | None = None,
    debts: tuple[m.Debt, ...] = (),
    *,
    returns: bool = False,
) -> m.Prepare:
    return m.Prepare(
        shard=shard,
        incarnation=incarnation,
        term=term,
        view=change.view,
        away=_still_away(members.values(), change.view),
        fences=_fences(members, change.view),
        keep=keep,
        debts=debts if keep else (),
        returns=returns,
        after=change.after,
        former=change.former,
        window_ms=change.window_ms,
    )


def _still_away(members: Iterable[Member], view: View) -> dict[str, int]:
    entries = view.by_id
    return {
        one.id: one.away_since
        for one in members
        if one.away_since is not None and one.id in entries and entries[one.id].state != ACTIVE
    }


def _fences(members: Mapping[str, Member], view: View) -> dict[str, str]:
    running = (members[shard.id].started for shard in view.shards if shard.state == ACTIVE)
    return {started.shard: started.fence for started in running if started is not None}
