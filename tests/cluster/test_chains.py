"""Chains and streams by themselves: who may change a key when, and what becomes of changes when a peer goes."""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace

import pytest

from stratacache.client.view import View
from stratacache.cluster.chains import Chains, ring_of
from stratacache.cluster.config import PROCESS_BYTES, ClusterConfig
from stratacache.cluster.messages import Debt, DebtLog, Stored
from stratacache.cluster.streams import ITEM_BYTES, OWN, QUEUED_BYTES_MAX, Change, Inflow, Outbox
from stratacache.cluster.warmth import keep_at_return, view_ring
from stratacache.node.config import NodeConfig
from stratacache.node.errors import UnavailableError
from stratacache.node.groups import TAG_BYTES_MAX, TAGS_MAX
from stratacache.node.keys import KEY_BYTES_MAX
from stratacache.node.resp.replies import CommandError
from tests.cluster.owners import ALL, KEY, view_of

PEER = ("b", OWN)


def chains_at(shard: str, view: View) -> Chains:
    """A shard's chains under a view in force."""
    chains = Chains(shard)
    chains.activate(view)
    return chains


def test_the_first_active_owner_changes_a_key_and_each_hands_it_to_the_next() -> None:
    """All of three, then without the first, then the last alone."""
    first, second, third = (chains_at(shard, ALL) for shard in "abc")
    assert (first.owner(KEY), second.owner(KEY)) == (None, "a")
    assert [one.successor(KEY) for one in (first, second, third)] == ["b", "c", None]
    assert all(one.reader(KEY) is None for one in (first, second, third))
    without = view_of(2, {"a": "", "b": "1", "c": "1"})
    assert chains_at("b", without).owner(KEY) is None
    assert chains_at("b", without).away(KEY) == ["a"]
    alone = chains_at("c", view_of(3, {"a": "", "b": "", "c": "1"}))
    assert (alone.owner(KEY), alone.successor(KEY)) == (None, None)


def test_a_key_is_held_while_its_owners_change() -> None:
    """From prepare to activate nobody changes it: not the one before, not the one after."""
    without = view_of(2, {"a": "", "b": "1", "c": "1"})
    second = chains_at("b", ALL)
    second.prepare(without)
    with pytest.raises(CommandError, match="TRYAGAIN"):
        second.check_change(KEY)
    second.activate(without)
    second.check_change(KEY)
    second.prepare(view_of(3, {"a": "2", "b": "1", "c": "1"}))
    with pytest.raises(CommandError, match="TRYAGAIN"):
        second.check_change(KEY)


def test_a_joiner_gets_nothing_before_the_view_is_in_force() -> None:
    """Its predecessor goes on handing to the owner behind it until then."""
    without = view_of(2, {"a": "1", "b": "", "c": "1"})
    first = chains_at("a", without)
    back = view_of(3, {"a": "1", "b": "2", "c": "1"})
    first.prepare(back)
    assert first.successor(KEY) == "c"
    first.activate(back)
    assert first.successor(KEY) == "b"


def test_owners_do_not_depend_on_where_a_shard_is_now() -> None:
    """A shard that moved to another machine keeps its group, and with it its keys."""
    moved = replace(ALL, shards=tuple(replace(one, node="node-a", group=f"node-{one.id}") for one in ALL.shards))
    keys = [b"key-%d" % number for number in range(300)]
    assert [[o.id for o in ring_of(moved).owners(k)] for k in keys] == [
        [o.id for o in ring_of(ALL).owners(k)] for k in keys
    ]
    assert view_ring(moved) == view_ring(ALL)


def sent(outbox: Outbox) -> list[tuple[bytes, ...]]:
    """What is written to the peer's connection now."""
    return outbox.streams[PEER].unsent()


def test_a_stream_goes_on_where_it_broke() -> None:
    """Numbers count up across connections; what the peer has is not sent again, the rest is, in order."""
    outbox = Outbox()
    outbox.follow({"b": "1"}, relays=False)
    changes = [outbox.send({"b": (b"DEL", key)}, (key,)) for key in (b"x", b"y", b"z")]
    assert sent(outbox) == []
    stream = outbox.streams[PEER]
    outbox.opened(stream, 0)
    assert [words[1] for words in sent(outbox)] == [b"1", b"2", b"3"]
    outbox.answered(stream, 1)
    assert changes[0].future.done()
    assert set(outbox.unsettled) == {b"y", b"z"}
    stream.broken()
    outbox.opened(stream, 2)
    assert [words[1] for words in sent(outbox)] == [b"3"]
    outbox.answered(stream, 3)
    assert all(change.future.done() for change in changes)
    assert not outbox.unsettled


def test_a_drain_waits_for_what_was_on_its_way_and_for_no_more() -> None:
    """Later changes do not delay it."""
    outbox = Outbox()
    outbox.follow({"b": "1"}, relays=False)
    outbox.send({"b": (b"DEL", b"x")}, (b"x",))
    drained = outbox.drained()
    outbox.send({"b": (b"DEL", b"y")}, (b"y",))
    stream = outbox.streams[PEER]
    outbox.opened(stream, 0)
    assert not drained.done()
    outbox.answered(stream, 1)
    assert drained.done()


def test_a_dropped_peer_leaves_what_it_may_not_have() -> None:
    """The changes come back, so that they can be recorded as missed and sent elsewhere."""
    outbox = Outbox()
    outbox.follow({"b": "1"}, relays=False)
    change = outbox.send({"b": (b"DEL", b"x")}, (b"x",))
    assert outbox.follow({"b": "2"}, relays=False) == [("b", change)]
    assert not change.future.done()
    outbox.settle(change)
    assert change.future.done()


def test_a_full_stream_refuses_before_anything_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is bounded."""
    monkeypatch.setattr("stratacache.cluster.streams.ITEMS_MAX", 2)
    outbox = Outbox()
    outbox.follow({"b": "1"}, relays=False)
    for _ in range(2):
        outbox.check_room("b")
        outbox.send({"b": (b"CLEAR",)})
    with pytest.raises(UnavailableError, match="2 changes wait for b"):
        outbox.check_room("b")


def test_what_waits_for_slow_peers_stays_within_what_is_declared() -> None:
    """One that is slow has half of it at most, two all of it; what is answered, or dropped, makes room again."""
    outbox = Outbox()
    outbox.follow({"b": "1", "c": "1", "d": "1"}, relays=False)
    payload = bytes(1 << 20)

    def fill(peer: str) -> int:
        count = 0
        with suppress(UnavailableError):
            while True:
                outbox.check_room(peer, len(payload))
                outbox.send({peer: (payload,)}, (b"%b-%d" % (peer.encode(), count),))
                count += 1
        return count

    assert [fill("b"), fill("c"), fill("d")] == [63, 63, 1]
    assert outbox.bytes <= QUEUED_BYTES_MAX
    assert outbox.bytes == sum(stream.bytes for stream in outbox.streams.values())
    outbox.opened(outbox.streams["b", OWN], 40)
    outbox.answered(outbox.streams["b", OWN], 50)
    assert fill("d") == 50
    outbox.follow({"c": "1", "d": "1"}, relays=False)
    assert outbox.bytes == sum(stream.bytes for stream in outbox.streams.values())
    outbox.follow({}, relays=False)
    assert outbox.bytes == 0


def test_a_value_of_any_size_may_wait() -> None:
    """The largest that a client may put is more than a peer's share."""
    outbox = Outbox()
    outbox.follow({"b": "1"}, relays=False)
    largest = NodeConfig().value_bytes_max + KEY_BYTES_MAX + TAGS_MAX * TAG_BYTES_MAX
    outbox.check_room("b", largest)


def test_ray_is_told_of_all_that_a_shard_may_hold() -> None:
    """The levels, what waits for the disk, and what waits for other owners."""
    config = ClusterConfig(shards=2, l1_bytes_max=100 << 20, l2_bytes_max=50 << 20)
    assert config.memory_bytes() == (150 << 20) + PROCESS_BYTES
    on_disk = replace(config, data_dir="/data")
    assert on_disk.memory_bytes() == config.memory_bytes() + NodeConfig().l3_queue_bytes_max
    assert replace(on_disk, replicas=2).memory_bytes() == on_disk.memory_bytes() + QUEUED_BYTES_MAX


def test_what_lies_on_a_connection_without_an_answer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bytes too, one item at least: a peer that is slow has none of it written to it a second time."""
    monkeypatch.setattr("stratacache.cluster.streams.WINDOW_BYTES", ITEM_BYTES + 10)
    outbox = Outbox()
    outbox.follow({"b": "1"}, relays=False)
    changes = [outbox.send({"b": (b"PUT", key, b"12345")}, (key,)) for key in (b"u", b"v", b"w", b"x", b"y")]
    stream = outbox.streams[PEER]
    outbox.opened(stream, 0)

    def numbers() -> list[bytes]:
        return [words[1] for words in sent(outbox)]

    assert numbers() == [b"1", b"2"]
    assert (numbers(), stream.has_more) == ([], False)
    outbox.answered(stream, 1)
    assert (stream.has_more, numbers(), numbers()) == (True, [b"3"], [])
    stream.broken()
    outbox.opened(stream, 2)
    assert numbers() == [b"3", b"4"]
    outbox.answered(stream, 4)
    assert numbers() == [b"5"]
    outbox.answered(stream, 5)
    assert all(change.future.done() for change in changes)
    outbox.send({"b": (b"PUT", b"z", b"1" * 100)}, (b"z",))
    assert numbers() == [b"6"]


def test_an_item_is_applied_once_in_its_order_and_only_from_the_view() -> None:
    """A repeated item is answered when the first one is done; a gap and a stranger are refused."""
    inflow = Inflow()
    inflow.follow({"a": "1"})
    sender = ("a", "1", OWN)
    done: Future[None] = Future()
    applied = []

    def apply() -> Future[None]:
        applied.append(1)
        return done

    assert inflow.open(sender) == (0, [])
    assert inflow.take(sender, 1, apply) is done
    assert inflow.take(sender, 1, apply) is done
    assert inflow.open(sender) == (1, [done])
    with pytest.raises(CommandError, match="one is missing"):
        inflow.take(sender, 3, apply)
    inflow.follow({"a": "2"})
    with pytest.raises(CommandError, match="SUSPENDED"):
        inflow.take(sender, 2, apply)
    assert applied == [1]
    done.set_result(None)


def test_an_item_that_could_not_be_applied_is_never_taken_for_applied() -> None:
    """It raises, or its future fails: a sender that opens its stream again is not told that it is there."""
    inflow = Inflow()
    inflow.follow({"a": "1"})
    sender = ("a", "1", OWN)

    def fails() -> Future[None]:
        raise KeyError("poison")

    inflow.open(sender)
    with pytest.raises(KeyError):
        inflow.take(sender, 1, fails)
    assert inflow.open(sender) == (0, [])
    failed, fails_later = Future[None](), Future[None]()
    failed.set_exception(OSError("the disk"))
    inflow.take(sender, 1, lambda: failed)
    inflow.take(sender, 2, lambda: fails_later)
    fails_later.set_exception(OSError("the disk"))
    assert inflow.open(sender) == (2, [failed, fails_later]), "who opens the stream meets the errors"


def test_a_change_is_settled_by_the_last_of_its_peers() -> None:
    """Keys of one command may have different owners."""
    outbox = Outbox()
    outbox.follow({"b": "1", "c": "1"}, relays=True)
    change: Change = outbox.send({"b": (b"DEL", b"x"), "c": (b"DEL", b"y")}, (b"x", b"y"))
    for peer in "bc":
        assert not change.future.done()
        stream = outbox.streams[peer, OWN]
        outbox.opened(stream, 0)
        outbox.answered(stream, 1)
    assert change.future.done()


def test_a_disk_is_kept_beside_other_owners_only_with_the_hints_of_all() -> None:
    """One that has gone since, one without a whole log, one that came later: each costs the content."""
    view = view_of(9, {"a": "", "b": "1", "c": "1"})
    before = view.by_id["a"]
    stored = Stored(uid="life", incarnation=1, epoch=7, ring=view_ring(view), clean=False, pinned=False)
    missed = [Debt(kind="keys", names=(name,)) for name in (b"x", b"y")]
    logs = [DebtLog(since=8, whole=True, debts=(debt,)) for debt in missed]

    def keep(away: dict[str, int], found: list[DebtLog]) -> tuple[bool, tuple[Debt, ...]]:
        return keep_at_return(stored, before, view, "life", away=away, logs=found)

    assert keep({"a": 8}, logs) == (True, tuple(missed))
    assert keep({"a": 8, "d": 8}, logs) == (True, tuple(missed))
    assert keep({"a": 8, "d": 9}, logs) == (False, ())
    assert keep({"a": 8}, logs[:1]) == (False, ())
    assert keep({"a": 8}, [logs[0], replace(logs[1], whole=False)]) == (False, ())
    assert keep({"a": 8}, [logs[0], replace(logs[1], since=9)]) == (False, ())
    assert keep({}, logs) == (False, ())
