"""What a client does when shards fail, lie, are slow, or will not have it."""

from __future__ import annotations

import gc
import logging
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stratacache.client import (
    MISS,
    AccessError,
    InvalidationIncompleteError,
    UnavailableError,
    UsageError,
    connect,
    connect_async,
)

from .conftest import TOKEN, InLoop
from .liar import Liar
from .servers import Node, address, running, wait_until

SHELLS = ("sync", "async")


@pytest.fixture(params=SHELLS)
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """A maker of clients of either shell, closed at the end."""
    opened: list[Any] = []

    def open_one(place: str, **options: Any) -> Any:
        options = {"shared": False, "deadline_s": 1.0, "connect_deadline_s": 0.5, **options}
        cache = connect(place, **options) if request.param == "sync" else InLoop(place, **options)
        opened.append(cache)
        return cache

    yield open_one
    for cache in opened:
        cache.close()


def test_a_dead_shard_costs_misses_and_is_counted(make: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """Its range misses, puts return False, the other range goes on; one log line, counters; strict raises."""
    with running(2) as pair:
        cache, strict = make(address(pair)), make(address(pair), strict=True)
        keys = [f"k{i}" for i in range(200)]
        assert cache.put_many(dict.fromkeys(keys, 1)) == 200
        assert len(strict.get_many(keys)) == 200
        pair[0].kill()
        with caplog.at_level(logging.WARNING, "stratacache.client"):
            found = cache.get_many(keys)
            assert 0 < len(found) < 200, "partial results"
            lost = next(key for key in keys if key not in found)
            kept = next(iter(found))
            for _ in range(50):
                assert cache.get(lost) is MISS
                assert cache.get(kept) == 1
            assert cache.put(lost, 2) is False
            assert cache.put_many(dict.fromkeys(keys, 3)) == len(found)
            assert cache.contains(lost) is False
            assert cache.get_or_compute(lost, lambda: "computed") == "computed"
            assert cache.get_or_compute_many([lost, kept], lambda ks: ["c" for _ in ks]) == {lost: "c", kept: 3}
        failures = cache.stats()["client"]["failures"]
        assert failures["get"] == 50
        assert failures["put"] >= 1
        assert sum("get went on without the cache" in line for line in caplog.messages) == 1
        with pytest.raises(UnavailableError, match=lost and r"127\.0\.0\.1"):
            strict.get(lost)
        with pytest.raises(UnavailableError):
            strict.put(lost, 1)
        assert strict.get(kept) == 3


def test_an_open_circuit_costs_nothing(make: Callable[..., Any]) -> None:
    """A shard that hangs costs a few deadlines, then its callers fail at once; it is found again when it is back."""
    with running(1) as (node,):
        cache = make(address([node]), deadline_s=0.2)
        cache.put("k", 1)
        node.pause()
        for _ in range(4):
            assert cache.get("k") is MISS
        begun = time.monotonic()
        for _ in range(200):
            assert cache.get("k") is MISS
        assert time.monotonic() - begun < 10, "200 calls on an open circuit: deadlines for all would be 40 s"
        node.resume()
        wait_until(lambda: cache.get("k") == 1, 10, "the shard to be used again")


def test_a_call_that_must_connect_to_a_shard_that_hangs_keeps_its_deadline(
    make: Callable[..., Any], tmp_path: Path
) -> None:
    """The kernel takes the connection of a stopped process in; neither way to it may take longer than is left."""
    with running(1, unix_dir=tmp_path) as (node,):
        cache = make(address([node]), deadline_s=0.6, connect_deadline_s=2.0)
        assert cache.put_many({"k": b"1", "l": b"2"}) == 2
        for call in (lambda: cache.get("k"), lambda: cache.get_many(["k", "l"])):
            fastest = float("inf")
            for _ in range(5):  # a busy machine may hold up one or the other of them
                wait_until(call, 10, "an answer")
                node.pause()
                taken = []
                for _ in range(2):  # the first loses its connection, the second has to open one
                    begun = time.monotonic()
                    assert not call()
                    taken.append(time.monotonic() - begun)
                node.resume()
                fastest = min(fastest, max(taken))
                if fastest < 1.15:
                    break
            assert fastest < 1.15


def test_a_restarted_shard_is_used_at_once(make: Callable[..., Any]) -> None:
    """Connections of the old process are noticed: the first calls after a restart neither fail nor raise."""
    with running(1) as (node,):
        cache = make(address([node]), strict=True)
        cache.put("k", 1)
        node.kill()
        again = node.restart()
        try:
            assert cache.get("k") is MISS
            assert cache.put("k", 2) is True
            assert cache.get("k") == 2
        finally:
            again.kill()


def test_an_invalidation_that_is_not_acknowledged_raises_and_is_retried(make: Callable[..., Any]) -> None:
    """It names the shards that are missing, strict or not, and is carried out when they are back."""
    with running(2) as pair:
        cache = make(address(pair), deadline_s=0.5)
        keys = [f"k{i}" for i in range(100)]
        cache.put_many(dict.fromkeys(keys, 1), tags=["t"])
        pair[0].pause()
        with pytest.raises(InvalidationIncompleteError, match="tag t") as caught:
            cache.invalidate_tags(["t"])
        assert caught.value.missing == (pair[0].place,)
        with pytest.raises(InvalidationIncompleteError):
            cache.invalidate_many(keys)
        with pytest.raises(InvalidationIncompleteError):
            cache.clear()
        pair[0].resume()
        with connect(address(pair[:1]), shared=False) as witness:
            wait_until(lambda: witness.get_many(keys) == {}, 15, "the retry in the background")


def test_wrong_token_unknown_address_and_strangers(tls_node: Any, nodes: list[Node]) -> None:
    """connect() tells at once, in one line, and leaves nothing open."""
    node, ca = tls_node
    with pytest.raises(AccessError, match="token"):
        connect(address([node], "stratas"), token="wrong", tls_ca=str(ca))
    with pytest.raises(AccessError, match="token"):
        connect(address([node], "stratas"), tls_ca=str(ca))
    with pytest.raises(UnavailableError, match="certificate"):
        connect(address([node], "stratas"), token=TOKEN)
    with pytest.raises(UnavailableError):
        connect(address([node]), token=TOKEN, deadline_s=0.5, connect_deadline_s=0.3)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(UnavailableError, match=r"no shard answers at strata://.*refused") as caught:
            connect(f"strata://127.0.0.1:{unused.getsockname()[1]}")
        assert "\n" not in str(caught.value)
    for wrong in ("redis://h", "strata://", "strata://:1", "strata://h:x", "strata://h:0", "local:", "unix:", "h:1"):
        with pytest.raises(UsageError):
            connect(wrong)
        assert str(caught.value).count("127.0.0.1") == 2, "as it was written, and who of them did not answer"
    with pytest.raises(UnavailableError, match=r"^no shard answers at unix:/no/where: unix:/no/where: \[Errno 2\]"):
        connect("unix:/no/where")
    with pytest.raises(UsageError, match="deadline_s"):
        connect(address(nodes), deadline_s=0)


@pytest.mark.parametrize("opened", [connect, connect_async])
@pytest.mark.parametrize(
    "options",
    [
        {"address": 5},
        {"address": ["strata://h"]},
        {"deadline_s": "1"},
        {"near_bytes_max": 1.5},
        {"near_bytes_max": True},
        {"token": 5},
        {"token": ""},
        {"use_unix": "yes"},
        {"signing_key": "text"},
        {"signing_key": b"short"},
    ],
)
def test_an_option_of_the_wrong_kind_is_named_at_once(opened: Callable[..., Any], options: dict[str, Any]) -> None:
    """Not when it is first used, and not by an error from inside the library."""
    with pytest.raises(UsageError, match=next(iter(options))) as caught:
        opened(**{"address": "strata://127.0.0.1:1", **options})
    assert "short" not in str(caught.value), "a secret of the wrong kind is a secret all the same"


def test_a_coroutine_function_in_a_blocking_client_is_a_wrong_call(nodes: list[Node]) -> None:
    """It is told so, with the way out, and nothing is left that was never awaited."""

    async def compute() -> int:
        raise AssertionError("nobody runs this")

    gc.collect()  # what other tests have left is not what this one looks for
    with connect(address(nodes), shared=False) as cache, warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UsageError, match="connect_async"):
            cache.get_or_compute("k", compute)
        with pytest.raises(UsageError, match="connect_async"):
            cache.get_or_compute_many(["k"], lambda keys: compute())  # type: ignore[arg-type, return-value]
        gc.collect()
        assert cache.get_or_compute("k", lambda: 5) == 5, "its lease was given back"


def test_options_that_do_not_exist_are_refused(nodes: list[Node]) -> None:
    """As Python does with arguments that a function does not have."""
    with pytest.raises(TypeError):
        connect(address(nodes), no_such_option=1)


def test_no_ray_is_one_clear_line() -> None:
    """Without an address and outside Ray the error says what to give."""
    code = (
        "import sys; sys.modules['ray'] = None; sys.modules['stratacache.cluster'] = None\n"
        "from stratacache.client import connect, UnavailableError\n"
        "try: connect()\n"
        "except UnavailableError as error: print(error)"
    )
    import subprocess
    import sys

    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "strata://" in out
    assert out.count("\n") == 1


@pytest.mark.parametrize(
    "answer",
    [b"*2\r\n:2\r\n$3\r\n\xc1\xc1\xc1\r\n", b"*2\r\n:99\r\n$3\r\nabc\r\n", b"-ERR something odd\r\n"],
    ids=["broken payload", "unknown codec", "error"],
)
def test_what_can_not_be_read_is_a_counted_miss(
    make: Callable[..., Any], caplog: pytest.LogCaptureFixture, answer: bytes
) -> None:
    """A payload of an unknown codec or a broken one: a miss, counted, one log line, no exception in the pipeline."""
    liar = Liar(answer)
    try:
        cache = make(f"strata://127.0.0.1:{liar.port}")
        if answer.startswith(b"-"):
            with pytest.raises(UsageError, match="something odd"):
                cache.get("k")
            return
        with caplog.at_level(logging.WARNING, "stratacache.client"):
            for _ in range(20):
                assert cache.get("k") is MISS
        assert sum("can't be decoded" in line for line in caplog.messages) == 1
    finally:
        liar.close()


@pytest.mark.parametrize("answer", [b"*2\r\n:0\r\n$100\r\nhalf", b"?nonsense", b"\x00\x01\x02"])
def test_a_broken_stream_is_a_failure_not_a_value(make: Callable[..., Any], answer: bytes) -> None:
    """A reply that ends in the middle, or is no RESP at all, closes the connection and counts as no answer."""
    liar = Liar(answer)
    try:
        cache = make(f"strata://127.0.0.1:{liar.port}", deadline_s=0.5)
        for _ in range(3):
            assert cache.get("k") is MISS
    finally:
        liar.close()


def test_one_client_for_threads_forks_and_pickles(nodes: list[Node]) -> None:
    """Threads share it; a forked child uses it with sockets of its own; a pickle connects again."""
    import pickle

    with connect(address(nodes), shared=False, strict=True, near_bytes_max=1 << 20) as cache:
        cache.put("fork", "parent")
        assert cache.get("fork") == "parent"
        pid = os.fork()
        if pid == 0:
            ok = cache.get("fork") == "parent" and cache.put("child", "was here")
            os._exit(0 if ok else 1)
        for i in range(200):
            assert cache.put(f"p{i}", i)
            assert cache.get(f"p{i}") == i
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert cache.get("child") == "was here"
        copy = pickle.loads(pickle.dumps(cache.namespace("n")))
        try:
            assert copy.put("k", 1)
            assert cache.get("k", namespace="n") == 1
        finally:
            copy.close()
        errors: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for i in range(100):
                    assert cache.put(f"t{number}-{i}", [number, i])
                    assert cache.get(f"t{number}-{i}") == [number, i]
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        cache.clear()


def test_a_secret_never_shows(tls_node: Any) -> None:
    """Neither repr nor the options' repr holds the token."""
    node, ca = tls_node
    with connect(address([node], "stratas"), token=TOKEN, tls_ca=str(ca), shared=False) as cache:
        assert TOKEN not in repr(cache)
        assert TOKEN not in repr(cache._options)
