"""The table of what is known of sampled keys, and the miniature caches over it."""

from __future__ import annotations

import random

import pytest
from librt.vecs import vec
from mypy_extensions import i64, u8

from stratacache.node.policies.intelligent.miniature import Miniature
from stratacache.node.policies.intelligent.sample import Sample
from stratacache.node.policies.intelligent.scores import all_scores
from stratacache.node.policies.intelligent.shadows import Shadows
from stratacache.node.policies.intelligent.stamps import first_use, value_bits

HIGHEST = 0xFFFFFFFF


def test_it_knows_what_a_dict_would_know() -> None:
    """Keys come, are forgotten and come back, at random; hashes of all lengths, many of which meet in the index."""
    draw = random.Random(5)
    sample = Sample()
    known: dict[int, tuple[int, int]] = {}
    digests = [*range(300), *(number << 16 for number in range(300)), HIGHEST, HIGHEST - 64]
    for round_ in range(5_000):
        digest = draw.choice(digests)
        slot = sample.find(digest)
        assert (slot >= 0) == (digest in known)
        if slot < 0:
            known[digest] = (round_, draw.randrange(1000))
            slot = sample.add(digest, *known[digest])
        assert (sample.stamps[slot], sample.sizes[slot], sample.held[slot]) == (*known[digest], 0)
        if round_ % 997 == 0:
            sample.forget()
            oldest = sorted(known, key=lambda digest: known[digest][0])
            for digest in oldest[: len(oldest) // 2 + 1]:
                del known[digest]
        assert len(sample) == len(known)
    sample.validate()


def test_what_is_held_is_not_forgotten() -> None:
    """However old it is."""
    sample = Sample()
    for digest in range(100):
        slot = sample.add(digest, digest, 1)
        if digest % 2:
            sample.held[slot] = u8(4)
    for _ in range(10):
        sample.forget()
    assert [digest for digest in range(100) if sample.find(digest) >= 0] == list(range(1, 100, 2))


def test_shrinking_keeps_the_keys_below_the_limit_and_says_where_they_are() -> None:
    """With stamp, size and who holds them; those of forgotten keys are gone."""
    sample = Sample()
    before = [sample.add(digest, 7 * digest, digest + 1) for digest in range(0, HIGHEST, HIGHEST // 50)]
    for slot in before[20:]:
        sample.held[slot] = u8(3)
    sample.forget()  # the older half of the first 20, and one more
    moved = sample.shrink(HIGHEST // 2)
    kept = {digest: sample.find(digest) for digest in range(0, HIGHEST, HIGHEST // 50) if sample.find(digest) >= 0}
    assert sorted(kept) == [number * (HIGHEST // 50) for number in range(11, 26)]
    for digest, slot in kept.items():
        assert (sample.stamps[slot], sample.sizes[slot]) == (7 * digest, min(digest + 1, 2**31 - 1))
        assert sample.held[slot] == (3 if digest >= 20 * (HIGHEST // 50) else 0)
    assert [new for new in moved if new >= 0] == list(range(15))
    sample.validate()


def test_a_miniature_holds_what_fits_and_the_sample_says_who_holds_what() -> None:
    """Sizes differ by a factor of a thousand; its queue grows, and turns round many times."""
    draw = random.Random(8)
    sample = Sample()
    small = Miniature(all_scores()[0], 0)
    large = Miniature(all_scores()[0], 6)
    for number in range(3_000):
        size = draw.choice([1, 10, 100, 1000])
        slot = sample.add(number, first_use(1 + number // 50, value_bits(1.0, size)), size)
        small.take(sample, slot, 2_000, 4, 1 + number // 50)
        large.take(sample, slot, 40_000, 8, 1 + number // 50)
    for miniature, bytes_max, number in ((small, 2_000, 0), (large, 40_000, 6)):
        held = list(miniature)
        assert len(held) == len(set(held)) == len(miniature)
        assert sum(sample.sizes[slot] for slot in held) == miniature.bytes_held <= bytes_max * 49 // 48
        assert sorted(held) == [slot for slot in range(3_000) if sample.held[slot] >> number & 1]
    assert len(large) > 2 * len(small)
    assert sum(slot for slot in large) / len(large) > 2_000  # recent ones, by this score


def test_a_larger_cache_follows_half_as_many_keys_and_nothing_is_lost_on_the_way() -> None:
    """Three halvings; what is still held was held before, and the invariants hold all the time."""
    shadows = Shadows(all_scores())
    draw = random.Random(3)
    for number in range(120_000):
        digest = draw.randrange(1 << 32)
        if digest < shadows.limit:
            shadows.request(digest, 100, 1.0, float("inf") if number < 40_000 else 4_000_000.0)
        if number % 20_000 == 0:
            shadows.validate()
    shadows.validate()
    assert shadows.divisor == 16
    assert shadows.limit == 1 << 28


def test_more_functions_than_bits_are_refused() -> None:
    """The limit is named."""
    with pytest.raises(ValueError, match="7 can be followed at most"):
        Shadows([*all_scores(), all_scores()[0]])


def test_a_slot_that_is_gone_leaves_a_miniature_too() -> None:
    """Halving maps its queue and its newcomers."""
    sample = Sample()
    miniature = Miniature(all_scores()[0], 2)
    for digest in range(10):
        miniature.take(sample, sample.add(digest, 1, 5), 10_000, 4, 1)
    moved = sample.shrink(6)
    miniature.move(sample, moved)
    assert sorted(miniature) == list(range(6))
    assert miniature.bytes_held == 30
    assert list(vec[i64](moved)) == [0, 1, 2, 3, 4, 5, -1, -1, -1, -1]
