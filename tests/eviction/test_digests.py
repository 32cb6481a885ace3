"""The checksums of keys."""

from __future__ import annotations

import random
from zlib import crc32

from stratacache.node.policies.base import evictable
from stratacache.node.policies.intelligent.digests import Digests


def test_digests_are_those_of_zlib() -> None:
    """For keys of every length and seeds of every size, computed here, chosen by length, or in a batch."""
    draw = random.Random(1)
    for seed in (0, 7, 2**31, 2**32 - 1, draw.getrandbits(32)):
        digests = Digests(seed)
        keys = [draw.randbytes(length) for length in range(150)]
        expected = [crc32(key, seed) for key in keys]
        assert [digests.computed(key) for key in keys] == expected
        assert [digests.of(key) for key in keys] == expected
        assert list(digests.of_all([evictable(key, 1) for key in keys])) == expected
