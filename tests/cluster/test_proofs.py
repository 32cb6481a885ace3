"""What it takes to believe a disk, each proof by itself: states, rings and logs of debts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratacache.client.view import SUSPENDED, ShardInfo, View
from stratacache.cluster import messages as m
from stratacache.cluster.debts import OpenLog, merged
from stratacache.cluster.warmth import keep_at_first_start, keep_at_return, ring_digest, view_ring

STORED = m.Stored(uid="life", incarnation=1, epoch=7, ring="r", clean=True, pinned=False)


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
