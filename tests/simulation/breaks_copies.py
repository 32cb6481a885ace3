"""Bugs to plant in replication; see breaks.py. Importing this module lists them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any
from unittest.mock import patch

from stratacache.cluster import changes
from stratacache.cluster import messages as m
from stratacache.cluster.debts import OpenLog
from stratacache.cluster.owing import Owing
from stratacache.cluster.replicated import ReplicatedCache
from stratacache.cluster.replication import Replication
from stratacache.cluster.streams import Inflow, Outbox
from stratacache.node.engine import MultiLevelCache
from stratacache.node.gate import InvalidationGate
from tests.simulation.breaks import plant


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
def pulls_pass_the_gate() -> Iterator[None]:
    """What another owner gave is stored whatever has happened since it was asked."""
    with patch.object(InvalidationGate, "admits", lambda self, ticket, namespace, tags: True):
        yield


@plant
def stale_disk_beside_other_owners() -> Iterator[None]:
    """A shard that returns keeps its disk as it is, though the other owners of its keys went on."""

    def keep(*_: Any, **__: Any) -> tuple[bool, Sequence[Any]]:
        return True, ()

    with patch.object(changes, "keep_at_return", keep):
        yield


HINTS_MAX = 1


@plant
def hints_dropped_silently() -> Iterator[None]:
    """What an owner that is away misses is recorded up to a bound, and past it the log still passes for whole."""
    add = OpenLog.add

    def lossy(self: OpenLog, debt: m.Debt) -> None:
        if debt.kind != "keys" or len(self._debts) < HINTS_MAX:
            add(self, debt)

    with patch.object(OpenLog, "add", lossy):
        yield


@plant
def hints_not_recorded() -> Iterator[None]:
    """Who changes a key without one of its owners does not record it for that one."""
    with patch.object(Owing, "missed", lambda self, shard, keys: None):
        yield
