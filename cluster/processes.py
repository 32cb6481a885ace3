"""The shards' processes as the coordinator sees them: which to start and where, and when one is given up.

Invariants: a shard has at most one process that starts or runs; incarnations only grow, and no coordinator gives one
that another has given; one that is given up is told to end, and its shard is tried again after a pause that grows with
each failure. Whether the process before may still serve is not decided here (`Member.may_join`).
"""

from __future__ import annotations

from typing import Final

from stratacache.cluster import coordinator_events as c
from stratacache.cluster import messages as m
from stratacache.cluster.members import Member, Process
from stratacache.cluster.membership import shard_number
from stratacache.cluster.placement import place

RETRY_MIN_MS: Final = 500
RETRY_MAX_MS: Final = 30_000
INCARNATIONS_PER_TERM: Final = 1_000_000
"""More than a shard that fails at once every RETRY_MAX_MS uses up in a coordinator's life of eleven months."""

Effects = list[c.CoordinatorEffect]


class Processes:
    """The members of one cluster and what runs for them. With `port` P, shard-i is told to listen on P+i."""

    def __init__(self, members: dict[str, Member], *, start_timeout_ms: int, port: int) -> None:
        self.members = members
        self.nodes: tuple[c.NodeSeen, ...] = ()
        self.draining: set[str] = set()
        self._start_timeout_ms = start_timeout_ms
        self._port = port

    def up(self) -> list[Member]:
        """The members whose newest process runs."""
        return [member for member in self.members.values() if member.process is Process.UP]

    def see(self, nodes: tuple[c.NodeSeen, ...]) -> None:
        """Take note of the Ray nodes that are alive."""
        self.nodes = nodes
        self.draining &= {node.id for node in nodes}

    # -------------------------------------------------------------- coming

    def start_missing(self, term: int, now_ms: int, effects: Effects) -> None:
        """Start a process for each shard that is wanted and has none, on the node that suits it."""
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
            member.incarnation = max(member.incarnation, (term - 1) * INCARNATIONS_PER_TERM) + 1
            member.process, member.started_ms, member.home = Process.STARTING, now_ms, node
            port = self._port + index if self._port else member.port
            effects.append(c.StartShard(shard=member.id, incarnation=member.incarnation, node=member.home, port=port))

    def is_expected(self, event: m.OfProcess) -> bool:
        """Whether this is the process that is being started for the shard."""
        member = self.members.get(event.shard)
        return member is not None and member.incarnation == event.incarnation and member.process is Process.STARTING

    def started(self, event: m.ShardStarted) -> None:
        """An expected process runs."""
        member = self.members[event.shard]
        member.started, member.process = event, Process.UP
        member.home, member.port, member.reason, member.failures = event.node, event.port, "", 0

    def too_slow(self, now_ms: int) -> list[c.ShardStartFailed]:
        """The starts that have taken too long."""
        late = [
            member
            for member in self.members.values()
            if member.process is Process.STARTING and now_ms - member.started_ms > self._start_timeout_ms
        ]
        what = f"did not start within {self._start_timeout_ms // 1000} s"
        hint = "is there a Ray node with its memory and CPUs free?"
        return [
            c.ShardStartFailed(shard=one.id, incarnation=one.incarnation, reason=f"{one.id} {what}: {hint}")
            for one in late
        ]

    # -------------------------------------------------------------- going

    def lost(self, event: c.ShardLost, now_ms: int) -> None:
        """Ray says that a process has ended."""
        member = self.members.get(event.shard)
        if member is not None and member.incarnation == event.incarnation and member.process is not Process.NONE:
            _forget(member, "its process ended", now_ms)

    def give_up(self, member: Member, reason: str, now_ms: int, effects: Effects) -> None:
        """End a member's process; another is started when its pause is over."""
        effects.append(c.KillShard(shard=member.id, incarnation=member.incarnation))
        _forget(member, reason, now_ms)

    def drain(self, node: str, effects: Effects) -> None:
        """Close what runs on a node that is about to go, and start nothing there."""
        self.draining.add(node)
        there = (member for member in self.up() if member.home == node)
        effects.extend(c.CloseShard(shard=member.id, incarnation=member.incarnation) for member in there)

    def close_all(self, effects: Effects) -> None:
        """Have all processes write out what they hold and end."""
        for member in self.members.values():
            if member.process is Process.UP:
                effects.append(c.CloseShard(shard=member.id, incarnation=member.incarnation))
            elif member.process is Process.STARTING:
                effects.append(c.KillShard(shard=member.id, incarnation=member.incarnation))

    def kill_all(self, effects: Effects) -> None:
        """End all processes, and start no others."""
        for member in self.members.values():
            if member.process is not Process.NONE:
                effects.append(c.KillShard(shard=member.id, incarnation=member.incarnation))
                member.process = Process.NONE


def _forget(member: Member, reason: str, now_ms: int) -> None:
    member.process, member.started, member.reason = Process.NONE, None, reason
    member.epoch = member.granted = 0
    delay = min(RETRY_MAX_MS, RETRY_MIN_MS << min(member.failures, 10)) if member.failures else 0
    member.failures += 1
    member.retry_ms = now_ms + delay
