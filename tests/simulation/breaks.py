"""Bugs to plant, one for each mechanism: the simulation must find each, or its oracle proves nothing.

A break replaces something in the running program, or a part of the simulated shells; the shipped code knows nothing of
it. Each docstring is one line for `--list-breaks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from stratacache.client.core import dispatch, invalidate
from stratacache.client.ring import position
from stratacache.cluster import authority, changes, coordinator
from stratacache.cluster import coordinator_events as c
from stratacache.cluster import messages as m
from stratacache.cluster import serving_events as s
from stratacache.cluster.coordinator import Coordinator
from stratacache.cluster.debts import OpenLog
from stratacache.cluster.handoff import Handoffs
from stratacache.cluster.leftovers import Leftovers
from stratacache.cluster.members import Member
from stratacache.cluster.serving import Serving
from stratacache.cluster.touched import Touched
from stratacache.node.gate import InvalidationGate, Marks, Standing
from stratacache.node.leases import LeaseTable
from stratacache.node.moving import MovingKeys
from stratacache.node.resp.server import NodeServer
from tests.simulation import shards
from tests.simulation.coordinators import CoordinatorProcess
from tests.simulation.shards import ShardProcess

BREAKS: dict[str, Callable[[], Iterator[Any]]] = {}


def plant(make: Callable[[], Iterator[Any]]) -> Callable[[], Iterator[Any]]:
    """List a break under its name with dashes."""
    BREAKS[make.__name__.replace("_", "-")] = make
    return make


@contextmanager
def broken(name: str | None) -> Iterator[None]:
    """Run with a planted bug, or with none."""
    if name is None:
        yield
        return
    with contextmanager(BREAKS[name])():
        yield


# ------------------------------------------------------------------ debts and warm disks


@plant
def no_debt_for_a_down_shard() -> Iterator[None]:
    """Shards do not record what a suspended one misses: its log is empty."""
    with patch.object(OpenLog, "add", lambda self, debt: None):
        yield


@plant
def l3_served_before_draining() -> Iterator[None]:
    """A shard that returns serves from its disk before it has applied what it owes."""
    with patch.object(shards, "pay", lambda engine, debts: iter(())):
        yield


@plant
def overflowed_log_counts_as_whole() -> Iterator[None]:
    """A debt log that overflowed is handed over as if it were complete."""

    def freeze(self: OpenLog) -> m.DebtLog:
        return m.DebtLog(since=self.since, whole=True, debts=tuple(self._debts))

    with patch("stratacache.cluster.debts.DEBTS_MAX", 1), patch.object(OpenLog, "freeze", freeze):
        yield


@plant
def disk_always_trusted() -> Iterator[None]:
    """Whatever a shard finds on its disk is kept, however old it is."""
    with (
        patch.object(changes, "keep_at_return", lambda *_, **__: (True, ())),
        patch.object(changes, "keep_at_first_start", lambda *_: True),
    ):
        yield


@plant
def content_not_dropped() -> Iterator[None]:
    """A shard that was told to drop what it has on disk keeps it."""
    handle = Serving.handle

    def keep(self: Serving, event: s.ServingEvent, now_ms: int) -> list[s.ServingEffect]:
        return [effect for effect in handle(self, event, now_ms) if not isinstance(effect, s.DropContent)]

    with patch.object(Serving, "handle", keep):
        yield


# ------------------------------------------------------------------ fencing and views


@plant
def no_fencing() -> Iterator[None]:
    """A shard goes on serving when its serving lease has run out."""
    act_on = ShardProcess._act_on

    def forever(self: ShardProcess, effect: s.ServingEffect, answers: list[Any]) -> None:
        if isinstance(effect, s.ServeUntil) and effect.ms:
            effect = replace(effect, ms=1 << 60)
        act_on(self, effect, answers)

    with patch.object(ShardProcess, "_act_on", forever):
        yield


@plant
def successor_does_not_wait() -> Iterator[None]:
    """A new process of a shard is let in as soon as Ray reports the old one dead."""
    with patch.object(Member, "is_fenced", lambda self, now_ms: True):
        yield


@plant
def invalidations_not_held() -> Iterator[None]:
    """A shard that has prepared a view still takes invalidations under the old one."""
    act_on = ShardProcess._act_on

    def open_door(self: ShardProcess, effect: s.ServingEffect, answers: list[Any]) -> None:
        if not isinstance(effect, s.HoldInvalidations):
            act_on(self, effect, answers)

    with patch.object(ShardProcess, "_act_on", open_door):
        yield


@plant
def epoch_not_compared() -> Iterator[None]:
    """A client acknowledges an invalidation though a shard has told it of a newer view."""
    acknowledged = invalidate._acknowledged

    def deaf(core: Any, shard: Any, outcome: Any) -> Any:
        return acknowledged(core, shard, outcome)[0], None

    with patch.object(invalidate, "_acknowledged", deaf):
        yield


@plant
def silent_shards_skipped() -> Iterator[None]:
    """A client acknowledges an invalidation when one shard has answered."""
    everywhere = invalidate._acknowledged

    def lenient(core: Any, shard: Any, outcome: Any) -> Any:
        count, seen = everywhere(core, shard, outcome)
        return count or 0, seen

    with patch.object(invalidate, "_acknowledged", lenient):
        yield


def _not_remembered(self: CoordinatorProcess, effect: c.RememberEpoch, done: Callable[[], None]) -> None:
    self.hear(c.EpochRemembered(epoch=effect.epoch))
    done()


@plant
def zombies_obeyed() -> Iterator[None]:
    """A coordinator that was replaced goes on, and shards obey any term."""
    handle = Serving.handle

    def obey(self: Serving, event: s.ServingEvent, now_ms: int) -> list[s.ServingEffect]:
        if isinstance(event, m.Prepare | m.Activate | s.LeaseGranted | m.RefuseLease):
            event = replace(event, term=max(event.term, self.term))
        return handle(self, event, now_ms)

    with (
        patch.object(Serving, "handle", obey),
        patch.object(authority, "CONFIRM_MAX_MS", 1 << 40),
        patch.object(CoordinatorProcess, "_remember", _not_remembered),
        patch.object(CoordinatorProcess, "_confirm", lambda self: None),
    ):
        yield


@plant
def epochs_not_remembered() -> Iterator[None]:
    """The coordinator keeps its epochs to itself."""
    with patch.object(CoordinatorProcess, "_remember", _not_remembered):
        yield


# ------------------------------------------------------------------ keys that move


def _in_once(self: Touched, key: bytes) -> bool:
    """Says of a touched key that it is touched, and forgets it."""
    at = position(key) & self._mask
    held = bool(self._bits[at >> 3] >> (at & 7) & 1)
    self._bits[at >> 3] &= 255 - (1 << (at & 7))
    return held


@plant
def handoff_without_taking_the_key_away() -> Iterator[None]:
    """A former owner keeps what it gives away, and the new one forgets that it had it."""
    with (
        patch.object(MovingKeys, "drop", lambda self, keys: 0),
        patch.object(Touched, "__contains__", _in_once),
    ):
        yield


@plant
def touched_keys_forgotten() -> Iterator[None]:
    """A new owner takes keys from the former one that have been put or asked for since."""
    with patch.object(Touched, "__contains__", _in_once):
        yield


@plant
def leftovers_not_dropped() -> Iterator[None]:
    """What has left a former owner, fetched or not, is still there when its key comes back."""

    def finish(self: Leftovers) -> None:
        self.left = 0

    with (
        patch.object(MovingKeys, "drop", lambda self, keys: 0),
        patch.object(Leftovers, "_finish", finish),
        patch.object(Handoffs, "drop_leftovers", lambda self, done: done()),
    ):
        yield


@plant
def arrivals_not_judged() -> Iterator[None]:
    """A new owner stores what it takes, whatever was invalidated since the ring changed."""
    with patch.object(Standing, "admits", lambda self, namespace, tags: True):
        yield


@plant
def two_step_view_change_made_one_step() -> Iterator[None]:
    """A view comes into force without waiting for those who serve under the one before it."""
    on_remembered, on_lease = Coordinator._on_remembered, Coordinator._on_lease_request
    changes_begun: dict[Coordinator, changes.Change] = {}

    def at_once(self: Coordinator, epoch: int, now_ms: int, effects: list[c.CoordinatorEffect]) -> None:
        on_remembered(self, epoch, now_ms, effects)
        change = self.change
        if change is not None and change.remembered and not change.joining:
            changes_begun[self] = change
            change.waiting.clear()

    def tell(self: Coordinator, event: m.LeaseRequested, now_ms: int, effects: list[c.CoordinatorEffect]) -> None:
        """Who has missed it all hears of the view when he asks for a lease, and only then stops."""
        change = changes_begun.get(self)
        if change is not None and self.change is None and event.epoch < change.view.epoch:
            prepare = change.prepares.get(event.shard)
            if prepare is not None and prepare.incarnation == event.incarnation:
                effects.append(prepare)
        on_lease(self, event, now_ms, effects)

    with (
        patch.object(Coordinator, "_on_remembered", at_once),
        patch.object(Coordinator, "_on_lease_request", tell),
    ):
        yield


@plant
def leavers_not_waited_for() -> Iterator[None]:
    """The ring changes while a shard that leaves may still serve."""
    begin = changes.begin_change

    def hasty(*arguments: Any, **options: Any) -> changes.Change:
        change = begin(*arguments, **options)
        change.waiting -= change.leavers
        change.leavers = frozenset()
        return change

    with patch.object(coordinator, "begin_change", hasty):
        yield


# ------------------------------------------------------------------ the node


@plant
def lease_not_voided_by_tag() -> Iterator[None]:
    """A tag invalidation leaves fill leases alone, though the fill may carry the tag."""

    def covers(self: Marks, asked_at: int, namespace: bytes, tags: Any) -> bool:
        return asked_at <= self.clear_seq or asked_at <= self.namespaces.get(namespace, -1)

    with patch.object(Marks, "covers", covers):
        yield


@plant
def lease_not_voided_by_namespace() -> Iterator[None]:
    """The invalidation of a namespace leaves fill leases alone."""
    with patch.object(InvalidationGate, "mark_namespace", lambda self, namespace: self.next_seq()):
        yield


@plant
def lease_not_voided_by_key() -> Iterator[None]:
    """The invalidation of a key leaves its fill lease alone."""
    with (
        patch.object(InvalidationGate, "void_key", lambda self, key: None),
        patch.object(LeaseTable, "voided", lambda self, key, now_ms: None),
    ):
        yield


@plant
def serving_right_not_checked() -> Iterator[None]:
    """The server answers data commands whether or not its shard may serve."""
    with patch.object(NodeServer, "may_serve", lambda self: True):
        yield


# ------------------------------------------------------------------ the client


@plant
def refusals_taken_for_misses() -> Iterator[None]:
    """A client takes a shard's refusal to serve for a miss."""
    take = dispatch._take

    def miss(core: Any, plan: Any, shard: Any, part: Any, outcome: Any, avoid: Any, seen: Any) -> None:
        if plan.read and isinstance(outcome, list):
            outcome = [None if isinstance(reply, Exception) else reply for reply in outcome]
        take(core, plan, shard, part, outcome, avoid, seen)

    with patch.object(dispatch, "_take", miss):
        yield
