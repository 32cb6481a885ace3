"""Bugs to plant in replication; see breaks.py. Importing this module lists them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any
from unittest.mock import patch

from stratacache.cluster import warmth
from stratacache.cluster.chains import Chains
from stratacache.cluster.coordinator import Coordinator
from stratacache.cluster.replicated import ReplicatedCache
from stratacache.cluster.replication import Replication
from stratacache.cluster.streams import Inflow, Outbox
from stratacache.node.engine import MultiLevelCache
from stratacache.node.gate import InvalidationGate
from tests.simulation.breaks import plant
from tests.simulation.shards import ShardProcess


@plant
def replica_applies_out_of_order() -> Iterator[None]:
    """An owner applies the changes of its stream in pairs, the later one first."""
    take = Inflow.take

    def swap(self: Inflow, sender: Any, seq: int, apply: Callable[[], Future[None] | None]) -> Future[None] | None:
        held: dict[Any, Any] = self.__dict__.setdefault("held", {})

        def later() -> Future[None] | None:
            first = held.pop(sender, None)
            if first is None and seq % 2:
                held[sender] = apply
                return None
            done = apply()
            if first is not None:
                first()
            return done

        return take(self, sender, seq, later)

    with patch.object(Inflow, "take", swap):
        yield


@plant
def puts_not_waited_for() -> Iterator[None]:
    """A change is acknowledged, and shown, before the other owners have it."""
    send = Outbox.send

    def at_once(self: Outbox, *args: Any, **options: Any) -> Any:
        change = send(self, *args, **options)
        for key in change.keys:
            self.unsettled.pop(key, None)
        change.future.set_result(None)
        change.future = Future()
        change.future.set_result(None)
        return change

    def settle(self: Outbox, change: Any) -> None:
        self._open.pop(change.number, None)
        self._check_drains()

    with patch.object(Outbox, "send", at_once), patch.object(Outbox, "settle", settle):
        yield


@plant
def unsettled_shown() -> Iterator[None]:
    """A value is shown to readers while it is still on its way to the other owners."""
    with (
        patch.object(ReplicatedCache, "get", MultiLevelCache.get),
        patch.object(ReplicatedCache, "peek", MultiLevelCache.peek),
        patch.object(ReplicatedCache, "attach", _attach_only),
    ):
        yield


def _attach_only(self: ReplicatedCache, replication: Replication) -> None:
    self.replication = replication


@plant
def changes_not_handed_on() -> Iterator[None]:
    """The first owner keeps its changes to itself."""
    with patch.object(Replication, "begin", lambda self, key: self.chains.check_change(key)):
        yield


@plant
def tags_not_handed_on() -> Iterator[None]:
    """An invalidation by tag, namespace or of everything does not follow the puts that are on their way."""
    with patch.object(Replication, "spread", lambda self, words: None):
        yield


@plant
def chains_not_held() -> Iterator[None]:
    """An owner goes on changing keys between prepare and activate, though their owners change."""

    def check(self: Chains, key: bytes) -> None:
        self._changing = frozenset()

    with patch.object(Chains, "check_change", check):
        yield


@plant
def two_steps_made_one() -> Iterator[None]:
    """A view is activated as soon as it is proposed, whoever has prepared it."""
    advance = Coordinator._advance

    def hasty(self: Coordinator, now_ms: int, effects: list[Any]) -> None:
        advance(self, now_ms, effects)
        change = self.change
        if change is not None and change.remembered and self.view is not None:
            change.waiting.clear()
            advance(self, now_ms, effects)

    with patch.object(Coordinator, "_advance", hasty):
        yield


@plant
def late_streams_taken() -> Iterator[None]:
    """Changes of a shard that is out of the view are still applied."""
    with (
        patch.object(Inflow, "_check", lambda self, peer, incarnation: None),
        patch.object(Inflow, "follow", lambda self, peers: None),
    ):
        yield


@plant
def pulls_pass_the_gate() -> Iterator[None]:
    """What another owner gave is stored whatever has happened since it was asked."""
    with patch.object(InvalidationGate, "admits", lambda self, ticket, namespace, tags: True):
        yield


@plant
def joins_without_a_pause() -> Iterator[None]:
    """A new process of a shard takes the place of the one before without a view in which the shard is suspended."""
    from stratacache.cluster import coordinator

    wanted = coordinator.wanted_shards

    def at_once(members: Any, view: Any, now_ms: int, replicas: int = 1, **options: Any) -> Any:
        return wanted(members, view, now_ms, **options)

    with patch.object(coordinator, "wanted_shards", at_once):
        yield


@plant
def stale_disk_beside_other_owners() -> Iterator[None]:
    """A shard that returns keeps its disk as it is, though the other owners of its keys went on."""
    from stratacache.cluster import coordinator as changes

    def keep(*_: Any, **__: Any) -> tuple[bool, Sequence[Any]]:
        return True, ()

    with patch.object(changes, "keep_at_return", keep):
        yield


@plant
def hints_dropped_silently() -> Iterator[None]:
    """Owners do not record the keys that a suspended owner misses."""
    with patch.object(ShardProcess, "_missed", lambda self, shard, keys: None):
        yield


@plant
def hints_of_one_are_enough() -> Iterator[None]:
    """A shard that returns keeps its disk though an owner that changed its keys is gone, and its hints with it."""

    def keep(shard: str, view: Any, away: Any, logs: Sequence[Any]) -> tuple[bool, Any]:
        return True, tuple(dict.fromkeys(debt for log in logs for debt in log.debts))

    with patch.object(warmth, "_keep_copies", keep):
        yield


@plant
def unsettled_on_disk() -> Iterator[None]:
    """What had not reached the other owners is found on the disk by the next process of its shard."""
    leave = ShardProcess._leave_disk

    def forget(self: ShardProcess) -> None:
        if self.replication is not None:
            self.replication.outbox.unsettled.clear()
        leave(self)

    with patch.object(ShardProcess, "_leave_disk", forget):
        yield
