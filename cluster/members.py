"""What the coordinator knows of each shard, and the view that follows from it.

Invariants: a shard's range never has two processes that may serve it: a new process enters the view only after its
predecessor has certainly stopped (its serving lease has run out, or its lock has been taken over). A shard that is
down is not taken out of the view: it is suspended and keeps its range.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

from stratacache.client.view import ACTIVE, SUSPENDED, ShardInfo, View
from stratacache.cluster.messages import ShardStarted


class Process(Enum):
    """What is known of the newest process of a shard."""

    NONE = "none"
    STARTING = "starting"
    UP = "up"


@dataclass(slots=True)
class Member:
    """One shard, across all its incarnations.

    `served_by` is the incarnation that last had the right to serve and `serving_until_ms` the latest moment at which
    that right can still hold; `fence` is that incarnation's lock. `away_since` is the epoch that suspended the shard.
    `leaving`: it is not wanted any more. `epoch` is the last view that it has said it works under, `granted` the last
    under which it got the right to serve.
    """

    id: str
    weight: float = 1.0
    leaving: bool = False
    incarnation: int = 0
    process: Process = Process.NONE
    started: ShardStarted | None = None
    started_ms: int = 0
    served_by: int = 0
    serving_until_ms: int = 0
    fence: str = ""
    home: str = ""
    port: int = 0
    away_since: int | None = None
    retry_ms: int = 0
    failures: int = 0
    reason: str = ""
    epoch: int = 0
    granted: int = 0

    def may_join(self, now_ms: int) -> bool:
        """Whether its newest process may enter a view: it runs, and no earlier one can serve any more."""
        if self.process is not Process.UP or self.started is None:
            return False
        return self.served_by == self.incarnation or self.is_fenced(now_ms)

    def is_new(self) -> bool:
        """Whether its newest process runs and has not yet had the right to serve."""
        return self.process is Process.UP and self.served_by != self.incarnation

    def joins_as(self, entry: ShardInfo) -> bool:
        """Whether a view with this entry is the one in which its newest process begins to serve."""
        return self.is_new() and entry.incarnation == str(self.incarnation)

    def is_fenced(self, now_ms: int) -> bool:
        """Whether the process that served last has certainly stopped serving."""
        taken_over = self.started is not None and self.started.fence == self.fence and self.fence != ""
        return now_ms >= self.serving_until_ms or (taken_over and self.served_by != self.incarnation)

    def may_serve(self, now_ms: int) -> bool:
        """Whether the process that served last may still do so."""
        return self.served_by != 0 and now_ms < self.serving_until_ms

    def entry(self) -> ShardInfo:
        """Its entry in a view in which its newest process serves."""
        if self.started is None:
            raise RuntimeError(f"{self.id} has no process to serve")
        started = self.started
        return ShardInfo(
            id=self.id,
            host=started.host,
            port=started.port,
            unix=started.unix,
            weight=self.weight,
            incarnation=str(started.incarnation),
            node=started.node,
            state=ACTIVE,
        )


def suspended(entry: ShardInfo) -> ShardInfo:
    """The entry of a shard that keeps its range but must not be contacted; it keeps its last incarnation."""
    return replace(entry, host="", port=0, unix="", state=SUSPENDED)


def wanted_shards(
    members: Iterable[Member], view: View | None, now_ms: int, replicas: int = 1, *, reshape: bool = False
) -> tuple[ShardInfo, ...]:
    """The entries that the next view should have, given what is certain now.

    With several owners of a key, a new process of a shard joins only after a view in which the shard is suspended: that
    view settles what was on its way to the process before. Only with `reshape`, or when there is no view yet, do shards
    come and go, and weights change.
    """
    entries = []
    for member in members:
        current = view.by_id.get(member.id) if view is not None else None
        if current is None and ((view is not None and not reshape) or member.leaving):
            continue
        if current is not None and reshape and member.leaving:
            continue
        if member.may_join(now_ms):
            entry = member.entry()
            if replicas > 1 and current is not None:
                if current.state == ACTIVE and current.incarnation != entry.incarnation:
                    entry = suspended(current)
                elif current.place != entry.place:
                    entry = replace(entry, group=current.place)
        elif current is None:
            entry = ShardInfo(id=member.id, incarnation="", weight=member.weight, state=SUSPENDED)
        elif member.process is not Process.UP and member.is_fenced(now_ms):
            entry = suspended(current)
        else:
            entry = current
        if current is not None:
            entry = replace(entry, weight=member.weight if reshape else current.weight)
        entries.append(entry)
    return tuple(sorted(entries, key=lambda entry: entry.id))
