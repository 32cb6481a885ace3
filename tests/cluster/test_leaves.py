"""The leaves of the cluster package, each by itself: configuration, homes, trust in disks, debts, sums, state files,
discovery."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratacache.client.view import SUSPENDED, ShardInfo, View
from stratacache.cluster import ClusterConfig
from stratacache.cluster import coordinator_events as c
from stratacache.cluster import messages as m
from stratacache.cluster.debts import OpenLog, merged
from stratacache.cluster.discovery import find_coordinator
from stratacache.cluster.home import ShardHome, private_dir, runtime_dir
from stratacache.cluster.local_ray import RayHead, end_head
from stratacache.cluster.placement import place
from stratacache.cluster.state import ClusterState, forget_state, known_states, load_state, save_state
from stratacache.cluster.warmth import keep_at_first_start, keep_at_return, ring_digest, view_ring
from stratacache.node.errors import UnavailableError, UsageError
from stratacache.node.merging import Ledger, counters, merged_stats, with_base
from tests.cluster.waiting import is_alive, wait_until

STORED = m.Stored(uid="life", incarnation=1, epoch=7, ring="r", clean=True, pinned=False)


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"name": "A b"}, "cluster name 'A b'"),
        ({"shards": 0}, "shards is 0"),
        ({"replicas": 4}, "from 1 to 3"),
        ({"replicas": 3, "shards": 2}, "replicas is 3 and shards 2"),
        ({"host": "10.0.0.1"}, "set a token"),
        ({"token": ""}, "the token is empty"),
        ({"data_dir": "relative"}, "absolute path"),
        ({"l1_bytes_max": 10}, "at least 1 MiB"),
        ({"l2_bytes_max": -1}, "can't be negative"),
        ({"policy": "best"}, "policy 'best' is not known"),
        ({"cpus_per_shard": -1.0}, "can't be negative"),
        ({"lease_ms": 10}, "at least 1000"),
        ({"port": 65_534}, "ports go up to 65535"),
    ],
)
def test_a_wrong_configuration_names_the_way_out(options: dict[str, Any], expected: str) -> None:
    """Refused before anything is created."""
    with pytest.raises(UsageError, match=r"^[^\n]*$") as refused:
        ClusterConfig(**options).validate()
    assert expected in str(refused.value)


def test_a_configuration_crosses_processes() -> None:
    """It travels to the actors as it is."""
    config = ClusterConfig(name="x", shards=5, token="t")
    assert pickle.loads(pickle.dumps(config)) == config
    assert ClusterConfig(**config.to_map()) == config
    assert config.shard_ids()[4] == "shard-4"


# ---------------------------------------------------------------- homes


def home_in(path: Path, shard: str = "shard-0") -> ShardHome:
    return ShardHome(data_dir=str(path), cluster="c", uid=f"test-{os.getpid()}", shard=shard)


@pytest.fixture(autouse=True)
def no_sockets_left() -> Any:
    """Remove the directory for sockets that homes make."""
    yield
    path = runtime_dir(f"test-{os.getpid()}")
    if path.exists():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()


def test_a_home_is_private_and_has_one_process(tmp_path: Path) -> None:
    """A second one is refused with the holder's process id; after close it may enter, with the same fence."""

    async def run() -> None:
        first, second = home_in(tmp_path), home_in(tmp_path)
        await first.open(0.1)
        assert first.path is not None
        assert first.path.stat().st_mode & 0o777 == 0o700
        with pytest.raises(UsageError, match=f"is in use by process {os.getpid()}: stop the cluster"):
            await second.open(0.1)
        first.close()
        await second.open(0.1)
        assert second.fence == first.fence != ""
        second.close()
        assert not second.sockets.exists()

    asyncio.run(run())


@pytest.mark.parametrize("has_disk", [True, False])
def test_who_waited_for_a_home_has_it_alone_and_whole(tmp_path: Path, has_disk: bool) -> None:
    """Who closes takes lock and directory for sockets away: the one that waited makes them anew, for others to find."""

    def home() -> ShardHome:
        if has_disk:
            return home_in(tmp_path)
        return ShardHome(data_dir=None, cluster="c", uid=f"test-{os.getpid()}", shard="shard-0")

    async def run() -> None:
        first, second = home(), home()
        await first.open(0.1)
        waiting = asyncio.ensure_future(second.open(10))
        while second._fd < 0:
            await asyncio.sleep(0)
        first.close()
        await waiting
        second.unix.touch()
        with pytest.raises(UsageError, match="is in use by process"):
            await home().open(0.1)
        second.close()

    asyncio.run(run())


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    """The kernel gives it back when the process is gone, and not before: that is the proof that fencing rests on."""
    code = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.cluster.test_leaves import home_in
from pathlib import Path
home = home_in(Path({str(tmp_path)!r}))
asyncio.run(home.open(1))
print("locked", flush=True)
sys.stdin.read()
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "locked\n"
    with pytest.raises(UsageError):
        asyncio.run(home_in(tmp_path).open(0.1))
    holder.kill()
    holder.wait()
    holder.stdout.close()
    home = home_in(tmp_path)
    asyncio.run(home.open(1.0))
    home.close()


def test_state_is_replaced_whole_and_garbage_counts_as_none(tmp_path: Path) -> None:
    """A state that can't be read proves nothing, so it is as if there were none."""
    home = home_in(tmp_path)
    asyncio.run(home.open(0.1))
    assert home.read_state() is None
    home.write_state(replace(STORED, clean=False))
    home.mark_clean()
    assert home.read_state() == STORED
    assert home.path is not None
    (home.path / "state.json").write_text('{"uid": "life"')
    assert home.read_state() is None
    home.close()


def test_a_state_that_cannot_be_written_is_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """On a full disk the state before would stand, and vouch for content that has changed since."""
    home = home_in(tmp_path)
    state = m.Stored(uid="u", incarnation=1, epoch=3, ring="r", clean=False, pinned=True)
    asyncio.run(home.open(1.0))
    assert home.path is not None
    home.write_state(state)
    (home.path / ".state.json").symlink_to("/dev/full")
    home.write_state(replace(state, epoch=4))
    assert home.read_state() is None
    assert "No space left on device" in caplog.text
    (home.path / ".state.json").unlink()
    home.write_state(replace(state, epoch=5))
    assert home.read_state() == replace(state, epoch=5)
    home.close()


def test_a_socket_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """/tmp is everybody's: a link put there before us must not be followed."""
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(UsageError, match="is not a directory of this user"):
        private_dir(tmp_path / "link")
    wide = tmp_path / "wide"
    wide.mkdir(mode=0o755)
    assert private_dir(wide).stat().st_mode & 0o777 == 0o700


# ---------------------------------------------------------------- trust in disks


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, True),
        ({"clean": False}, False),
        ({"clean": False, "pinned": True}, False),
        ({"epoch": 6}, False),
        ({"uid": "other"}, False),
        ({"ring": "other"}, False),
    ],
)
def test_a_whole_cluster_keeps_its_disks_only_together(change: dict[str, Any], kept: bool) -> None:
    """One shard that is older, of another life or ring, or not clean: all drop."""
    found = {"shard-0": STORED, "shard-1": replace(STORED, **change)}
    assert keep_at_first_start(found, "r") is kept
    assert keep_at_first_start({**found, "shard-2": None}, "r") is False


def test_a_cluster_that_never_left_its_machine_keeps_disks_after_a_crash() -> None:
    """Nobody else can have served in its place."""
    crashed = replace(STORED, clean=False, pinned=True)
    assert keep_at_first_start({"shard-0": crashed, "shard-1": crashed}, "r") is True
    assert keep_at_first_start({"shard-0": crashed, "shard-1": crashed}, "other") is False


def test_a_returning_shard_needs_a_whole_log_that_began_in_time() -> None:
    """Each missing piece of proof costs the content, never correctness."""
    before = ShardInfo(id="shard-0", incarnation="1", state=SUSPENDED)
    view = View(epoch=9, shards=(before, ShardInfo(id="shard-1", incarnation="1")))
    stored = replace(STORED, ring=view_ring(view))
    debt = m.Debt(kind="tags", names=(b"t",))

    def keep(stored: m.Stored | None, log: m.DebtLog, away_since: int | None = 8) -> tuple[bool, tuple[m.Debt, ...]]:
        away = {} if away_since is None else {before.id: away_since}
        return keep_at_return(stored, before, view, "life", away=away, logs=[log])

    good = m.DebtLog(since=8, whole=True, debts=(debt,))
    assert keep(stored, good) == (True, (debt,))
    assert keep(stored, good, away_since=None) == (True, ())
    assert keep(None, good) == (False, ())
    assert keep(stored, replace(good, whole=False)) == (False, ())
    assert keep(stored, replace(good, since=9)) == (False, ())
    assert keep(replace(stored, incarnation=2), good) == (False, ())
    assert keep(replace(stored, uid="other"), good) == (False, ())
    assert keep(replace(stored, ring="other"), good) == (False, ())


def test_the_ring_digest_knows_ids_and_weights_only() -> None:
    """Order does not matter; a weight does."""
    assert ring_digest([("a", 1.0), ("b", 1.0)]) == ring_digest([("b", 1.0), ("a", 1.0)])
    assert ring_digest([("a", 1.0), ("b", 1.0)]) != ring_digest([("a", 1.0), ("b", 2.0)])


# ---------------------------------------------------------------- debts

names = st.lists(st.binary(min_size=1, max_size=3), max_size=3).map(tuple)
debts = st.lists(st.builds(m.Debt, kind=st.sampled_from(["tags", "namespace", "keys"]), names=names), max_size=20)


@given(debts)
def test_merged_debts_cover_the_same_names(given_debts: list[m.Debt]) -> None:
    """Fewer calls, nothing lost."""

    def covered(some: list[m.Debt]) -> set[tuple[str, bytes]]:
        return {(debt.kind, name) for debt in some for name in debt.names}

    assert covered(merged(given_debts)) == covered(given_debts)
    assert merged([*given_debts, m.Debt(kind="all")]) == [m.Debt(kind="all")]


def test_a_log_that_overflows_is_not_whole_and_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It never pretends to be complete again."""
    monkeypatch.setattr("stratacache.cluster.debts.DEBT_BYTES_MAX", 10)
    log = OpenLog(since=3)
    log.add(m.Debt(kind="tags", names=(b"12345",)))
    log.add(m.Debt(kind="tags", names=(b"12345",)))
    assert log.freeze() == m.DebtLog(since=3, whole=True, debts=(m.Debt(kind="tags", names=(b"12345",)),))
    log.add(m.Debt(kind="tags", names=(b"1234567",)))
    log.add(m.Debt(kind="tags", names=(b"1",)))
    assert log.freeze() == m.DebtLog(since=3, whole=False)


# ---------------------------------------------------------------- sums


def engine_stats(gets: int) -> dict[str, Any]:
    """What a node really reports, after one put and some gets."""
    from stratacache.node.config import NodeConfig
    from stratacache.node.engine import MultiLevelCache

    engine = MultiLevelCache(NodeConfig())
    engine.put(b"docs:a", b"value")
    for _ in range(gets):
        engine.get(b"docs:a")
        engine.get(b"absent")
    return engine.stats()


def test_sums_of_real_node_figures() -> None:
    """Counters and gauges add up; ratios and quantiles are computed again."""
    one, two = engine_stats(10), engine_stats(30)
    total = merged_stats([one, two])
    assert (total["hits"], total["misses"], total["hit_ratio"]) == (40, 40, 0.5)
    assert total["entries"] == 2
    assert total["namespaces"]["docs"]["hits"] == 40
    assert total["access_times"]["count"] == one["access_times"]["count"] + two["access_times"]["count"]
    slowest = max(one["access_times"]["p99_us"], two["access_times"]["p99_us"])
    assert 0 <= total["access_times"]["p50_us"] <= total["access_times"]["p99_us"] <= slowest


def test_a_successor_counts_on_but_holds_only_its_own() -> None:
    """Counters of the process before are added; what that one held is gone."""
    base = counters(engine_stats(5))
    whole = with_base(engine_stats(7), base)
    assert (whole["hits"], whole["misses"], whole["entries"]) == (12, 12, 1)
    assert counters(whole)["hits"] == 12
    assert "entries" not in counters(whole)


@pytest.mark.parametrize(
    "names", [("mean_us",), ("mean_us", "count"), ("hits", "misses"), ("buckets",), ("buckets", "count")]
)
def test_a_name_that_a_client_gave_is_no_figure(names: tuple[str, ...]) -> None:
    """Namespaces and operations may be called as figures are: nobody's statistics fail by it, and each counts."""
    from stratacache.node.config import NodeConfig
    from stratacache.node.engine import MultiLevelCache

    engine = MultiLevelCache(NodeConfig())
    for name in names:
        for key in (b"%b:a" % name.encode(), b"of-%b:%b:%b" % (name.encode(), name.encode(), b"0" * 32)):
            engine.put(key, b"value", cost_s=2.0)
            engine.get(key)
    stats = engine.stats()
    once, twice = with_base(stats, {}), merged_stats([stats, stats])
    for name in names:
        for table in ("namespaces", "operations"):
            assert (once[table][name]["hits"], twice[table][name]["hits"]) == (1, 2)
    ledger = Ledger()
    ledger.take("shard-0", "1", stats)
    again = ledger.take("shard-0", "2", stats)
    assert [again["namespaces"][name]["hits"] for name in names] == [1] * len(names)


# ---------------------------------------------------------------- what `up` remembers and ends


def test_state_files_are_private_and_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They hold the token."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    head = RayHead(pid=1, started="x:1", address="127.0.0.1:1", log="/l")
    state = ClusterState(name="c", ray_address="a:1", head=head, token="secret", endpoints={"shard-0": "h:1"})
    save_state(state)
    assert load_state("c") == state
    assert known_states() == [state]
    assert (tmp_path / "stratacache" / "c.json").stat().st_mode & 0o777 == 0o600
    forget_state("c")
    assert load_state("c") is None


def test_a_process_that_only_has_the_old_number_is_not_ended() -> None:
    """Process ids come back: the start time must agree too."""
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        end_head(RayHead(pid=sleeper.pid, started="another-boot:1", address="127.0.0.1:1", log=""))
        assert is_alive(sleeper.pid)
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_session_is_ended_with_all_its_processes() -> None:
    """Children, also in process groups of their own, go with the leader; others stay."""
    from stratacache.cluster import local_ray

    code = (
        "import subprocess, sys, time;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], process_group=0);"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    leader = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE, text=True)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    assert leader.stdout is not None
    child = int(leader.stdout.readline())
    leader.stdout.close()
    mark = local_ray._start_mark(leader.pid)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(local_ray, "END_GRACE_S", 0.2)
            end_head(RayHead(pid=leader.pid, started=mark, address="127.0.0.1:1", log=""))
        wait_until(lambda: not is_alive(child), 5)
        assert not is_alive(leader.pid)
        assert is_alive(other.pid)
    finally:
        other.kill()
        other.wait()


# ---------------------------------------------------------------- placement


def spread(shards: int, nodes: list[c.NodeSeen]) -> dict[str, str]:
    """Where all shards of a new cluster go."""
    homes: dict[str, str] = {}
    for index in range(shards):
        node = place(f"shard-{index}", index, nodes, homes)
        if node is not None:
            homes[f"shard-{index}"] = node
    return homes


def test_shards_spread_evenly_and_go_back_to_their_disk() -> None:
    """The counts of two nodes differ by one at most; a replaced shard returns to the node that holds its L3."""
    nodes = [c.NodeSeen(id=name, address=name) for name in "abc"]
    homes = spread(7, nodes)
    counts = [list(homes.values()).count(name) for name in "abc"]
    assert (sum(counts), max(counts) - min(counts)) == (7, 1)
    for index in range(7):
        assert place(f"shard-{index}", index, nodes, homes) == homes[f"shard-{index}"]
    assert place("shard-0", 0, nodes[1:], {**homes, "shard-0": "a"}) in {"b", "c"}
    assert place("shard-0", 0, [], homes) is None


def test_a_node_never_gets_more_shards_than_it_has_room_for() -> None:
    """A shard waits rather than overrun a neighbour's memory."""
    nodes = [c.NodeSeen(id=name, address=name, capacity=2) for name in "ab"]
    homes = spread(6, nodes)
    assert sorted(homes.values()) == ["a", "a", "b", "b"]


# ---------------------------------------------------------------- discovery


@pytest.mark.parametrize("name", ["default", None])
@pytest.mark.parametrize("error", ["RpcError", "GetTimeoutError", "RaySystemError"])
def test_a_ray_that_can_not_be_asked_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, name: str | None, error: str
) -> None:
    """Whatever it raises then: a client that looks for a view counts on that, and so does who calls the client."""
    import ray
    from ray import exceptions

    def fails(*_: object, **__: object) -> None:
        raise getattr(exceptions, error)("the control service is away")

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "get_actor", fails)
    monkeypatch.setattr(ray.util, "list_named_actors", fails)
    with pytest.raises(UnavailableError, match=rf"can't be asked \({error}\): try again, or connect by address"):
        find_coordinator(name)
