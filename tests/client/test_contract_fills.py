"""Computing what is missing, over every transport: once, by its options, and never past an invalidation."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from stratacache.client import MISS, EncodingError, Fill, LimitError, UsageError

from .conftest import over_every_transport

pytestmark = over_every_transport


def test_get_or_compute_runs_once(cache: Any) -> None:
    """The second call takes the cached value; threads that ask at once share one run."""
    runs: list[int] = []

    def compute() -> str:
        runs.append(1)
        time.sleep(0.05)
        return "value"

    threads = [threading.Thread(target=lambda: cache.get_or_compute("goc", compute)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.get_or_compute("goc", compute) == "value"
    assert len(runs) == 1


def test_get_or_compute_options(cache: Any) -> None:
    """TTL and tags reach the entry; a Fill overrides them, keeps a value out, or stores another one."""
    cache.get_or_compute("plain", lambda: 1, ttl=600, tags=["t"])
    assert 500 < cache.ttl("plain") < 700
    assert cache.get_or_compute("fill", lambda: Fill(value=2, ttl=60, tags=["u"]), ttl=600) == 2
    assert 50 < cache.ttl("fill") < 70
    assert cache.get_or_compute("kept out", lambda: Fill(value=3, store=False)) == 3
    assert cache.get("kept out") is MISS
    assert cache.get_or_compute("other", lambda: Fill(value=4, stored="four")) == 4
    assert cache.get("other") == "four"
    assert cache.invalidate_tags(["t"]) == 1
    assert cache.invalidate_tags(["u"]) == 1


def test_get_or_compute_refresh(cache: Any) -> None:
    """refresh=True computes although a value is cached, and stores the new one."""
    cache.put("r", "old")
    assert cache.get_or_compute("r", lambda: "new") == "old"
    assert cache.get_or_compute("r", lambda: "new", refresh=True) == "new"
    assert cache.get("r") == "new"


def test_an_error_of_compute_is_the_callers(cache: Any) -> None:
    """What compute raises is raised; nothing is stored, and the next call computes at once."""

    def fail() -> int:
        raise KeyError("mine")

    begun = time.monotonic()
    with pytest.raises(KeyError, match="mine"):
        cache.get_or_compute("bad", fail)
    assert cache.get("bad") is MISS
    assert cache.get_or_compute("bad", lambda: 1) == 1
    with pytest.raises(KeyError, match="mine"):
        cache.get_or_compute_many(["bad2"], lambda keys: fail())
    assert cache.get_or_compute_many(["bad2"], lambda keys: keys) == {"bad2": "bad2"}
    assert time.monotonic() - begun < 10, "the leases were given back"


def test_a_result_that_cannot_be_stored_gives_its_lease_back(cache: Any) -> None:
    """An unencodable result is an error of this call only: the next caller does not wait for a lease that hangs."""
    begun = time.monotonic()
    for _ in range(2):
        with pytest.raises(EncodingError):
            cache.get_or_compute("odd", object)
        with pytest.raises(EncodingError):
            cache.get_or_compute_many(["odd1", "odd2"], lambda keys: ["fine", object()])
        with pytest.raises(EncodingError):
            cache.get_or_compute_many(["odd3"], lambda keys: [Fill(value=object(), ttl=9)])
    assert cache.get_or_compute("odd", lambda: 1) == 1
    assert time.monotonic() - begun < 10, "the leases were given back"


def test_get_or_compute_many_computes_misses_once(cache: Any) -> None:
    """One call with each distinct missing key; a sequence or a mapping; the wrong number is an error."""
    calls: list[list[str]] = []

    def upper(keys: list[str]) -> list[str]:
        calls.append(list(keys))
        return [key.upper() for key in keys]

    cache.put("b", "cached")
    wanted = {"a": "A", "b": "cached", "c": "C"}
    assert cache.get_or_compute_many(["a", "b", "a", "c"], upper, tags=["m"]) == wanted
    assert calls == [["a", "c"]]
    assert cache.get_or_compute_many(["a", "b", "c"], upper) == wanted
    assert len(calls) == 1
    assert cache.get_or_compute_many(["d"], lambda keys: {key: Fill(value=1, ttl=60) for key in keys}) == {"d": 1}
    assert 50 < cache.ttl("d") < 70
    with pytest.raises(UsageError, match="1 values for 2 keys"):
        cache.get_or_compute_many(["e", "f"], lambda keys: [1])
    with pytest.raises(UsageError, match="no value for 1 of 2"):
        cache.get_or_compute_many(["e", "f"], lambda keys: {"e": 1})
    assert cache.get_or_compute_many([], upper) == {}
    assert cache.invalidate_tags(["m"]) == 2


@pytest.mark.parametrize("scope", ["key", "tag", "namespace", "all"])
@pytest.mark.parametrize("many", [False, True], ids=["single", "many"])
def test_a_fill_older_than_an_invalidation_is_not_stored(cache: Any, scope: str, many: bool) -> None:
    """A computation that began before an invalidation and ends after it hands out its value but leaves no entry."""
    invalidations = {
        "key": lambda: cache.invalidate("stale", namespace="n"),
        "tag": lambda: cache.invalidate_tags(["model:1"]),
        "namespace": lambda: cache.invalidate_namespace("n"),
        "all": cache.clear,
    }
    options: dict[str, Any] = {"tags": ["model:1"], "namespace": "n", "ttl": 600}
    begun, go_on = threading.Event(), threading.Event()

    def compute(keys: Any = None) -> Any:
        begun.set()
        assert go_on.wait(30)
        return "old" if keys is None else ["old" for _ in keys]

    async def compute_async(keys: Any = None) -> Any:
        import asyncio

        return await asyncio.get_running_loop().run_in_executor(None, compute, keys)

    function = compute if not hasattr(cache, "run") else compute_async
    got: list[Any] = []

    def ask() -> None:
        if many:
            got.append(cache.get_or_compute_many(["stale", "stale2"], function, **options)["stale"])
        else:
            got.append(cache.get_or_compute("stale", function, **options))

    thread = threading.Thread(target=ask)
    thread.start()
    assert begun.wait(30)
    invalidations[scope]()
    go_on.set()
    thread.join(30)
    assert got == ["old"]
    assert cache.get("stale", namespace="n") is MISS
    assert cache.get("stale2", namespace="n") is MISS or (scope == "key" and many)


def test_a_value_is_recomputed_unless_another_is_computing_it(cache: Any) -> None:
    """A recompute replaces a live value; while somebody else holds the fill lease it computes nothing."""
    cache.put("again", 1)
    assert cache.recompute("again", lambda: 2) == 2
    assert cache.get("again") == 2
    assert cache.recipe("again") == b""
    begun, release = threading.Event(), threading.Event()

    def slow() -> int:
        begun.set()
        release.wait(10)
        return 3

    other = threading.Thread(target=cache.recompute, args=("again", slow))
    other.start()
    assert begun.wait(10)
    if not hasattr(cache, "run"):  # on one event loop a computation that blocks holds up the other caller, too
        assert cache.recompute("again", lambda: 4) is MISS
    release.set()
    other.join(10)
    assert cache.get("again") == 3


def test_put_through_caches_what_the_store_has_taken(cache: Any) -> None:
    """Where another changes the key at the same moment, or the store fails, the cache keeps no value of it."""
    kept: dict[str, int] = {}
    old = {"one": 1, "two": 1, "both": 1}
    cache.put_many(old)
    new = {"one": 2, "two": 2}
    assert cache.put_through(new, lambda: kept.update(new), tags={"t"}, ttl=60.0) == {"one", "two"}
    assert (kept, cache.get_many(old)) == (new, {**new, "both": 1})
    assert cache.invalidate_tags({"t"}) == 2

    def meets_another() -> None:
        other.put_through({"both": 3}, lambda: None)

    other = cache.namespace("default")
    if not hasattr(cache, "run"):  # on one event loop a store that blocks holds up the other caller, too
        assert cache.put_through({"both": 2}, meets_another) == set()
        assert cache.get("both") is MISS

    def fails(error: Exception) -> None:
        raise error

    cache.put_many(old)
    with pytest.raises(OSError, match="lost"):
        cache.put_through({"one": 5}, lambda: fails(OSError("the answer was lost")))
    with pytest.raises(LimitError):
        cache.put_through({"two": 5}, lambda: fails(LimitError("the store is full, and took nothing")))
    with pytest.raises(EncodingError):
        cache.put_through({"two": object()}, lambda: kept.update(two=9))
    assert (kept["two"], cache.get_many(old)) == (2, {"two": 1, "both": 1})
    assert cache.put_through({"two": 6}, lambda: None) == {"two"}  # no lease was left behind
    assert cache.put_through({}, kept.clear) == set()
    assert kept == {}
