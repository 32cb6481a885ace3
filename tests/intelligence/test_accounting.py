"""What prefetching cost and brought, budgets, and switching off what does not pay."""

from __future__ import annotations

import numpy as np

from benchmarks.prefetch.slices import LOADER
from stratacache.cluster.intelligence.accounting import (
    OUTCOMES_MIN,
    PROBES,
    REST_S,
    Account,
    Issued,
    Kind,
)
from stratacache.cluster.intelligence.budget import DAY_S, Budget, Limits
from stratacache.cluster.intelligence.trust import Trust, classes_of


def issue(account: Account, key: bytes, now_s: float, *, done: bool = True) -> None:
    account.was_issued(key, Issued(at_s=now_s, until_s=now_s + 100, cost_s=2.0, size=10, saves_s=2.0))
    if done:
        account.was_done(key, now_s + 1, spent_s=2.0, good=True)


def test_every_prefetch_ends_once() -> None:
    """Used in time, read too early, read too late, evicted, failed, never read."""
    account = Account(Kind.REFRESH)
    for name in (b"used", b"expired", b"evicted", b"never"):
        issue(account, name, 1000.0)
    for name in (b"late", b"never done"):
        issue(account, name, 1000.0, done=False)
    issue(account, b"failed", 1000.0, done=False)
    account.was_read(b"used", 1050.0, 1050.0)
    account.was_read(b"used", 1060.0, 1060.0)  # only the first read counts
    account.was_read(b"late", 1000.5, 1001.0)
    account.was_read(b"late", 1060.0, 1061.0)
    assert not account.was_done(b"late", 1002.0, spent_s=2.0, good=True)
    account.was_read(b"never done", 1000.5, 1001.0)
    account.was_read(b"expired", 1101.0, 1101.0)
    account.was_evicted(b"evicted", 1010.0)
    account.was_done(b"failed", 1002.0, spent_s=0.5, good=False)
    account.settle(1100.0, patience_s=15.0)
    assert b"never" in account.out
    account.settle(1116.0, patience_s=15.0)
    assert not account.out
    found = account.as_dict()
    assert found["issued"] == 7
    assert (found["used"], found["late"], found["wasted"], found["failed"]) == (1, 2, 3, 1)
    assert (found["seconds_saved"], found["seconds_wasted"], found["bytes_wasted"]) == (2.0, 6.0, 30)
    assert found["precision"] == 1 / 6


def test_a_read_before_the_prefetch_uses_nothing() -> None:
    """Patterns are told of late: an older visit must not count."""
    account = Account(Kind.REFRESH)
    issue(account, b"k", 1000.0)
    account.was_read(b"k", 990.0, 1002.0)
    assert account.used == 0
    assert b"k" in account.out


def test_a_kind_that_does_not_pay_rests_probes_and_comes_back() -> None:
    """Waste switches it off; a rest doubles when the probe is in vain, and a good probe brings it back."""
    account = Account(Kind.REFRESH)
    now_s = 0.0
    for number in range(OUTCOMES_MIN):
        assert account.allowance(now_s) > 0
        issue(account, b"%d" % number, now_s)
        account.was_evicted(b"%d" % number, now_s)
    assert account.resting
    assert account.allowance(now_s + REST_S - 1) == 0
    now_s += REST_S
    assert account.allowance(now_s) == PROBES
    for number in range(PROBES):
        issue(account, b"%d" % number, now_s)
        account.was_evicted(b"%d" % number, now_s)
    assert account.resting
    assert account.allowance(now_s + 2 * REST_S - 1) == 0
    now_s += 2 * REST_S
    assert account.allowance(now_s) == PROBES
    for number in range(PROBES):
        issue(account, b"%d" % number, now_s)
        account.was_read(b"%d" % number, now_s + 50, now_s + 50)
    assert not account.resting
    assert account.allowance(now_s) > PROBES
    assert account.switched_off == 2


def test_a_kind_that_is_turned_off_issues_nothing() -> None:
    """Each kind can be switched off."""
    assert Account(Kind.WAKE, enabled=False).allowance(0.0) == 0


def test_budgets_hold() -> None:
    """Tasks at once, seconds a minute, and a share of what readers compute."""
    budget = Budget(Limits(tasks_max=2, seconds_a_minute=60, demand_share_max=0.5, floor_s=10))
    budget.pass_to(0.0)
    assert budget.may_compute(0.1, LOADER)
    budget.ended(LOADER)
    assert budget.may_compute(4.9, LOADER)
    assert budget.may_compute(5.0, LOADER)
    assert not budget.may_compute(0.0, LOADER)  # two tasks run
    budget.ended(LOADER)
    assert not budget.may_compute(1.0, LOADER)  # the floor is used up, and no reader has computed
    budget.demand(1000.0)
    assert budget.may_compute(60.0, LOADER)
    budget.ended(LOADER)
    assert not budget.may_compute(1.0, LOADER)  # this minute's seconds are begun
    budget.pass_to(60.0)
    assert budget.may_compute(1.0, LOADER)
    budget.ended(LOADER)
    budget.pass_to(60.0 + 20 * DAY_S)  # what readers computed long ago gives no right any more
    assert not budget.may_compute(20.0, LOADER)


def test_wakes_are_bounded_by_the_minute() -> None:
    """No more than the limit in one minute."""
    budget = Budget(Limits(wakes_a_minute=10))
    budget.pass_to(0.0)
    assert [budget.may_wake() for _ in range(12)].count(True) == 10
    budget.pass_to(6.0)
    assert [budget.may_wake() for _ in range(3)].count(True) == 1


def test_trust_is_earned_by_class() -> None:
    """Nothing is believed at first; steady keys are after a few good outcomes, loose ones less, other loaders' not."""
    trust = Trust()

    def like(variation: float, *, loader: int = 0, seen: int = 5, mean_s: float = 300.0) -> np.ndarray:
        return classes_of(
            np.array([loader], np.int16), np.array([seen], np.uint8), np.array([variation]), np.array([mean_s])
        )

    steady, loose = like(0.01), like(0.4)
    assert trust.share(steady)[0] < 0.5
    for _ in range(5):
        trust.learn(steady, np.array([True]))
    assert trust.share(steady)[0] > 0.9
    assert trust.share(like(0.01, seen=6))[0] > trust.share(loose)[0]
    assert trust.share(like(0.01, loader=7))[0] < 0.5
    for _ in range(20):
        trust.learn(loose, np.array([False]))
    assert trust.share(loose)[0] < 0.1
    assert trust.share(steady)[0] > 0.6
    for _ in range(20):
        trust.learn(steady, np.array([False]))
    assert trust.share(steady)[0] < 0.4


def test_what_whole_seconds_hide_is_no_steadiness() -> None:
    """Three visits within three seconds are not in the class of three visits within ten minutes."""

    def like(mean_s: float) -> int:
        columns = (np.array([0], np.int16), np.array([3], np.uint8), np.array([0.0]), np.array([mean_s]))
        return int(classes_of(*columns)[0])

    assert like(1.0) > like(4.0) > like(10.0) > like(300.0) == like(3000.0)
