"""The blocking shell's ears: one thread of a process that hears the pushes of all shards for the near cache.

Invariants: a part ends as soon as its connection is lost, out of step, or silent for the push deadline; time spent
connecting to one shard is bounded well below the push deadline of the others; the thread holds no lock while it waits
and ends with its backend.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Callable

from hiredis import PushNotification

from stratacache.client.core.counters import LOGGER
from stratacache.client.core.effects import Operation, ShardFailure
from stratacache.client.core.near import NearCache, Part
from stratacache.client.core.refresh import refresh_view
from stratacache.client.core.state import Core
from stratacache.client.transport.connection import CONNECTION_ERRORS, Connection
from stratacache.client.view import ShardInfo

CONNECT_DEADLINE_S = 0.4
RETRY_S = 0.5
REPORT_EVERY_S = 1.0


class Watcher:
    """Watches every active shard of the view. `run` carries out the operations that listening leads to."""

    def __init__(
        self,
        core: Core,
        near: NearCache,
        open_watching: Callable[[ShardInfo, float], Connection],
        run: Callable[[Operation[object]], object],
    ) -> None:
        self._core = core
        self._near = near
        self._open = open_watching
        self._run = run
        self._selector = selectors.DefaultSelector()
        self._ears: dict[str, tuple[Connection, Part]] = {}
        self._retry_at: dict[str, float] = {}
        self._report_at = 0.0
        self._stopping = False
        self._wake_read, self._wake_write = socket.socketpair()
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._listen, name="stratacache-near", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        try:
            while not self._stopping:
                self._keep_connected()
                for key, _ in self._selector.select(self._core.options.push_deadline_s / 8):
                    if key.data is not None:
                        self._hear(key.data)
                self._end_silent()
                self._report()
        except Exception:  # noqa: BLE001 - nobody else would hear of it
            LOGGER.exception("the near cache is off: its watcher failed")
        finally:
            for shard_id in list(self._ears):
                self._lose(shard_id)
            self._selector.close()

    def _keep_connected(self) -> None:
        wanted = {shard.id: shard for shard in self._core.active_shards()}
        for shard_id, (connection, _) in list(self._ears.items()):
            if wanted.get(shard_id) != connection.shard:
                self._lose(shard_id)
        now = time.monotonic()
        for shard in wanted.values():
            if shard.id in self._ears or now < self._retry_at.get(shard.id, 0.0):
                continue
            self._retry_at[shard.id] = now + RETRY_S
            try:
                connection = self._open(shard, now + CONNECT_DEADLINE_S)
            except ShardFailure:
                continue
            self._ears[shard.id] = (connection, self._near.begin(shard.id))
            self._selector.register(connection.sock, selectors.EVENT_READ, shard.id)
            self._hear(shard.id)  # what came together with the answer to SC.WATCH

    def _hear(self, shard_id: str) -> None:
        connection, part = self._ears[shard_id]
        at = self._core.elapsed()
        try:
            messages, drained = connection.receive_pushes()
        except CONNECTION_ERRORS:
            self._lose(shard_id)
            return
        for message in messages:
            if not isinstance(message, PushNotification):
                continue
            if not self._near.hear(part, message):
                self._lose(shard_id)
                return
            if message[0] == b"sc.beat" and len(message) > 2 and int(message[2]) > self._core.view.epoch > 0:
                deadline = time.monotonic() + CONNECT_DEADLINE_S
                self._run(refresh_view(self._core, first=connection.shard, deadline=deadline))
        if drained and messages:
            # Whatever the shard sent before `at` was in the kernel's buffer then, and has been applied now.
            self._near.heard(part, at)

    def _end_silent(self) -> None:
        for shard_id, (_, part) in list(self._ears.items()):
            if self._near.is_silent(part):
                self._lose(shard_id)

    def _lose(self, shard_id: str) -> None:
        connection, part = self._ears.pop(shard_id)
        self._near.end(part)
        self._selector.unregister(connection.sock)
        connection.close()

    def _report(self) -> None:
        now = time.monotonic()
        if now >= self._report_at:
            self._report_at = now + REPORT_EVERY_S
            self._run(self._near.report())

    def stop(self) -> None:
        """End the thread; returns when it has ended."""
        self._stopping = True
        self._wake_write.send(b"x")
        if threading.current_thread() is not self._thread:
            self._thread.join(5.0)
        self._wake_read.close()
        self._wake_write.close()

    def abandon(self) -> None:
        """After a fork: the thread is the parent's; close this process's copies of its descriptors."""
        for connection, _ in self._ears.values():
            connection.close()
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()
