"""Which shards are wanted, with which weights, and when the ring may follow.

A target is set from outside (`resize`, `drain`). The ring follows in one view change, when every new shard is up and
every other one serves: what a shard owns changes only while all can say what they hold. Then what has moved is handed
over, and until that is done, or its time is over, the ring does not change again and shards that left stay as sources.

Invariants: a shard that leaves keeps its range until the view without it is prepared; ids are given again only with
incarnations that were never given before.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from stratacache.client.view import ACTIVE, View
from stratacache.cluster import coordinator_events as c
from stratacache.cluster import messages as m
from stratacache.cluster.config import SHARDS_MAX
from stratacache.cluster.members import Member, Process
from stratacache.node.errors import UsageError

WINDOW_MS: Final = 60_000
"""How long the former owners of moved keys are asked for them, at most."""
WEIGHT_MAX: Final = 100.0
_ID: Final = re.compile(r"shard-(\d+)")

Target = Mapping[str, float]


def shard_number(shard: str) -> int:
    """The number in a shard's id: its place among ports and homes."""
    found = _ID.fullmatch(shard)
    return int(found[1]) if found else 0


def in_order(shards: Target) -> dict[str, float]:
    """A target with its shards in the order of their numbers."""
    return {shard: shards[shard] for shard in sorted(shards, key=lambda one: (shard_number(one), one))}


def resized(now: Target, count: int | None, weights: Target) -> dict[str, float]:
    """`now` with `count` shards (None: as many) and these weights; raises UsageError.

    Shards are added at the lowest numbers that are free, and those of the highest numbers leave.
    """
    count = len(now) if count is None else count
    if not 1 <= count <= SHARDS_MAX:
        raise UsageError(f"shards is {count}; it must be from 1 to {SHARDS_MAX}")
    wanted = in_order(now)
    while len(wanted) > count:
        wanted.popitem()
    free = (number for number in range(SHARDS_MAX) if f"shard-{number}" not in wanted)
    while len(wanted) < count:
        wanted[f"shard-{next(free)}"] = 1.0
    for shard, weight in weights.items():
        if shard not in wanted:
            raise UsageError(f"there is no {shard} to give a weight to: it would have {', '.join(wanted)}")
        if not 0 < weight <= WEIGHT_MAX:
            raise UsageError(f"{shard} can't have weight {weight}; it must be above 0 and at most {WEIGHT_MAX:g}")
        wanted[shard] = float(weight)
    return in_order(wanted)


def without(now: Target, shard: str) -> dict[str, float]:
    """`now` without one shard; raises UsageError."""
    if shard not in now:
        raise UsageError(f"there is no {shard} here: it has {', '.join(in_order(now))}")
    if len(now) == 1:
        raise UsageError(f"{shard} is the only shard: end the cluster with `stratacache down` instead")
    return in_order({one: weight for one, weight in now.items() if one != shard})


@dataclass(slots=True)
class HandingOver:
    """What has moved with the view of `epoch` is on its way; `left` is what each source still holds."""

    epoch: int
    until_ms: int
    left: dict[str, int | None] = field(default_factory=dict)

    def is_over(self, now_ms: int) -> bool:
        """Whether nothing is to be waited for any more."""
        return now_ms >= self.until_ms or all(left == 0 for left in self.left.values())


def ring_follows(view: View | None, target: Target) -> bool:
    """Whether a view has the ring that is wanted."""
    return view is not None and {shard.id: shard.weight for shard in view.shards} == dict(target)


def moves_keys(before: View | None, view: View) -> bool:
    """Whether keys change their shard between two views."""
    return before is not None and {one.id: one.weight for one in before.shards} != {
        one.id: one.weight for one in view.shards
    }


def why_not_yet(members: Mapping[str, Member], view: View, target: Target, now_ms: int) -> str:
    """What the ring waits for before it can follow the target; empty when it can."""
    for shard in in_order(target):
        member, entry = members[shard], view.by_id.get(shard)
        if entry is None and not member.may_join(now_ms):
            return f"waits for {shard} to start" + (f": {member.reason}" if member.reason else "")
        if entry is not None and (entry.state != ACTIVE or not member.may_join(now_ms)):
            return f"waits for {shard}, which does not serve" + (f": {member.reason}" if member.reason else "")
    return ""


class Membership:
    """Which shards are wanted (`target`, with their weights), and the change of the ring that follows."""

    def __init__(self, shard_ids: Sequence[str], *, window_ms: int) -> None:
        self.target: dict[str, float] = in_order(dict.fromkeys(shard_ids, 1.0))
        self.handing_over: HandingOver | None = None
        self.window_ms = window_ms
        self._given: dict[str, int] = {}  # the last incarnation of each shard that is no member any more

    def aim(
        self, target: Target, members: Mapping[str, Member], effects: list[c.CoordinatorEffect]
    ) -> dict[str, Member]:
        """Want these shards; returns the members with those that come and go."""
        self.target = in_order(target)
        wanted = dict(members)
        for shard, weight in self.target.items():
            if shard not in wanted:
                wanted[shard] = Member(id=shard, incarnation=self._given.pop(shard, 0))
            wanted[shard].weight, wanted[shard].leaving = weight, False
        for member in wanted.values():
            if member.id in self.target:
                continue
            member.leaving = True
            if member.process is not Process.NONE and member.served_by != member.incarnation:  # it never came to serve
                effects.append(c.KillShard(shard=member.id, incarnation=member.incarnation))
                member.process, member.started = Process.NONE, None
        return {shard: wanted[shard] for shard in sorted(wanted, key=shard_number)}

    def may_follow(
        self, members: Mapping[str, Member], view: View | None, proposed: View | None, *, is_sure: bool, now_ms: int
    ) -> bool:
        """Whether the next view may have the ring that is wanted. One that has been proposed already may go on.

        `is_sure`: the view was brought into force by this coordinator, so its shards hold what it says.
        """
        if view is None or not is_sure or self.handing_over is not None:
            return False
        if ring_follows(view, self.target) or (proposed is not None and not ring_follows(proposed, self.target)):
            return False
        return not why_not_yet(members, view, self.target, now_ms)

    def begin_handing_over(self, epoch: int, sources: Collection[str], now_ms: int) -> None:
        """The view of `epoch` has another ring: until the sources have given what moved, it does not change again."""
        self.handing_over = HandingOver(epoch, now_ms + self.window_ms, dict.fromkeys(sorted(sources)))

    def note_leftovers(self, event: m.LeaseRequested) -> None:
        """Take note of what a source still holds."""
        over = self.handing_over
        if over is not None and event.shard in over.left and event.epoch >= over.epoch:
            over.left[event.shard] = event.leftovers

    def let_go(
        self, members: dict[str, Member], needed: Collection[str], now_ms: int, effects: list[c.CoordinatorEffect]
    ) -> None:
        """Let the ring change again, and remove shards that have left and are not `needed`, once all is handed over."""
        over = self.handing_over
        if over is not None:
            for shard in over.left:
                if shard not in members or members[shard].process is Process.NONE:
                    over.left[shard] = 0
            if not over.is_over(now_ms):
                return
            self.handing_over = None
        for member in [one for one in members.values() if one.leaving and one.id not in needed]:
            if member.process is Process.UP:
                effects.append(c.CloseShard(shard=member.id, incarnation=member.incarnation, forget=True))
            elif not is_gone(member, now_ms):
                continue
            del members[member.id]
            self._given[member.id] = member.incarnation

    def progress(self, members: Mapping[str, Member], view: View | None, now_ms: int) -> dict[str, Any]:
        """How far a change of the ring is, for people and programs."""
        left = self.handing_over.left if self.handing_over is not None else {}
        phase = waits_for = ""
        if self.handing_over is not None:
            phase = "handing over"
        elif not ring_follows(view, self.target):
            phase = "changing the ring"
            waits_for = why_not_yet(members, view, self.target, now_ms) if view is not None else ""
        return {
            "target": dict(self.target),
            "phase": phase,
            "left": sum(count or 0 for count in left.values()),
            "sources": sorted(shard for shard, count in left.items() if count != 0),
            "waits_for": waits_for,
        }


def is_gone(member: Member, now_ms: int) -> bool:
    """Whether no process of a shard that leaves can serve, or has anything to give."""
    return member.process is Process.NONE and now_ms >= member.serving_until_ms
