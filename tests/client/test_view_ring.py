"""View and ring: the wire form, owners against uhashring, balance, movement, replicas kept apart."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter

import msgpack
import pytest
from uhashring import HashRing

from stratacache.client import ring as ring_module
from stratacache.client.ring import POINTS_PER_WEIGHT, Ring
from stratacache.client.view import ACTIVE, SUSPENDED, ShardInfo, View
from stratacache.node.errors import CorruptionError, UnavailableError, UsageError
from tests.wire.inprocess import InProcess


def view_of(count: int, *, replicas: int = 1, nodes: int = 0, epoch: int = 1) -> View:
    shards = tuple(ShardInfo(id=f"shard-{i}", node=f"node-{i % nodes}" if nodes else "") for i in range(count))
    return View(epoch=epoch, cluster="test", replicas=replicas, shards=shards)


KEYS = [b"docs:%d" % i for i in range(30_000)]


def test_view_survives_the_wire() -> None:
    """The msgpack form of docs/PROTOCOL.md brings every field back, and unknown fields do no harm."""
    shard = ShardInfo(id="shard-0", host="10.0.0.1", port=1, unix="/s", weight=2.0, incarnation="x", node="n")
    view = View(epoch=7, cluster="c", replicas=2, shards=(shard, ShardInfo(id="shard-1", state=SUSPENDED)))
    assert View.from_bytes(view.to_bytes()) == view
    fields = msgpack.unpackb(view.to_bytes())
    assert set(fields["shards"][0]) == {"id", "host", "port", "unix", "weight", "incarnation", "node"}
    fields["from the future"] = fields["shards"][0]["too"] = 1
    assert View.from_bytes(msgpack.packb(fields)) == view


def test_the_view_of_a_thousand_shards_is_one_message_under_256_kib() -> None:
    """A shard's answer to SC.VIEW, with addresses and names as long as they get, and some shards suspended or moved."""
    shards = tuple(
        ShardInfo(
            id=f"shard-{i}",
            host="100.100.100.100",
            port=60_000,
            unix=f"/tmp/stratacache-65534/0123abcd/shard-{i}.sock",
            incarnation=str(99_000 + i),
            node=f"{i:056x}",
            state=SUSPENDED if i % 10 == 0 else ACTIVE,
            group=f"{i + 1:056x}" if i % 4 == 1 else "",
        )
        for i in range(1_000)
    )
    view = View(epoch=1 << 40, cluster="a-cluster-with-the-longest-name-that-is-allowed", replicas=3, shards=shards)
    node = InProcess()
    node.server.set_view(view.to_bytes(), view.epoch)
    answer, _ = node.run([b"*1\r\n$7\r\nSC.VIEW\r\n"])
    assert answer.startswith(b"$")
    length, _, blob = answer[1:].partition(b"\r\n")
    assert int(length) == len(blob) - 2 < 256 << 10
    assert View.from_bytes(blob[:-2]) == view


@pytest.mark.parametrize("blob", [b"", b"\xc1", b"\x01", msgpack.packb({"epoch": 1}), msgpack.packb({"shards": [1]})])
def test_unreadable_view_is_named_as_such(blob: bytes) -> None:
    """A blob that is no view is a CorruptionError, not whatever msgpack happens to raise."""
    with pytest.raises(CorruptionError):
        View.from_bytes(blob)


def test_view_refuses_what_no_ring_can_be_made_of() -> None:
    """Twice the same shard, too many replicas, no weight."""
    with pytest.raises(UsageError, match="twice"):
        View(epoch=1, shards=(ShardInfo(id="a"), ShardInfo(id="a")))
    with pytest.raises(UsageError, match="replicas"):
        View(epoch=1, replicas=4)
    with pytest.raises(UsageError, match="weight"):
        View(epoch=1, shards=(ShardInfo(id="a", weight=0.0),))


def test_owner_is_that_of_uhashring() -> None:
    """A string key has the owner that uhashring's own default md5 ring of 1,024 vnodes gives it."""
    ring = Ring(view_of(5))
    reference = HashRing([f"shard-{i}" for i in range(5)], vnodes=POINTS_PER_WEIGHT)
    for i in range(2_000):
        assert ring.primary(f"docs:{i}".encode()).id == reference.get_node(f"docs:{i}")


def test_golden_owners_in_another_process() -> None:
    """Owners are the same everywhere and for ever: pinned here, and asked of a process with another hash seed."""
    golden = {"a": "shard-2", "docs:1": "shard-2", "docs:é": "shard-0", "": "shard-2"}
    code = (
        "from stratacache.client.view import *; from stratacache.client.ring import Ring\n"
        "r = Ring(View(epoch=1, shards=tuple(ShardInfo(id=f'shard-{i}') for i in (2, 0, 1))))\n"
        f"print({{k: r.primary(k.encode()).id for k in {list(golden)!r}}})"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True
    )
    assert eval(out.stdout) == golden
    assert {key: Ring(view_of(3)).primary(key.encode()).id for key in golden} == golden


def test_balance_of_three_shards() -> None:
    """With 3 shards and 30,000 keys no shard holds more than 1.25x the mean."""
    ring = Ring(view_of(3))
    counts = Counter(ring.primary(key).id for key in KEYS)
    assert max(counts.values()) <= 1.25 * len(KEYS) / 3


@pytest.mark.parametrize("count", [1, 3, 9, 20])
def test_growing_moves_one_share_and_only_to_the_new_shard(count: int) -> None:
    """Adding a shard to N moves 1/(N+1) of the keys (within 15 % with these keys), all of them to the new shard."""
    before, after = Ring(view_of(count)), Ring(view_of(count + 1))
    moved = [key for key in KEYS if before.primary(key) != after.primary(key)]
    assert {after.primary(key).id for key in moved} == {f"shard-{count}"}
    assert abs(len(moved) / len(KEYS) * (count + 1) - 1) < 0.15


def test_weight_is_a_share() -> None:
    """A shard of weight 2 holds about twice as much as one of weight 1; a fraction works too."""
    shards = (ShardInfo(id="a", weight=2.0), ShardInfo(id="b"), ShardInfo(id="c", weight=0.5))
    ring = Ring(View(epoch=1, shards=shards))
    counts = Counter(ring.primary(key).id for key in KEYS)
    assert 1.7 < counts["a"] / counts["b"] < 2.3
    assert 0.4 < counts["c"] / counts["b"] < 0.6


@pytest.mark.parametrize(("count", "nodes", "replicas"), [(4, 2, 2), (6, 3, 3), (6, 2, 3), (9, 9, 3), (5, 1, 2)])
def test_replicas_lie_on_different_machines(count: int, nodes: int, replicas: int) -> None:
    """Owners are distinct shards, on as many machines as there are, and the primary is the ring's."""
    ring = Ring(view_of(count, nodes=nodes, replicas=replicas))
    for key in KEYS[:2_000]:
        owners = ring.owners(key)
        assert owners[0] == ring.primary(key)
        assert len({owner.id for owner in owners}) == replicas
        assert len({owner.node for owner in owners}) == min(replicas, nodes)


def test_replicas_of_fewer_shards() -> None:
    """Two replicas asked of one shard are one; an empty view says what is wrong."""
    assert len(Ring(view_of(1, replicas=2)).owners(b"a")) == 1
    with pytest.raises(UnavailableError):
        Ring(view_of(0)).primary(b"a")


def test_both_ways_of_sorting_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy and plain Python lay the same continuum."""
    plain = Ring(view_of(20))
    monkeypatch.setattr(ring_module, "SHARDS_FOR_NUMPY", 2)
    sorted_by_numpy = Ring(view_of(20))
    assert [plain.primary(key).id for key in KEYS] == [sorted_by_numpy.primary(key).id for key in KEYS]


def test_group_keeps_the_order_of_keys() -> None:
    """Grouping gives each key's index exactly once, in order, under its primary; for one shard and for many."""
    keys = random.Random(1).sample(KEYS, 500)
    for count in (1, 3):
        ring = Ring(view_of(count))
        groups = ring.group(keys)
        assert sorted(index for indices in groups.values() for index in indices) == list(range(500))
        for shard_id, indices in groups.items():
            assert indices == sorted(indices)
            assert {ring.primary(keys[index]).id for index in indices} == {shard_id}
