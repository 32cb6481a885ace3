"""Nodes that the client's tests share: started once for each worker, cleared between tests."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stratacache.client import connect, connect_async

from .certificates import make_certificates
from .servers import Node, address, running

TOKEN = "a token for tests"


@pytest.fixture(scope="session")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    """Three lone nodes, reachable by TCP and by Unix socket."""
    with running(3, unix_dir=tmp_path_factory.mktemp("sockets")) as started:
        yield started


@pytest.fixture(scope="session")
def tls_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Path]]:
    """A node with TLS and a token, and the authority's certificate."""
    ca, certificate, key = make_certificates(tmp_path_factory.mktemp("tls"))
    with running(1, "--tls-cert", str(certificate), "--tls-key", str(key), "--token", TOKEN) as (node,):
        yield node, ca


class InLoop:
    """An AsyncCacheClient that is called like a blocking one, from a loop on a thread of its own."""

    def __init__(self, address: str, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.client = connect_async(address, **options)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)
        if not inspect.iscoroutinefunction(method):
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            return self.run(method(*args, **kwargs))

        return call

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def namespace(self, name: str) -> InLoop:
        bound = object.__new__(InLoop)
        bound.__dict__.update(self.__dict__, client=self.client.namespace(name))
        return bound

    def close(self) -> None:
        self.run(self.client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


SETUPS = ("local", "one", "three", "near", "tls", "tls-near")

over_every_transport = pytest.mark.parametrize(
    "cache", [(setup, shell) for setup in SETUPS for shell in ("sync", "async")], indirect=True, ids="-".join
)
"""The mark of tests that hold whatever lies between: their `cache` is a client of each setup and shell."""


@pytest.fixture
def open_cache(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """`open_cache(setup, shell, **options)`: a client for a setup; closed, and its nodes cleared, at the end."""
    opened: list[Any] = []

    def open_one(setup: str, shell: str = "sync", **options: Any) -> Any:
        options.setdefault("strict", True)
        options.setdefault("shared", False)
        if setup == "local":
            place = f"local:{tmp_path / 'cache'}"
            options |= {"l1_bytes_max": 32 << 20, "l3_bytes_max": 64 << 20}
        elif setup.startswith("tls"):
            node, ca = request.getfixturevalue("tls_node")
            place = address([node], "stratas")
            options |= {"token": TOKEN, "tls_ca": str(ca)}
        else:
            nodes = request.getfixturevalue("nodes")
            place = address(nodes[:1] if setup == "one" else nodes)
        if setup.endswith("near"):
            options.setdefault("near_bytes_max", 4 << 20)
            options.setdefault("push_deadline_s", 20.0)  # a node that is not run for a second has fallen silent else
        cache = connect(place, **options) if shell == "sync" else InLoop(place, **options)
        opened.append(cache)
        return cache

    yield open_one
    if opened:
        opened[0].clear()
    for cache in opened:
        cache.close()


@pytest.fixture
def cache(request: pytest.FixtureRequest, open_cache: Callable[..., Any]) -> Any:
    """The client under test, `over_every_transport`."""
    return open_cache(*request.param)
