"""One suite over every transport: embedded, one shard, three, TLS, near cache off and on; blocking and asyncio."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pytest

from stratacache.client import MISS, EncodingError, Fill, LimitError, UsageError

from .conftest import over_every_transport
from .servers import wait_until

pytestmark = over_every_transport

VALUES = [b"", b"x", "text é", "", None, True, 0, 1.5, [1, [2]], {"a": (1, 2)}, {1, 2}, dt.date(2024, 1, 2)]


def test_values_come_back_as_they_were(cache: Any) -> None:
    """Every value equals what was put, type included; a cached None is a hit."""
    for number, value in enumerate(VALUES):
        assert cache.put(f"v{number}", value) is True
    for number, value in enumerate(VALUES):
        for _ in range(2):
            found = cache.get(f"v{number}")
            assert found == value
            assert type(found) is type(value)


def test_arrays_are_read_only_and_exact(cache: Any) -> None:
    """Small and large arrays come back equal; nobody can write into what is cached."""
    for size in (0, 3, 1536, 3_000_000):
        array = np.arange(size, dtype=np.float32)
        assert cache.put("array", array)
        for _ in range(2):
            found = cache.get("array")
            assert found.dtype == array.dtype
            assert np.array_equal(found, array)
            assert not found.flags.writeable
            with pytest.raises(ValueError, match=r"read-only|WRITEABLE"):
                found.setflags(write=True)


def test_miss_is_miss_or_the_default(cache: Any) -> None:
    """A key that was never put: MISS, the caller's default, absent from get_many, no ttl, not contained."""
    assert cache.get("absent") is MISS
    assert cache.get("absent", None) is None
    assert cache.get_many(["absent"]) == {}
    assert cache.get_many([]) == {}
    assert cache.ttl("absent") is MISS
    assert cache.contains("absent") is False
    assert cache.touch("absent", ttl=5) is False
    assert cache.invalidate("absent") == 0


def test_many_keys_in_one_call(cache: Any) -> None:
    """Two thousand entries, text and bytes keys, repeats, misses among them."""
    items: dict[Any, Any] = {f"m{i}": {"i": i} for i in range(2000)}
    assert cache.put_many(items, tags=["many"]) == 2000
    found = cache.get_many([*items, "absent", "m1", "m1"])
    assert found == items
    assert list(found) == list(items)
    assert cache.put_many({b"raw\xff": 1, b"\x00": 2}) == 2
    assert cache.get_many([b"raw\xff", b"\x00"]) == {b"raw\xff": 1, b"\x00": 2}
    assert cache.put_many({}) == 0
    assert cache.invalidate_many([f"m{i}" for i in range(0, 2000, 2)]) == 1000
    assert len(cache.get_many(items)) == 1000


def test_large_payloads_among_small_ones(cache: Any) -> None:
    """Values beyond every buffer size, one by one and in one call."""
    items = {f"big{i}": bytes([i]) * (700_000 * i + 1) for i in range(6)}
    assert cache.put_many(items) == len(items)
    assert cache.get_many(items) == items
    assert cache.get("big5") == items["big5"]


def test_vectors_of_one_model_in_one_call(cache: Any) -> None:
    """What batches mostly hold: arrays of one shape, one after the other, misses among them."""
    vectors = {f"v{i}": np.full(1536, i, dtype=np.float32) for i in range(120)}
    assert cache.put_many(vectors) == len(vectors)
    for _ in range(2):
        found = cache.get_many([*list(vectors)[:50], "absent", *list(vectors)[50:]])
        assert list(found) == list(vectors)
        assert all(np.array_equal(found[key], vector) for key, vector in vectors.items())
        assert not any(vector.flags.writeable for vector in found.values())


def test_ttl_and_touch(cache: Any) -> None:
    """ttl tells the seconds left (within the jitter of 5 %), touch sets them anew, an entry expires."""
    cache.put("forever", 1)
    assert cache.ttl("forever") is None
    cache.put("k", 1, ttl=dt.timedelta(minutes=10))
    assert 0.94 * 600 <= cache.ttl("k") <= 1.06 * 600
    assert cache.touch("k", ttl=100) is True
    assert 99 <= cache.ttl("k") <= 100
    assert cache.touch("k", ttl=None) is True
    assert cache.ttl("k") is None
    cache.put("short", 1, ttl=0.05)
    cache.get("short")
    wait_until(lambda: cache.get("short") is MISS, 5, "expiry")


def test_each_entry_of_a_batch_has_a_jitter_of_its_own(cache: Any) -> None:
    """Entries that were put together do not expire together; each stays within 5 % of what was asked for."""
    stored = {f"put{number}": number for number in range(20)}
    assert cache.put_many(stored, ttl=1000) == 20
    computed = [f"computed{number}" for number in range(20)]
    cache.get_or_compute_many(computed, lambda keys: [Fill(value=1, ttl=1000) for _ in keys])
    for keys in (list(stored), computed):
        left = [cache.ttl(key) for key in keys]
        assert all(930 < each < 1051 for each in left)
        assert max(left) - min(left) > 10, "twenty draws from 100 s lie this close once in 10**16 runs"


def test_namespaces_keep_apart(cache: Any) -> None:
    """The same key in three namespaces is three entries; a bound view and the argument name the same one."""
    docs = cache.namespace("docs")
    cache.put("a:b", 1)
    docs.put("a:b", 2)
    cache.put("a:b", 3, namespace="other")
    assert (cache.get("a:b"), docs.get("a:b"), cache.get("a:b", namespace="other")) == (1, 2, 3)
    assert cache.get("a:b", namespace="docs") == 2
    assert docs.get("a:b", namespace="default") == 1
    assert docs.invalidate_namespace() == 1
    assert (cache.get("a:b"), docs.get("a:b"), cache.get("a:b", namespace="other")) == (1, MISS, 3)
    assert cache.invalidate_namespace("other") == 1


def test_tags_remove_what_carries_them(cache: Any) -> None:
    """invalidate_tags removes the union of the tags in all namespaces, and nothing else."""
    cache.put("x", 1, tags={"red", "round"})
    cache.put("y", 2, tags=["blue"], namespace="n")
    cache.put("z", 3, tags=["green"])
    assert cache.invalidate_tags(["nobody"]) == 0
    assert cache.invalidate_tags([]) == 0
    assert cache.invalidate_tags(["red", "blue"]) == 2
    assert cache.get("x") is MISS
    assert cache.get("y", namespace="n") is MISS
    assert cache.get("z") == 3
    cache.put("x", 4)
    assert cache.invalidate_tags(["red"]) == 0, "an overwrite carries its own tags only"
    assert cache.clear() == 2
    assert cache.get("z") is MISS


def test_wrong_calls_are_told_at_once(cache: Any) -> None:
    """Each names the thing and the way out, before anything is sent, and nothing is stored."""
    with pytest.raises(LimitError, match="key is empty"):
        cache.get("")
    with pytest.raises(LimitError, match="the limit is 65536"):
        cache.put("k" * 70_000, 1)
    assert cache.put("k" * 65_536, 1) is True
    assert cache.get("k" * 65_536) == 1
    for number in (5, None):
        with pytest.raises(UsageError, match="give text or bytes"):
            cache.put(number, 1)
    with pytest.raises(UsageError, match="give text or bytes"):
        cache.get_many(["a", 5])
    with pytest.raises(UsageError, match="UTF-8"):
        cache.get_many(["a", "\ud800"])
    with pytest.raises(UsageError, match="above 0"):
        cache.put("k", 1, ttl=-1)
    with pytest.raises(UsageError, match="above 0"):
        cache.touch("k", ttl=0)
    with pytest.raises(UsageError, match="list or a set of tags"):
        cache.put("k", 1, tags="tag")
    with pytest.raises(UsageError, match="single key"):
        cache.get_many("abc")
    with pytest.raises(UsageError, match="colon"):
        cache.get("k", namespace="a:b")
    with pytest.raises(UsageError, match="cost_s"):
        cache.put("k", 1, cost_s=-1)
    with pytest.raises(UsageError, match="codec"):
        cache.put("k", 1, codec="nope")
    with pytest.raises(EncodingError, match=r"inside.*\[1\]|\[.inside.\]\[1\]"):
        cache.put("k", {"inside": [1, object()]})
    with pytest.raises(UsageError, match="mapping"):
        cache.put_many(["k"])
    assert cache.get("k") is MISS


def test_a_cached_value_is_safe_from_its_readers(cache: Any) -> None:
    """Changing what was put or what was given changes nothing that is cached."""
    value = {"list": [1, 2], "inner": {"a": [3]}}
    cache.put("safe", value)
    value["list"].append(99)
    for _ in range(4):
        found = cache.get("safe")
        assert found == {"list": [1, 2], "inner": {"a": [3]}}
        found["list"].append(100)
        found["inner"]["a"].clear()
        del found["inner"]


def test_stats_and_ping(cache: Any) -> None:
    """Counters of this client, a report from each shard, a round trip to each."""
    before = cache.stats()["client"]
    cache.put("s", 1)
    cache.get("s")
    cache.get("absent")
    stats = cache.stats()
    assert stats["client"]["puts"] - before["puts"] == 1
    assert stats["client"]["hits"] - before["hits"] == 1
    assert stats["client"]["misses"] - before["misses"] == 1
    assert stats["missing"] == []
    assert sum(shard["entries"] for shard in stats["shards"].values()) >= 1
    assert set(cache.ping()) == set(stats["shards"])
    assert set(cache.patterns()) == set(stats["shards"])


def test_a_closed_client_says_so(cache: Any, open_cache: Any) -> None:
    """Closing twice is harmless; using it afterwards is a clear error."""
    del open_cache
    other = cache.namespace("n")
    other.close() if not hasattr(other, "run") else other.run(other.client.close())
    with pytest.raises(UsageError, match="closed"):
        other.get("k")
    assert cache.get("k") is MISS, "a bound view closes nothing but itself"
