"""Fill leases: one computes and the others get its fill, and what an invalidation overtook is refused."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from stratacache.node.clock import ManualClock
from stratacache.node.engine import MultiLevelCache
from stratacache.node.leases import LeaseReply, LeaseState

from .disk_world import payload


def test_lease_is_single_flight(engine: MultiLevelCache) -> None:
    """One caller computes; the others get its fill."""
    first = engine.lease(b"a", 0, 1000)
    assert isinstance(first, LeaseReply)
    assert first.state is LeaseState.LEASE
    waiting = engine.lease(b"a", 500, 1000)
    assert isinstance(waiting, Future)
    busy = engine.lease(b"a", 0, 1000)
    assert isinstance(busy, LeaseReply)
    assert busy.state is LeaseState.BUSY
    assert engine.put(b"a", b"v", lease=first.token)
    reply = waiting.result(0)
    assert reply.state is LeaseState.HIT
    assert reply.entry is not None
    assert reply.entry.payload == b"v"


@pytest.mark.parametrize("how", ["key", "tag", "namespace", "clear", "put"])
def test_invalidation_voids_a_lease(engine: MultiLevelCache, how: str) -> None:
    """A fill that was computed before an invalidation is refused, also by a tag known only at the put."""
    reply = engine.lease(b"docs:a", 0, 1000)
    assert isinstance(reply, LeaseReply)
    if how == "key":
        engine.remove(b"docs:a")
    elif how == "tag":
        engine.invalidate_tags((b"t",))
    elif how == "namespace":
        engine.invalidate_namespace(b"docs")
    elif how == "clear":
        engine.clear()
    else:
        engine.put(b"docs:a", b"newer")
    assert engine.put(b"docs:a", b"old", tags=(b"t",), lease=reply.token) is False
    assert payload(engine, b"docs:a") == (b"newer" if how == "put" else None)


def test_unrelated_invalidations_leave_a_lease_alone(engine: MultiLevelCache) -> None:
    """Only what touches the key, its tags or its namespace voids its lease."""
    reply = engine.lease(b"docs:a", 0, 1000)
    assert isinstance(reply, LeaseReply)
    engine.remove(b"docs:b")
    engine.invalidate_tags((b"other",))
    engine.invalidate_namespace(b"other")
    assert engine.put(b"docs:a", b"v", tags=(b"t",), lease=reply.token)


def test_lease_that_runs_out_goes_to_the_next_waiter(engine: MultiLevelCache, clock: ManualClock) -> None:
    """A caller who died does not hold the others up, and its late fill is refused."""
    first = engine.lease(b"a", 0, 100)
    second = engine.lease(b"a", 1000, 100)
    third = engine.lease(b"a", 50, 100)
    assert isinstance(first, LeaseReply)
    assert isinstance(second, Future)
    assert isinstance(third, Future)
    clock.advance(101)
    engine.tick()
    assert second.result(0).state is LeaseState.LEASE
    assert third.result(0).state is LeaseState.TIMEOUT
    assert engine.put(b"a", b"late", lease=first.token) is False
    assert engine.put(b"a", b"v", lease=second.result(0).token)


def test_released_lease_goes_to_the_next_waiter(engine: MultiLevelCache) -> None:
    """Giving a lease back unused hands it on."""
    first = engine.lease(b"a", 0, 100)
    second = engine.lease(b"a", 1000, 100)
    assert isinstance(first, LeaseReply)
    assert isinstance(second, Future)
    assert engine.release_lease(b"a", first.token)
    assert not engine.release_lease(b"a", first.token)
    assert second.result(0).state is LeaseState.LEASE


def test_lease_for_a_refresh_is_given_although_the_entry_lives(engine: MultiLevelCache) -> None:
    """Refresh-ahead computes anew while readers still get the old value."""
    engine.put(b"a", b"old")
    reply = engine.lease(b"a", 0, 1000, refresh=True)
    assert isinstance(reply, LeaseReply)
    assert reply.state is LeaseState.LEASE
    assert payload(engine, b"a") == b"old"
    assert engine.put(b"a", b"new", lease=reply.token)
    assert payload(engine, b"a") == b"new"
