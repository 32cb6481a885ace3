"""Which disk is believed: debts that were kept, lost or overflowed, old disks, and clusters that start again.

`cluster/warmth.py` and `cluster/debts.py`, as coordinator and shards use them together, without Ray.
"""

from __future__ import annotations

import pytest

from stratacache.client.view import SUSPENDED
from stratacache.cluster import coordinator_events as c
from tests.cluster.harness import LEASE_MS, Disk, FakeCluster


def test_a_tag_invalidated_while_a_shard_is_down_is_not_served_when_it_returns_warm(cluster: FakeCluster) -> None:
    """The debt is kept by the live shards and paid before the shard serves; what was not touched stays warm."""
    assert cluster.put("shard-1", b"stale", 1)
    assert cluster.put("shard-1", b"good", 1)
    cluster.failing["shard-1"] = "no memory"
    cluster.lose("shard-1")
    assert not cluster.invalidate_tag(b"stale"), "not yet suspended: nothing may be acknowledged without it"
    cluster.run(2 * LEASE_MS)
    assert cluster.view().by_id["shard-1"].state == SUSPENDED
    assert cluster.invalidate_tag(b"stale")
    del cluster.failing["shard-1"]
    cluster.run(60_000)
    assert cluster.serves("shard-1")
    assert cluster.processes["shard-1"].content == {(b"good", 1)}


def test_the_debt_survives_a_coordinator_that_dies_in_between(cluster: FakeCluster) -> None:
    """The live shards keep the debts, not the coordinator."""
    cluster.put("shard-1", b"stale", 1)
    cluster.put("shard-1", b"good", 1)
    cluster.failing["shard-1"] = "no memory"
    cluster.lose("shard-1")
    cluster.run(2 * LEASE_MS)
    assert cluster.invalidate_tag(b"stale")
    cluster.restart_coordinator()
    cluster.run(1_000)
    del cluster.failing["shard-1"]
    cluster.run(60_000)
    assert cluster.serves("shard-1")
    assert cluster.processes["shard-1"].content == {(b"good", 1)}


def test_a_shard_drops_its_disk_when_the_debts_are_lost(cluster: FakeCluster) -> None:
    """Both peers die while it is away, so nobody can say what it missed."""
    cluster.put("shard-1", b"stale", 1)
    cluster.failing["shard-1"] = "no memory"
    cluster.lose("shard-1")
    cluster.run(2 * LEASE_MS)
    assert cluster.invalidate_tag(b"stale")
    for peer in ("shard-0", "shard-2"):
        cluster.lose(peer)
        cluster.run(2 * LEASE_MS)
    del cluster.failing["shard-1"]
    cluster.run(60_000)
    assert cluster.serves("shard-1")
    assert cluster.processes["shard-1"].content == set()


def test_a_shard_drops_its_disk_when_the_debts_overflowed(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A truncated record proves nothing."""
    monkeypatch.setattr("stratacache.cluster.debts.DEBTS_MAX", 10)
    cluster.put("shard-1", b"stale", 1)
    cluster.failing["shard-1"] = "no memory"
    cluster.lose("shard-1")
    cluster.run(2 * LEASE_MS)
    assert cluster.invalidate_tag(b"stale")
    for number in range(11):
        assert cluster.invalidate_tag(b"tag-%d" % number)
    del cluster.failing["shard-1"]
    cluster.run(60_000)
    assert cluster.processes["shard-1"].content == set()


def test_a_shard_that_is_replaced_before_anything_was_acknowledged_keeps_its_disk(cluster: FakeCluster) -> None:
    """While it was down and not suspended, no invalidation could be acknowledged without it."""
    cluster.put("shard-1", b"good", 1)
    cluster.lose("shard-1")
    cluster.run(1_000)
    assert cluster.processes["shard-1"].content == {(b"good", 1)}


def test_the_only_shard_of_a_cluster_keeps_its_disk() -> None:
    """Nobody was left who could have acknowledged anything."""
    fake = FakeCluster(shards=1)
    fake.start()
    fake.put("shard-0", b"good", 1)
    fake.failing["shard-0"] = "no memory"
    fake.lose("shard-0")
    fake.run(2 * LEASE_MS)
    del fake.failing["shard-0"]
    fake.run(60_000)
    assert fake.processes["shard-0"].content == {(b"good", 1)}


def test_an_old_disk_from_an_earlier_stay_is_dropped(cluster: FakeCluster) -> None:
    """A disk that an older incarnation wrote is not the newest truth, however complete it looks."""
    cluster.put("shard-1", b"stale", 1)
    old = Disk(stored=cluster.disks["shard-1"].stored, content=set(cluster.disks["shard-1"].content))
    cluster.lose("shard-1")
    cluster.run(1_000)
    assert cluster.invalidate_tag(b"stale")
    cluster.disks["shard-1"] = old
    cluster.lose("shard-1")
    cluster.run(1_000)
    assert cluster.serves("shard-1")
    assert cluster.processes["shard-1"].content == set()


def test_a_whole_cluster_that_was_closed_keeps_its_disks(cluster: FakeCluster) -> None:
    """After `down` and `up` on the same directories the shards are warm, under a new life of the cluster."""
    cluster.put("shard-0", b"good", 1)
    cluster.tell(c.StopRequested())
    assert cluster.processes == {}
    again = FakeCluster(uid="life-2", disks=cluster.disks)
    again.start()
    assert again.coordinator.is_ready()
    assert again.processes["shard-0"].content == {(b"good", 1)}
    assert again.view().epoch > cluster.view().epoch


def test_a_shard_that_missed_the_last_view_makes_all_drop_at_the_next_start(cluster: FakeCluster) -> None:
    """All or none: disks of different epochs can't vouch for each other."""
    cluster.put("shard-0", b"good", 1)
    cluster.failing["shard-1"] = "no memory"
    cluster.lose("shard-1")
    cluster.run(2 * LEASE_MS)
    cluster.tell(c.StopRequested())
    again = FakeCluster(uid="life-2", disks=cluster.disks)
    again.start()
    assert again.coordinator.is_ready()
    assert all(one.content == set() for one in again.processes.values())


def test_a_different_number_of_shards_drops_what_lies_on_disk(cluster: FakeCluster) -> None:
    """Another ring owns other keys."""
    cluster.put("shard-0", b"good", 1)
    cluster.tell(c.StopRequested())
    again = FakeCluster(shards=2, uid="life-2", disks=cluster.disks)
    again.start()
    assert again.processes["shard-0"].content == set()
