"""INTELLIGENT as a whole: contract under random calls, determinism, memory, adaptation, admission."""

from __future__ import annotations

import random
import tracemalloc

import numpy as np
import pytest

from benchmarks.ai_traces import zipf
from benchmarks.eviction_shift import measure
from benchmarks.replay import replay, replay_policy
from benchmarks.traces import make_trace
from stratacache.node.policies.base import Evictable, evictable
from stratacache.node.policies.intelligent import IntelligentPolicy
from stratacache.node.policies.intelligent.stamps import LEVEL_MASK


@pytest.mark.parametrize("seed", range(5))
def test_random_calls_keep_the_internals_whole(seed: int) -> None:
    """Insertions, hits (also of what has left), replacements, removals and evictions in any order."""
    draw = random.Random(seed)
    policy = IntelligentPolicy(seed=seed)
    held: list[Evictable] = []
    left: list[Evictable] = []
    for number in range(6_000):
        step = draw.random()
        if step < 0.45 or not held:
            size = draw.choice([1, 100, 5_000])
            policy.admits(b"k%d" % (number % 900), size, 1.0, size)
            entry = evictable(b"k%d" % (number % 900), size, draw.random())
            policy.on_insert(entry)
            held.append(entry)
        elif step < 0.7:
            policy.on_hits(draw.choices(held, k=5) + left[-2:])
        elif step < 0.75:
            entry = draw.choice(held)
            grown, entry.size = 7 - entry.size, 7
            policy.on_rewrite(entry, grown)
        elif step < 0.78:
            entry = draw.choice(held)
            entry.size += 3
            policy.on_update(entry)
        elif step < 0.85:
            left.append(held.pop(draw.randrange(len(held))))
            policy.on_remove(left[-1])
        else:
            left.append(policy.pop_victim())
            held.remove(left[-1])
        if number % 500 == 0:
            policy.validate()
            assert len(policy) == len(held)
    while held:
        held.remove(policy.pop_victim())
    assert len(policy) == 0


def test_same_seed_same_misses() -> None:
    """Two runs miss at the same requests."""
    draw = np.random.Generator(np.random.PCG64(2))
    trace = make_trace("zipf", zipf(draw, 8_000, 2_000, 0.9))
    runs = [replay(trace, "intelligent", 150, in_bytes=False, seed=7) for _ in range(2)]
    assert (runs[0] == runs[1]).all()


def test_memory_an_entry_stays_within_40_bytes() -> None:
    """Stamps, rows, ghosts and shadows together, in a full cache of 100,000 entries after as many evictions."""
    count = 100_000
    entries = [evictable(b"%016x" % number, 100) for number in range(2 * count)]
    tracemalloc.start()
    policy = IntelligentPolicy()
    try:
        for entry in entries[:count]:
            policy.on_insert(entry)
        for number, entry in enumerate(entries[count:]):
            policy.pop_victim()
            policy.on_insert(entry)
            if number % 3 == 0:
                policy.on_hits((entry,))
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert used / count <= 40, f"{used / count:.1f} bytes an entry"


def test_a_loop_larger_than_the_cache_gets_hits() -> None:
    """LRU has no hit at all in a loop of twice its size; the chooser finds a function that holds one half of it."""
    trace = make_trace("loop", np.arange(12_000) % 400)
    ours = replay(trace, "intelligent", 200, in_bytes=False)
    assert replay(trace, "engine-lru", 200, in_bytes=False).mean() == 1.0
    assert ours[6_000:].mean() < 0.53


@pytest.mark.parametrize("share", [0.54, 0.3])
def test_after_another_workload_a_loop_gets_what_it_gets_alone(share: float) -> None:
    """The best any policy can do is to hold a part of the loop. Such parts were lost to entries of the workload before.

    They never came back, but no key of the loop was remembered until its next use; and where a tick more or less makes
    another interval of it, the loop's newcomers drove out its residents.
    """
    size = 1_000
    draw = np.random.Generator(np.random.PCG64(4))
    before = zipf(draw, 20 * size, 10 * size, 1.0)
    loop = 10**6 + np.arange(40 * size) % int(size / share)
    ours = replay(make_trace("change", np.concatenate([before, loop])), "intelligent", size, in_bytes=False)
    assert 1 - ours[35 * size :].mean() > share - 0.03


def test_it_follows_a_workload_that_changes() -> None:
    """10 % after each change it is within 2 points of the best of ten fixed policies for the rest of that part."""
    pytest.importorskip("libcachesim")
    for part in measure(seed=1):
        assert part.ours <= part.best + 0.02, part


def test_a_key_that_the_shadows_still_hold_is_no_stranger_when_it_comes_back() -> None:
    """Its uses count on, though the cache itself has forgotten it."""
    policy = IntelligentPolicy()
    for number in range(50):
        policy.on_insert(evictable(b"other %d" % number, 1, 1.0))
    entry = evictable(b"hot", 1, 1.0)
    policy.on_insert(entry)
    for _ in range(20):
        policy.on_hits([entry] * 10)
    policy.on_remove(entry)
    back, stranger = evictable(b"hot", 1, 1.0), evictable(b"new", 1, 1.0)
    policy.on_insert(back)
    policy.on_insert(stranger)
    assert back.stamp & LEVEL_MASK > 3
    assert stranger.stamp & LEVEL_MASK == 1


def test_a_large_newcomer_of_little_worth_is_refused() -> None:
    """It would push out many entries worth more; one of their size always gets in."""
    policy = IntelligentPolicy()
    for number in range(200):
        entry = evictable(b"small%d" % number, 100, cost_s=5.0)
        policy.on_insert(entry)
        policy.on_hits((entry,))
    assert not policy.admits(b"large", 10_000, 0.001, 10_000)
    assert policy.admits(b"usual", 100, 0.001, 100)
    assert policy.admits(b"dear", 10_000, 10**6, 10_000)


def test_a_large_newcomer_costs_no_entry_that_is_worth_more() -> None:
    """Where the cheap entries do not make enough room for it, it is refused; the dear ones stay."""
    policy = IntelligentPolicy()
    held = [evictable(b"%d" % number, 100, cost_s=0.001 if number % 11 == 0 else 10.0) for number in range(3_300)]
    for entry in held:
        policy.on_insert(entry)
    policy.on_hits(held)
    for number in range(40):
        needed = 25_000
        if policy.admits(b"large%d" % number, needed, 25.0, needed):
            while needed > 0:
                victim = policy.pop_victim()
                assert victim.cost_s < 1, "a dear entry has left"
                needed -= victim.size
            policy.on_insert(evictable(b"large%d" % number, 25_000, 25.0))


def test_dear_entries_outlive_cheap_ones() -> None:
    """With equal use and size, what costs more to compute is missed less."""
    draw = np.random.Generator(np.random.PCG64(5))
    keys = draw.integers(0, 1_000, 20_000)
    trace = make_trace("costs", keys, costs=np.where(keys % 2, 10.0, 0.1))
    misses = replay_policy(trace, IntelligentPolicy(), 300, in_bytes=False)
    dear = trace.costs[trace.keys] > 1
    assert misses[dear].mean() < misses[~dear].mean() - 0.2
