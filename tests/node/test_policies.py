"""One contract suite over all policies, each against a model that scans all entries."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratacache.node.errors import UsageError
from stratacache.node.policies import make_policy
from stratacache.node.policies.base import NEVER_MS, Evictable, evictable
from stratacache.node.types import EvictionPolicy

EXACT = [policy for policy in EvictionPolicy if policy is not EvictionPolicy.INTELLIGENT]
ALL = list(EvictionPolicy)


class Model:
    """A policy that remembers everything and scans it for each victim."""

    def __init__(self, policy: EvictionPolicy) -> None:
        self.policy = policy
        self.moment = 0
        self.put_at: dict[Evictable, int] = {}
        self.used_at: dict[Evictable, int] = {}
        self.uses: dict[Evictable, int] = {}

    def insert(self, entry: Evictable) -> None:
        self.moment += 1
        self.put_at[entry] = self.used_at[entry] = self.moment
        self.uses[entry] = 1

    def hit(self, entry: Evictable) -> None:
        if entry in self.put_at:
            self.moment += 1
            self.used_at[entry] = self.moment
            self.uses[entry] += 1

    def remove(self, entry: Evictable) -> None:
        del self.put_at[entry], self.used_at[entry], self.uses[entry]

    def victim(self) -> Evictable:
        ranks: dict[EvictionPolicy, Callable[[Evictable], tuple[int, int]]] = {
            EvictionPolicy.LRU: lambda entry: (0, self.used_at[entry]),
            EvictionPolicy.FIFO: lambda entry: (0, self.put_at[entry]),
            EvictionPolicy.LFU: lambda entry: (self.uses[entry], self.used_at[entry]),
            EvictionPolicy.TTL: lambda entry: (entry.expires_ms, self.used_at[entry]),
            EvictionPolicy.SIZE_BASED: lambda entry: (-entry.size, self.used_at[entry]),
        }
        return min(self.put_at, key=ranks[self.policy])


STEPS = st.lists(
    st.tuples(st.sampled_from(["insert", "hit", "hit", "remove", "update", "rewrite", "evict"]), st.integers(0, 30)),
    max_size=200,
)


@pytest.mark.parametrize("kind", EXACT, ids=lambda kind: kind.name)
@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_policy_agrees_with_a_scan(kind: EvictionPolicy, steps: list[tuple[str, int]]) -> None:
    """Any sequence of operations gives the victims that an exhaustive scan finds."""
    policy = make_policy(kind, seed=1)
    model = Model(kind)
    held: list[Evictable] = []
    for number, (step, choice) in enumerate(steps):
        if step == "insert":
            expires_ms = NEVER_MS if choice % 4 == 0 else 1000 + choice % 7
            entry = evictable(b"%d" % number, 1 + choice % 5, expires_ms=expires_ms)
            held.append(entry)
            policy.on_insert(entry)
            model.insert(entry)
        elif not held:
            continue
        elif step == "hit":
            entries = [held[(choice + extra) % len(held)] for extra in range(choice % 4)]
            policy.on_hits(entries)
            for entry in entries:
                model.hit(entry)
        elif step == "remove":
            entry = held.pop(choice % len(held))
            policy.on_remove(entry)
            model.remove(entry)
            policy.on_hits([entry])  # a hit that is told late must be harmless
        elif step == "update" and kind in (EvictionPolicy.TTL, EvictionPolicy.SIZE_BASED):
            entry = held[choice % len(held)]
            entry.size = 1 + choice % 6
            entry.expires_ms = 1000 + choice % 9
            policy.on_update(entry)
            model.moment += 1
            model.used_at[entry] = model.moment
        elif step == "rewrite":
            entry = held[choice % len(held)]
            grown, entry.size = 1 + choice % 3 - entry.size, 1 + choice % 3
            entry.expires_ms = 1000 + choice % 9
            policy.on_rewrite(entry, grown)
            model.remove(entry)
            model.insert(entry)
        elif step == "evict":
            expected = model.victim()
            assert policy.pop_victim() is expected
            model.remove(expected)
            held.remove(expected)
        policy.validate()
        assert len(policy) == len(held)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
def test_every_policy_gives_up_each_entry_once(kind: EvictionPolicy) -> None:
    """What was inserted and not removed is given up exactly once; slots are free afterwards."""
    policy = make_policy(kind, seed=3, entries_hint=1000)
    rng = random.Random(5)
    entries = [evictable(b"%d" % number, rng.randrange(1, 100)) for number in range(1000)]
    for entry in entries:
        policy.on_insert(entry)
        policy.on_hits(rng.choices(entries, k=2) if len(policy) == 1000 else [entry])
    for entry in entries[::3]:
        policy.on_remove(entry)
    policy.on_hits(entries)
    policy.validate()
    left = len(policy)
    given_up = [policy.pop_victim() for _ in range(left)]
    assert len(policy) == 0
    assert {id(entry) for entry in given_up} == {id(entry) for entry in entries} - {id(e) for e in entries[::3]}
    policy.validate()
    policy.on_insert(entries[0])
    assert policy.pop_victim() is entries[0]


@pytest.mark.parametrize("kind", EXACT, ids=lambda kind: kind.name)
def test_every_fixed_policy_admits_every_newcomer(kind: EvictionPolicy) -> None:
    """Only INTELLIGENT may send a newcomer away."""
    assert make_policy(kind).admits(b"a", 10**9, 0.0, 10**9)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
def test_seed_defect_every_eviction_scans_all_entries(kind: EvictionPolicy) -> None:
    """Seed defect: LFU, TTL, SIZE and INTELLIGENT scanned all entries for every eviction.

    A scan of 50,000 entries takes milliseconds; 2,000 evictions and inserts by scanning would take minutes.
    """
    policy = make_policy(kind, seed=1, entries_hint=50_000)
    for number in range(50_000):
        policy.on_insert(evictable(b"%d" % number, number % 977, expires_ms=1_000_000 + number % 1013))
    start = time.process_time()
    for number in range(2000):
        policy.pop_victim()
        policy.on_insert(evictable(b"n%d" % number, number % 977, expires_ms=1_000_000 + number % 1013))
    assert time.process_time() - start < 2.0


def test_rings_of_ranks_do_not_pile_up() -> None:
    """A stream of ever new expiries must not leave its ranks behind."""
    policy = make_policy(EvictionPolicy.TTL)
    for number in range(20_000):
        entry = evictable(b"%d" % number, 1, expires_ms=1 + number)
        policy.on_insert(entry)
        policy.on_remove(entry)
    assert len(policy._rings) < 200  # type: ignore[attr-defined]


def test_unknown_policy_is_refused() -> None:
    """The error names what there is."""
    with pytest.raises(UsageError, match="lru"):
        make_policy("clock")  # type: ignore[arg-type]
