"""Twenty clients with near caches behind a proxy that drops pushes and cuts connections, and one writer."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
import time
from typing import Any

import pytest

from stratacache.client import MISS, connect, connect_async
from stratacache.client.core.near import NearCache, Part

from .servers import Node, address

CLIENTS = 20
KEYS = 8
SECONDS = 4.0
PUSH_DEADLINE_S = 0.5
SLACK_S = 0.25  # scheduling of forty threads on a busy machine
READER: dict[str, Any] = {
    "near_bytes_max": 1 << 20,
    "push_deadline_s": PUSH_DEADLINE_S,
    "use_unix": False,
    "shared": False,
}


class Proxy:
    """Passes bytes on between clients and a node; on watching connections it loses pushes and cuts at random."""

    def __init__(self, node: Node, seed: int) -> None:
        self._random = random.Random(seed)
        self._node = node
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        self.dropped = 0
        self.cut = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._node.port))
            watching = threading.Event()
            threading.Thread(target=self._upstream, args=(near, far, watching), daemon=True).start()
            threading.Thread(target=self._downstream, args=(near, far, watching), daemon=True).start()

    def _upstream(self, near: socket.socket, far: socket.socket, watching: threading.Event) -> None:
        try:
            while data := near.recv(65536):
                if b"SC.WATCH" in data:
                    watching.set()
                far.sendall(data)
        except OSError:
            pass
        finally:
            _shut(near, far)

    def _downstream(self, near: socket.socket, far: socket.socket, watching: threading.Event) -> None:
        try:
            while data := far.recv(65536):
                if watching.is_set() and data.startswith(b">"):
                    if self._random.random() < 0.02:
                        self.cut += 1
                        return
                    pushes = [b">" + part for part in data.split(b">")[1:]]
                    kept = [push for push in pushes if self._random.random() > 0.15]
                    self.dropped += len(pushes) - len(kept)
                    data = b"".join(kept)
                near.sendall(data)
        except OSError:
            pass
        finally:
            _shut(near, far)

    def close(self) -> None:
        _shut(self._listener)  # to close it alone would leave `_accept` waiting


def _shut(*sockets: socket.socket) -> None:
    for sock in sockets:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()


class History:
    """What the writer was told is done, and what the readers saw against it."""

    def __init__(self) -> None:
        self.acknowledged: list[list[tuple[float, int]]] = [[(0.0, 0)] for _ in range(KEYS)]
        self.violations: list[Any] = []
        self.near_hits = 0
        self.stop = threading.Event()

    def write(self, writer: Any, seconds: float) -> None:
        """Put versions; invalidate some by key or by tag, and put anew."""
        version, end = 0, time.monotonic() + seconds
        pick = random.Random(1)
        while time.monotonic() < end:
            version += 1
            key = pick.randrange(KEYS)
            writer.put(f"v{key}", version, tags=[f"t{key}"])
            if version % 3:
                # From here on, what was put before must not be seen.
                writer.invalidate(f"v{key}") if version % 2 else writer.invalidate_tags([f"t{key}"])
                self.acknowledged[key].append((time.monotonic(), version + 1))
                version += 1
                writer.put(f"v{key}", version, tags=[f"t{key}"])
            time.sleep(0.01)

    def saw(self, number: int, key: int, value: Any, begun: float) -> None:
        """A read that began at `begun`: what was invalidated a push deadline earlier must not come back."""
        at = begun - PUSH_DEADLINE_S - SLACK_S
        oldest_legal = max(version for when, version in list(self.acknowledged[key]) if when <= at)
        if value is not MISS and value < oldest_legal:
            self.violations.append((number, key, value, self.acknowledged[key][-3:]))

    def read(self, number: int, place: str) -> None:
        """A reader with a near cache of its own, on the calling thread."""
        pick = random.Random(number)
        with connect(place, **READER) as cache:
            while not self.stop.is_set():
                key, begun = pick.randrange(KEYS), time.monotonic()
                self.saw(number, key, cache.get(f"v{key}"), begun)
                time.sleep(0.002)
            self.near_hits += cache._backend.core.counters.near_hits

    async def read_async(self, number: int, place: str) -> None:
        """The same as a task."""
        pick = random.Random(number)
        async with connect_async(place, **READER) as cache:
            while not self.stop.is_set():
                key, begun = pick.randrange(KEYS), time.monotonic()
                self.saw(number, key, await cache.get(f"v{key}"), begun)
                await asyncio.sleep(0.002)
            (backend,) = cache._backends.values()
            self.near_hits += backend.core.counters.near_hits


def start_readers(kind: str, history: History, place: str) -> list[threading.Thread]:
    """Twenty readers: a thread each, or tasks of one loop."""

    async def together() -> None:
        await asyncio.gather(*(history.read_async(number, place) for number in range(CLIENTS)))

    if kind == "async":
        threads = [threading.Thread(target=lambda: asyncio.run(together()))]
    else:
        threads = [threading.Thread(target=history.read, args=(number, place)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_no_reader_sees_what_was_invalidated_longer_ago_than_the_push_deadline(nodes: list[Node], kind: str) -> None:
    """Values carry versions; each invalidation that was acknowledged makes the ones before it illegal after 0.5 s."""
    proxy = Proxy(nodes[0], seed=7)
    history = History()
    with connect(address(nodes[:1]), shared=False, strict=True, deadline_s=10.0) as writer:
        threads = start_readers(kind, history, f"strata://127.0.0.1:{proxy.port}")
        history.write(writer, SECONDS)
        history.stop.set()
        for thread in threads:
            thread.join(30)
        writer.clear()
    proxy.close()
    assert not history.violations
    assert proxy.dropped > 10
    assert proxy.cut > 3
    assert history.near_hits > 50, "the near caches were of use all the same"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_oracle_can_fail(nodes: list[Node], monkeypatch: Any, kind: str) -> None:
    """Near caches that do not heed their pushes do show readers what was invalidated, and the history says so."""

    def deaf(self: NearCache, part: Part, message: Any) -> bool:
        part.seq = max(part.seq, int(message[1]))
        return True

    monkeypatch.setattr(NearCache, "hear", deaf)
    history = History()
    with connect(address(nodes[:1]), shared=False, strict=True, deadline_s=10.0) as writer:
        threads = start_readers(kind, history, address(nodes[:1]))
        history.write(writer, 2.0)
        history.stop.set()
        for thread in threads:
            thread.join(30)
        writer.clear()
    assert history.violations
