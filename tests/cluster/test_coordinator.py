"""The coordinator's and the shards' decisions together, without Ray: forming, replacing, fencing, recovery."""

from __future__ import annotations

from stratacache.client.view import ACTIVE, SUSPENDED
from stratacache.cluster import coordinator_events as c
from stratacache.cluster import messages as m
from stratacache.cluster import serving_events as s
from stratacache.cluster.changes import JOIN_TIMEOUT_MS
from stratacache.cluster.coordinator import Phase
from tests.cluster.harness import LEASE_MS, FakeCluster


def test_a_new_cluster_serves_under_its_first_view(cluster: FakeCluster) -> None:
    """All shards start, enter one view, and get a lease; nobody serves before."""
    assert cluster.coordinator.is_ready()
    assert cluster.view().epoch == 1
    assert all(cluster.serves(shard) for shard in cluster.ids)


def test_one_shard_that_cannot_start_undoes_the_rest() -> None:
    """Nothing half-created: the shards that did start are removed, and the reason is reported once."""
    fake = FakeCluster()
    fake.failing["shard-2"] = "port 7 is in use"
    fake.start()
    assert fake.coordinator.phase is Phase.FAILED
    assert fake.reported == ["port 7 is in use"]
    assert fake.processes == {}


def test_a_shard_lost_while_the_cluster_forms_is_waited_for_however_slowly_it_starts() -> None:
    """The view that waits for the lost process is given up when its successor is up, and nobody kills that one."""
    fake = FakeCluster()
    fake.unheard.add("shard-1")
    fake.start()
    assert fake.coordinator.phase is Phase.FORMING
    fake.slow.add("shard-1")
    fake.lose("shard-1")
    fake.run(JOIN_TIMEOUT_MS + 2_000)
    assert ("shard-1", 2) not in fake.killed
    fake.unheard.clear()
    fake.slow.clear()
    for effect in fake.held:
        fake.start_process(effect)
    fake.run(2_000)
    assert fake.coordinator.is_ready()
    assert fake.view().by_id["shard-1"].incarnation == "2"


def test_a_lost_shard_is_replaced_under_a_higher_epoch(cluster: FakeCluster) -> None:
    """The same id comes back with a new incarnation and endpoint; the ring stays as it was."""
    before = cluster.view()
    cluster.lose("shard-1")
    cluster.run(1_000)
    after = cluster.view()
    assert cluster.coordinator.is_ready()
    assert after.epoch > before.epoch
    assert after.by_id["shard-1"].incarnation == "2"
    assert [shard.id for shard in after.shards] == [shard.id for shard in before.shards]


def test_a_successor_on_another_machine_waits_for_the_lease_of_a_shard_that_may_live(cluster: FakeCluster) -> None:
    """Ray's word that an actor is dead is no proof: without the lock, only time is."""
    cluster.same_machine = False
    cluster.lose("shard-1")
    cluster.run(LEASE_MS - 1_000)
    assert not cluster.serves("shard-1")
    assert cluster.view().by_id["shard-1"].incarnation == "1"
    cluster.run(5_000)
    assert cluster.serves("shard-1")
    assert cluster.view().by_id["shard-1"].incarnation == "2"


def test_a_partitioned_shard_stops_serving_before_its_successor_begins(cluster: FakeCluster) -> None:
    """Never two processes that serve one range, at any moment."""
    cluster.same_machine = False
    old = cluster.processes["shard-1"]
    old.cut_off = True
    for _ in range(200):
        cluster.run(250)
        new = cluster.processes["shard-1"]
        if new is not old and cluster.serves("shard-1"):
            break
        assert not (new is not old and cluster.serves("shard-1") and cluster.now_ms < old.serve_until_ms)
    assert cluster.serves("shard-1")
    assert cluster.now_ms >= old.serve_until_ms


def test_a_replaced_process_that_wakes_up_is_told_to_end(cluster: FakeCluster) -> None:
    """A stopped process that comes back asks for a lease, is refused for good, and serves nothing."""
    old = cluster.processes["shard-1"]
    old.cut_off = True
    cluster.run(3 * LEASE_MS)
    assert cluster.processes["shard-1"] is not old
    event = m.LeaseRequested(shard="shard-1", incarnation=1, epoch=old.serving.epoch)
    effects = cluster.coordinator.handle(event, cluster.now_ms)
    assert m.RefuseLease(shard="shard-1", incarnation=1, term=1, gone=True) in effects
    assert s.End() in old.serving.handle(
        m.RefuseLease(shard="shard-0", incarnation=1, term=1, gone=True), cluster.now_ms
    )
    assert not old.serving.may_serve(cluster.now_ms)


def test_an_invalidation_planned_under_an_older_view_is_not_acknowledged(cluster: FakeCluster) -> None:
    """A client that slept through a view change repeats it under the new view."""
    old_view = cluster.view()
    cluster.lose("shard-1")
    cluster.run(1_000)
    assert not cluster.invalidate_tag(b"any", view=old_view)
    assert cluster.invalidate_tag(b"any")


def test_a_new_coordinator_continues_above_the_highest_epoch(cluster: FakeCluster) -> None:
    """Gets and puts go on meanwhile; the new one takes over with a higher term and epoch and replaces nothing."""
    epoch = cluster.view().epoch
    cluster.coordinator_is_down = True
    cluster.run(2_000)
    assert all(cluster.serves(shard) for shard in cluster.ids)
    cluster.restart_coordinator()
    cluster.run(1_000)
    assert cluster.coordinator.is_ready()
    assert cluster.view().epoch > epoch
    assert {one.started.incarnation for one in cluster.processes.values()} == {1}
    assert all(one.serving.term == 2 for one in cluster.processes.values())


def test_a_coordinator_that_finds_a_prepared_view_supersedes_it(cluster: FakeCluster) -> None:
    """SIGKILL between prepare and activate: invalidations are held until the next coordinator finishes."""
    cluster.failing["shard-1"] = "no memory"
    cluster.lose("shard-1")
    process = cluster.processes["shard-2"]
    process.cut_off = True  # its answer to the prepare that suspends shard-1 never comes
    cluster.run(LEASE_MS)
    assert cluster.processes["shard-0"].serving.epoch <= cluster.coordinator.epoch
    process.cut_off = False
    cluster.restart_coordinator()
    del cluster.failing["shard-1"]
    cluster.run(60_000)
    assert cluster.coordinator.is_ready()
    assert not any(one.holding for one in cluster.processes.values())
    assert cluster.invalidate_tag(b"any")


def test_shards_stop_when_the_coordinator_stays_away(cluster: FakeCluster) -> None:
    """A shard that can't renew its lease stops by its own clock."""
    cluster.coordinator_is_down = True
    cluster.run(LEASE_MS + 1_000)
    assert not any(cluster.serves(shard) for shard in cluster.ids)


def test_a_coordinator_that_cannot_confirm_its_name_grants_no_leases(cluster: FakeCluster) -> None:
    """A zombie on a cut-off Ray node must not keep shards serving."""
    cluster.now_ms += 5_000
    shard = cluster.processes["shard-0"]
    event = m.LeaseRequested(shard="shard-0", incarnation=1, epoch=shard.serving.epoch)
    effects = cluster.coordinator.handle(event, cluster.now_ms)
    assert effects == [m.RefuseLease(shard="shard-0", incarnation=1, term=1, gone=False)]


def test_a_coordinator_that_stood_still_kills_nobody(cluster: FakeCluster) -> None:
    """After its own pause it can't tell who was silent."""
    cluster.now_ms += 100_000
    cluster.tell(c.NameConfirmed(sent_ms=cluster.now_ms))
    cluster.tell(c.Ticked())
    assert cluster.killed == []
    cluster.run(5_000)
    assert cluster.coordinator.is_ready()


def test_view_entries_name_the_process_that_serves(cluster: FakeCluster) -> None:
    """Endpoint, node and incarnation are those of the running process."""
    entry = cluster.view().by_id["shard-2"]
    assert (entry.host, entry.port, entry.incarnation, entry.state) == ("127.0.0.1", 7001, "1", ACTIVE)
    assert entry.node == "node-a"


def test_a_shard_that_asks_before_the_first_view_is_not_sent_away() -> None:
    """While the cluster forms there is nothing to serve yet, and nobody has been replaced."""
    fake = FakeCluster()
    fake.coordinator.handle(c.Recovered(term=1, epoch_floor=0), fake.now_ms)
    effects = fake.coordinator.handle(m.LeaseRequested(shard="shard-0", incarnation=1, epoch=0), fake.now_ms)
    assert effects == [m.RefuseLease(shard="shard-0", incarnation=1, term=1, gone=False)]


def test_a_new_process_waits_for_the_old_one_while_another_shard_joins() -> None:
    """A view change for one shard must not let in a second process of another whose first may still serve."""
    cluster = FakeCluster()
    cluster.start()
    old = cluster.processes.pop("shard-2")
    old.cut_off = True
    cluster.same_machine = False  # the successor starts elsewhere: no lock proves that the old process is gone
    cluster.tell(c.ShardLost(shard="shard-2", incarnation=1))  # Ray gives up a process that still serves
    cluster.run(500)
    assert cluster.processes["shard-2"].started.incarnation == 2
    cluster.same_machine = True  # that of shard-0 has its lock and may join at once
    cluster.lose("shard-0")
    while cluster.now_ms < old.serve_until_ms:
        cluster.run(250)
        assert not cluster.serves("shard-2") or cluster.now_ms >= old.serve_until_ms
    cluster.run(15_000)
    assert all(cluster.serves(shard) for shard in cluster.ids)


def test_a_cluster_that_ran_before_is_formed_again_however_long_it_takes() -> None:
    """After the loss of everything a start that fails is tried again: only a first start may fail for good."""
    cluster = FakeCluster()
    cluster.remembered = (1, 7)
    cluster.failing["shard-1"] = "no room"
    cluster.tell(c.NodesSeen(nodes=(c.NodeSeen(id="node-a", address="10.0.0.1"),)))
    cluster.tell(c.Recovered(term=2, epoch_floor=7))
    cluster.run(5_000)
    assert not cluster.reported
    del cluster.failing["shard-1"]
    cluster.run(60_000)
    assert cluster.is_running()
    assert cluster.view().epoch > 7


def test_nobody_hears_of_an_epoch_that_is_not_remembered() -> None:
    """Also a view that needs no shard's consent waits, or its epoch would fall after a crash; it is asked for again."""
    cluster = FakeCluster()
    cluster.start()
    epoch = cluster.view().epoch
    cluster.forgetful = True  # the control service is away
    for shard in cluster.ids:
        cluster.failing[shard] = "no room"
        cluster.lose(shard)
    cluster.run(30_000)
    assert cluster.view().epoch == epoch
    assert cluster.remembered[1] == epoch
    cluster.forgetful = False
    cluster.run(5_000)
    assert all(shard.state == SUSPENDED for shard in cluster.view().shards)
    assert cluster.remembered[1] == cluster.view().epoch > epoch


def test_a_view_that_may_have_been_overtaken_is_not_believed() -> None:
    """A cut-off shard, the only one to answer a new coordinator, may have been suspended in a view it never saw."""
    cluster = FakeCluster()
    cluster.same_machine = False
    cluster.start()
    cluster.put("shard-0", b"t", 1)
    cluster.processes["shard-0"].cut_off = True
    cluster.failing["shard-0"] = "no room"
    cluster.run(15_000)  # its lease has run out; the others have a later view
    assert cluster.invalidate_tag(b"t")
    cluster.failing.clear()
    cluster.processes["shard-0"].cut_off = False
    cluster.restart_coordinator(silent=("shard-1", "shard-2"))
    assert ("shard-0", 1) in cluster.killed
    assert not any(cluster.coordinator.members[shard].may_join(cluster.now_ms) for shard in cluster.ids)
    cluster.run(60_000)
    assert cluster.is_running()
    assert (b"t", 1) not in cluster.processes["shard-0"].content


def test_no_incarnation_is_given_twice() -> None:
    """Not even by a coordinator that knows nothing of those before: a disk elsewhere would be taken for newer."""
    cluster = FakeCluster()
    cluster.start()
    cluster.failing["shard-0"] = "no memory"
    cluster.lose("shard-0")
    cluster.run(30_000)
    cluster.coordinator.members["shard-0"].incarnation = 5_000  # after two days of it
    cluster.failing.clear()
    cluster.run(60_000)
    last = {shard: process.started.incarnation for shard, process in cluster.processes.items()}
    assert last["shard-0"] > 5_000
    cluster.processes.clear()
    cluster.restart_coordinator()
    cluster.run(30_000)
    assert all(cluster.processes[shard].started.incarnation > last[shard] for shard in cluster.ids)
    assert cluster.is_running()
