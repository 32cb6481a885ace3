"""Decisions about shards that come and go: when the ring follows, who prepares it, and when a shard may end."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from stratacache.client.ring import Ring
from stratacache.client.view import ACTIVE, ShardInfo, View
from stratacache.cluster import coordinator_events as c
from stratacache.cluster.changes import JOIN_TIMEOUT_MS
from stratacache.cluster.coordinator import Coordinator
from stratacache.cluster.membership import WINDOW_MS, resized, without
from stratacache.cluster.ownership import Ownership
from stratacache.cluster.touched import Touched
from stratacache.node.errors import UsageError
from stratacache.node.resp.replies import CommandError
from tests.cluster.harness import LEASE_MS, FakeCluster

THREE = dict.fromkeys(("shard-0", "shard-1", "shard-2"), 1.0)
FOUR = {**THREE, "shard-3": 1.0}


def running(shards: int = 3) -> FakeCluster:
    """A cluster that serves."""
    cluster = FakeCluster(shards)
    cluster.start()
    assert cluster.coordinator.is_settled()
    return cluster


def ids(cluster: FakeCluster) -> list[str]:
    """The shards of the view in force."""
    return [shard.id for shard in cluster.view().shards]


# ------------------------------------------------------------------ growing


def test_the_ring_waits_until_the_new_shard_is_up() -> None:
    """While it can't start, nothing changes, and the progress says what is waited for."""
    cluster = running()
    epoch = cluster.view().epoch
    cluster.failing["shard-3"] = "no room"
    cluster.aim(FOUR)
    cluster.run(5_000)
    assert (ids(cluster), cluster.view().epoch) == (sorted(THREE), epoch)
    assert cluster.coordinator.progress(cluster.now_ms)["waits_for"] == "waits for shard-3 to start: no room"
    assert cluster.coordinator.is_ready(), "the others serve on"
    cluster.failing.clear()
    cluster.run(40_000)
    assert ids(cluster) == sorted(FOUR)


def test_former_owners_are_named_and_waited_for() -> None:
    """All get the view that was in force; the change is over when every one of them has nothing left."""
    cluster = running()
    before = cluster.view()
    cluster.leftovers = dict.fromkeys(THREE, 7)
    cluster.prepares.clear()
    cluster.aim(FOUR)
    cluster.run(2_000)
    assert ids(cluster) == sorted(FOUR)
    assert {one.shard for one in cluster.prepares} == set(FOUR)
    assert all(one.former == before and one.window_ms == WINDOW_MS for one in cluster.prepares)
    order = [one.shard for one in cluster.prepares]
    assert order[-1] == "shard-3", "who joins prepares when all others have"
    progress = cluster.coordinator.progress(cluster.now_ms)
    assert (progress["phase"], progress["left"]) == ("handing over", 21)
    assert cluster.coordinator.is_ready()
    assert not cluster.coordinator.is_settled()
    cluster.leftovers = {}
    cluster.run(2_000)
    assert cluster.coordinator.is_settled()


def test_the_ring_does_not_change_again_while_something_is_handed_over() -> None:
    """The next target waits for the end of the window at most."""
    cluster = running()
    cluster.leftovers = dict.fromkeys(THREE, 7)
    cluster.aim(FOUR)
    cluster.run(2_000)
    cluster.aim({**FOUR, "shard-4": 1.0})
    cluster.run(WINDOW_MS - 5_000)
    assert ids(cluster) == sorted(FOUR)
    cluster.run(10_000)
    assert len(ids(cluster)) == 5


def test_a_ring_that_was_not_certainly_in_force_is_no_source() -> None:
    """A coordinator that has just begun knows a view that may only have been prepared: it is taken over first."""
    cluster = running()
    cluster.prepares.clear()
    cluster.target = FOUR
    cluster.restart_coordinator()
    cluster.run(3_000)
    assert ids(cluster) == sorted(FOUR)
    takeover, change = sorted({one.view.epoch for one in cluster.prepares})
    formers = {one.view.epoch: one.former for one in cluster.prepares}
    assert formers[takeover] is None
    assert formers[change] is not None
    assert formers[change].epoch == takeover


def test_a_joiner_that_does_not_prepare_holds_nothing_up_for_ever() -> None:
    """Its process is ended; the others go back to the ring that they had, and it is tried again."""
    cluster = running()
    cluster.unheard.add("shard-3")
    cluster.aim(FOUR)
    cluster.run(2_000)
    assert cluster.coordinator.change is not None
    cluster.run(JOIN_TIMEOUT_MS + 250)
    assert ("shard-3", 1) in cluster.killed
    cluster.run(1_000)
    assert ids(cluster) == sorted(THREE)
    assert cluster.coordinator.is_ready()
    cluster.unheard.clear()
    cluster.run(4 * LEASE_MS)
    assert ids(cluster) == sorted(FOUR)


def test_twelve_shards_come_to_rest() -> None:
    """shard-10 stands before shard-2 in a view: that is no difference which a view change could mend."""
    cluster = running(12)
    epoch = cluster.view().epoch
    cluster.run(5_000)
    assert cluster.view().epoch == epoch


# ------------------------------------------------------------------ shrinking


def test_who_leaves_prepares_and_stays_as_a_source() -> None:
    """It serves nobody any more, and ends, emptied, when it has nothing left."""
    cluster = running()
    cluster.leftovers["shard-2"] = 5
    cluster.prepares.clear()
    cluster.aim(without(THREE, "shard-2"))
    cluster.run(3_000)
    assert ids(cluster) == ["shard-0", "shard-1"]
    assert {one.shard for one in cluster.prepares} == set(THREE)
    cluster.run(3 * LEASE_MS)
    assert not cluster.serves("shard-2")
    assert not cluster.closed
    assert not cluster.killed, "it is not taken for hung"
    cluster.leftovers.clear()
    cluster.run(2_000)
    assert cluster.closed == [("shard-2", 1, True)]
    assert sorted(cluster.coordinator.members) == ["shard-0", "shard-1"]
    assert cluster.coordinator.is_settled()


def test_nobody_takes_the_range_of_a_leaver_that_may_still_serve() -> None:
    """Cut off, it answers nothing: the view waits until its lease has certainly run out."""
    cluster = running()
    cluster.processes["shard-2"].cut_off = True
    cluster.aim(without(THREE, "shard-2"))
    while cluster.serves("shard-2"):
        assert "shard-2" in ids(cluster)
        cluster.run(250)
    cluster.run(LEASE_MS)
    assert ids(cluster) == ["shard-0", "shard-1"]


def test_a_dead_shard_can_be_drained() -> None:
    """Its range goes to the others without it."""
    cluster = running()
    cluster.failing["shard-1"] = "its machine is gone"
    cluster.lose("shard-1")
    cluster.run(1_000)
    cluster.aim(without(THREE, "shard-1"))
    cluster.run(2 * LEASE_MS)
    assert ids(cluster) == ["shard-0", "shard-2"]
    assert cluster.coordinator.is_settled()


def test_an_id_that_comes_back_gets_a_new_incarnation() -> None:
    """Its actor's name and its disk are those of another process."""
    cluster = running()
    cluster.aim(without(THREE, "shard-2"))
    cluster.run(3_000)
    cluster.aim(THREE)
    cluster.run(3_000)
    assert cluster.view().by_id["shard-2"].incarnation == "2"
    joined = [one for one in cluster.prepares if one.shard == "shard-2" and one.incarnation == 2]
    assert joined[0].keep is False


def test_a_target_outlives_the_coordinator() -> None:
    """Killed right after it was written down, its successor goes on."""
    cluster = running()
    cluster.target = FOUR
    cluster.restart_coordinator()
    cluster.run(3_000)
    assert ids(cluster) == sorted(FOUR)


def test_a_new_coordinator_waits_for_a_shard_that_the_newest_view_does_not_have() -> None:
    """It may not have heard of that view, and serve until its lease has run out."""
    cluster = running()
    cluster.unheard.add("shard-2")
    cluster.target = without(THREE, "shard-2")
    cluster.tell(c.TargetSet(shards=cluster.target))
    cluster.run(250)
    assert cluster.coordinator.change is not None
    cluster.processes["shard-2"].cut_off = True
    cluster.restart_coordinator(silent=("shard-2",))
    cluster.run(1_000)
    assert cluster.coordinator.change is not None, "shard-2 may serve"
    cluster.run(3 * LEASE_MS)
    assert ids(cluster) == ["shard-0", "shard-1"]


# ------------------------------------------------------------------ what may be asked for


def test_targets() -> None:
    """New shards take the lowest free numbers, the highest leave, weights stay; what can't be is refused."""
    assert resized(THREE, 4, {}) == FOUR
    assert resized({"shard-0": 2.0, "shard-2": 1.0}, 3, {}) == {"shard-0": 2.0, "shard-1": 1.0, "shard-2": 1.0}
    assert list(resized(dict.fromkeys(("shard-0", "shard-10", "shard-9"), 1.0), 2, {})) == ["shard-0", "shard-9"]
    assert resized(THREE, None, {"shard-1": 2}) == {**THREE, "shard-1": 2.0}
    for wrong in ((0, {}), (1_001, {}), (None, {"shard-7": 1.0}), (None, {"shard-0": 0.0}), (2, {"shard-2": 1.0})):
        with pytest.raises(UsageError):
            resized(THREE, *wrong)
    with pytest.raises(UsageError, match="only shard"):
        without({"shard-0": 1.0}, "shard-0")


def test_several_copies_can_not_be_resized() -> None:
    """Refused with the way out, rather than done wrong."""
    core = Coordinator(name="test", uid="u", shard_ids=("shard-0", "shard-1"), replicas=2)
    with pytest.raises(UsageError, match="2 copies"):
        core.plan_resize(3, {})
    with pytest.raises(UsageError, match="2 copies"):
        core.plan_drain("shard-1")


def view_of(target: dict[str, float], epoch: int = 1) -> View:
    """A view of these shards."""
    return View(epoch=epoch, shards=tuple(ShardInfo(id=one, weight=weight) for one, weight in target.items()))


@pytest.mark.parametrize(
    ("after", "ideal"),
    [(FOUR, 0.25), (without(THREE, "shard-1"), 1 / 3), ({**THREE, "shard-0": 2.0}, 0.5 - 1 / 3)],
)
def test_no_more_keys_move_than_have_to(after: dict[str, float], ideal: float) -> None:
    """Within a tenth of the ideal, and only to or from the shard that changed."""
    before, then = Ring(view_of(THREE)), Ring(view_of(after))
    keys = [b"key-%d" % number for number in range(30_000)]
    moves = [(before.primary(key).id, then.primary(key).id) for key in keys]
    moved = [move for move in moves if move[0] != move[1]]
    assert abs(len(moved) / len(keys) - ideal) <= 0.1 * ideal
    changed = next(iter(set(THREE.items()) ^ set(after.items())))[0]
    assert all(changed in move for move in moved)


# ------------------------------------------------------------------ the leaves


def test_between_two_rings_a_shard_answers_only_for_what_it_keeps() -> None:
    """A key that leaves is refused for a moment; going back, or on, ends that."""
    ownership = Ownership("shard-0")
    ownership.activate(view_of(THREE))
    keys: Sequence[bytes] = [b"key-%d" % number for number in range(2_000)]
    mine = [key for key in keys if ownership.owner(key) is None]
    ownership.prepare(view_of(FOUR, 2))
    lost = [key for key in mine if not ownership.keeps(key)]
    assert 0.15 < len(lost) / len(mine) < 0.35
    with pytest.raises(CommandError, match="TRYAGAIN"):
        ownership.owner(lost[0])
    ownership.prepare(view_of(THREE, 3))
    assert all(ownership.owner(key) is None for key in mine)
    ownership.prepare(view_of(FOUR, 4))
    ownership.activate(view_of(FOUR, 4))
    assert {ownership.owner(key) for key in lost} == {"shard-3"}


def test_a_touched_key_is_never_forgotten() -> None:
    """A small bitmap errs, but only on one side."""
    touched = Touched(256)
    for number in range(50):
        touched.add(b"key-%d" % number)
    assert all(b"key-%d" % number in touched for number in range(50))
    assert sum(b"other-%d" % number in touched for number in range(1_000)) < 400


def test_an_active_view_has_no_shard_that_never_started() -> None:
    """Not even for a moment: its keys would have nobody."""
    cluster = running()
    cluster.aim(FOUR)
    for _ in range(20):
        cluster.run(250)
        assert all(shard.state == ACTIVE for shard in cluster.view().shards)
