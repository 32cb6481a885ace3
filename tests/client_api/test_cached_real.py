"""`@cached` over real clients: embedded, and a node in another process; across processes, threads and pickles."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from stratacache.client import AIOperation, cached, cached_batch, connect, connect_async
from stratacache.client.default import finder
from tests.client.servers import Node, address, running


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """One node process for this module."""
    with running(1) as (started,):
        yield started


@pytest.fixture(params=["local", "strata"])
def cache(request: pytest.FixtureRequest, tmp_path: Path, node: Node) -> Iterator[Any]:
    """A blocking client, empty at the start."""
    client = connect(f"local:{tmp_path}" if request.param == "local" else address([node]))
    client.clear()
    yield client
    client.close()


def test_hits_tags_failures_and_refresh(cache: Any) -> None:
    """The whole of it once, over each kind of cache."""
    calls: list[str] = []

    @cached(operation=AIOperation.EMBED, tags=["model:{model}"], negative=LookupError, client=cache)
    def embed(text: str, *, model: str = "m") -> np.ndarray[Any, Any]:
        calls.append(text)
        if text == "missing":
            raise KeyError(text)
        return np.full(1536, len(text), dtype="<f4")

    first, second = embed("abc"), embed("abc")
    assert calls == ["abc"]
    assert np.array_equal(first, second)
    assert second.dtype == np.float32
    for _ in range(2):
        with pytest.raises(KeyError, match="missing"):
            embed("missing")
    assert calls == ["abc", "missing"]
    assert cache.invalidate_tags(["model:m"]) == 2
    embed("abc")
    assert calls[-1] == "abc"
    embed.refresh("abc")
    assert len(calls) == 4
    assert embed.invalidate("abc") == 1
    embed("ab")
    assert 22 < cache.ttl(embed.key_for("ab")) / 3600 < 26, "a day, give or take the jitter"


def test_one_computation_for_many_threads(cache: Any) -> None:
    """Callers that miss together share one computation."""
    calls: list[str] = []
    begun = threading.Event()

    @cached(client=cache)
    def slow(text: str) -> str:
        calls.append(text)
        begun.wait(5)
        return text

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(slow, "a") for _ in range(8)]
        begun.set()
        assert {future.result(30) for future in futures} == {"a"}
    assert calls == ["a"]


def test_an_invalidation_during_the_computation_keeps_its_result_out(cache: Any) -> None:
    """Fill race: by key, by tag and by namespace; for a call, a refresh and a batch."""

    @cached(tags=["docs"], ignore=["during"], namespace="race", client=cache)
    def read(text: str, during: Any) -> str:
        during()
        return text

    @cached_batch(tags=["docs"], ignore=["during"], namespace="race", client=cache)
    def read_many(texts: list[str], during: Any) -> list[str]:
        during()
        return texts

    for during in (
        lambda: cache.invalidate(read.key_for("a", None), namespace="race"),
        lambda: cache.invalidate_tags(["docs"]),
        lambda: cache.invalidate_namespace("race"),
    ):
        assert read("a", during) == "a"
        assert not cache.contains(read.key_for("a", None), namespace="race")
        read("a", lambda: None)
        assert read.refresh("a", during) == "a"
        assert not cache.contains(read.key_for("a", None), namespace="race")
    assert read_many(["x", "y"], lambda: cache.invalidate_tags(["docs"])) == ["x", "y"]
    assert cache.invalidate_namespace("race") == 0


def test_coroutines_share_entries_with_the_cluster(node: Node) -> None:
    """The asyncio client is found by address, once for each event loop; many waiters, one computation."""
    calls: list[str] = []

    @cached(client=address([node]), version="loop")
    async def embed(text: str) -> str:
        calls.append(text)
        await asyncio.sleep(0.01)
        return text

    async def scenario() -> list[str]:
        try:
            return await asyncio.gather(*(embed("a") for _ in range(10)))
        finally:
            await finder.asyncio(address([node])).close()

    assert asyncio.run(scenario()) == ["a"] * 10
    assert asyncio.run(scenario()) == ["a"] * 10
    assert calls == ["a"]

    async def given() -> str:
        async with connect_async(address([node])) as client:
            own = cached(client=client, version="loop", key=lambda text: text)(embed.__wrapped__)
            return str(await own("b"))

    assert asyncio.run(given()) == "b"


PROGRAM = """
import sys
import cloudpickle
from stratacache.client import cached, connect

@cached(client={client}, version="pickle")
def work(text):
    print("computed", text)
    return text.upper()

class Model:
    def __cache_key__(self):
        return "model"

    @cached(client={client}, version="pickle")
    def work(self, text):
        print("computed", text)
        return text.upper()

if sys.argv[1] == "make":
    work("a"), Model().work("b")
    with open(sys.argv[2], "wb") as file:
        cloudpickle.dump([work, Model(), Model().work], file)
"""


def test_decorated_functions_travel_by_pickle(node: Node, tmp_path: Path) -> None:
    """A function of __main__ is pickled by value after it has been used: no socket travels, the entries are shared."""
    for client in (repr(address([node])), f"connect({address([node])!r})"):
        script = tmp_path / "program.py"
        script.write_text(PROGRAM.replace("{client}", client))
        pickled = tmp_path / "pickled"
        output = subprocess.run(
            [sys.executable, script, "make", pickled], capture_output=True, text=True, check=True, timeout=60
        ).stdout
        work, model, bound = cloudpickle.loads(pickled.read_bytes())
        output += str([work("a"), model.work("b"), bound("b"), work.key_for("a"), model.work.invalidate("b")])
        assert output.count("computed") == 2
        assert f"['A', 'B', 'B', '{work.key_for('a')}', 1]" in output
        assert work.invalidate_all() == 1


def test_the_decorated_function_is_cheap_to_import() -> None:
    """Decorating connects to nothing and loads neither transports nor array libraries."""
    code = (
        "import sys; from stratacache.client import cached; cached()(lambda text: text); "
        "print([name for name in ('numpy', 'ray', 'socket', 'asyncio', 'lmdb', 'hiredis') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert output.strip() == "[]"
