"""Twenty clients with near caches behind a proxy that drops pushes and cuts connections, and one writer."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from typing import Any

from stratacache.client import MISS, connect

from .servers import Node, address, wait_until

CLIENTS = 20
KEYS = 8
SECONDS = 4.0
PUSH_DEADLINE_S = 0.5
SLACK_S = 0.25  # scheduling of forty threads on a busy machine


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
        self._listener.close()


def _shut(*sockets: socket.socket) -> None:
    for sock in sockets:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()


def test_no_reader_sees_what_was_invalidated_longer_ago_than_the_push_deadline(nodes: list[Node]) -> None:
    """Values carry versions; each invalidation that was acknowledged makes the ones before it illegal after 0.5 s."""
    proxy = Proxy(nodes[0], seed=7)
    place = f"strata://127.0.0.1:{proxy.port}"
    acknowledged: list[list[tuple[float, int]]] = [[(0.0, 0)] for _ in range(KEYS)]
    violations: list[Any] = []
    reads, hits = [0] * CLIENTS, [0] * CLIENTS
    stop = threading.Event()

    def oldest_legal(key: int, at: float) -> int:
        return max(version for when, version in list(acknowledged[key]) if when <= at)

    def read(number: int) -> None:
        pick = random.Random(number)
        options = {"near_bytes_max": 1 << 20, "push_deadline_s": PUSH_DEADLINE_S, "use_unix": False, "shared": False}
        with connect(place, **options) as cache:
            while not stop.is_set():
                key = pick.randrange(KEYS)
                begun = time.monotonic()
                value = cache.get(f"v{key}")
                reads[number] += 1
                if value is not MISS and value < oldest_legal(key, begun - PUSH_DEADLINE_S - SLACK_S):
                    violations.append((number, key, value, acknowledged[key][-3:]))
                time.sleep(0.002)
            hits[number] = cache._backend.core.counters.near_hits

    threads = [threading.Thread(target=read, args=(number,)) for number in range(CLIENTS)]
    with connect(address(nodes[:1]), shared=False, strict=True, deadline_s=10.0) as writer:
        for thread in threads:
            thread.start()
        version, end = 0, time.monotonic() + SECONDS
        pick = random.Random(1)
        while time.monotonic() < end:
            version += 1
            key = pick.randrange(KEYS)
            writer.put(f"v{key}", version, tags=[f"t{key}"])
            if version % 3:
                # From here on, what was put before must not be seen: by key or by tag, and then put anew.
                writer.invalidate(f"v{key}") if version % 2 else writer.invalidate_tags([f"t{key}"])
                acknowledged[key].append((time.monotonic(), version + 1))
                version += 1
                writer.put(f"v{key}", version, tags=[f"t{key}"])
            time.sleep(0.01)
        stop.set()
        for thread in threads:
            thread.join(30)
        writer.clear()
    proxy.close()
    assert not violations
    assert proxy.dropped > 10
    assert proxy.cut > 3
    assert sum(hits) > 50, "the near caches were of use all the same"


def test_the_oracle_can_fail(nodes: list[Node], monkeypatch: Any) -> None:
    """A near cache that does not heed its pushes does show a reader what was invalidated."""
    from stratacache.client.core.near import NearCache, Part

    def deaf(self: NearCache, part: Part, message: Any) -> bool:
        part.seq = max(part.seq, int(message[1]))
        return True

    monkeypatch.setattr(NearCache, "hear", deaf)
    with (
        connect(address(nodes[:1]), shared=False, near_bytes_max=1 << 20, near_age_max_s=60) as reader,
        connect(address(nodes[:1]), shared=False) as writer,
    ):
        writer.put("k", "old")
        near: Any = reader._backend.core.near

        def held() -> bool:
            reader.get("k")
            return bool(near.entries)

        wait_until(held, what="admission")
        pushes = near._parts[next(iter(near._parts))].seq
        writer.invalidate("k")
        wait_until(lambda: near._parts[next(iter(near._parts))].seq > pushes, what="the push that is not heeded")
        assert reader.get("k") == "old", "a deaf near cache must be stale, or this file shows nothing"
        writer.clear()
