"""The asyncio shell's ears: one task of a loop that hears the pushes of all shards for the near cache.

Invariants: as `watch.py`: a part ends as soon as its connection is lost, out of step, or silent for the push deadline.
Pushes are applied in the callback that receives them, before any task of the loop can read the near cache again. What a
read vouches for is counted from a tick of the loop before it: the process may have been stopped between the kernel's
part of the read and ours, and what came meanwhile is not applied yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from stratacache.client.core.counters import LOGGER
from stratacache.client.core.effects import Operation, ShardFailure
from stratacache.client.core.near import NearCache, Part
from stratacache.client.core.refresh import refresh_view
from stratacache.client.core.state import Core
from stratacache.client.transport.aio_connection import AioConnection
from stratacache.client.transport.watch import REPORT_EVERY_S, RETRY_S
from stratacache.client.view import ShardInfo

# A read of this size may have left more in the kernel: what was sent before it need not be all applied.
FULL_READ_BYTES = 64 * 1024


class _Ear:
    """One watching connection and what it vouches for."""

    def __init__(self, core: Core, near: NearCache, connection: AioConnection, watcher: AioWatcher) -> None:
        self.connection = connection
        self.part: Part = near.begin(connection.shard.id)
        self.newer = False  # the shard knows a newer view
        self._core = core
        self._near = near
        self._watcher = watcher
        connection.on_push = self._push
        connection.on_lost = self._lost
        connection.on_read = self._read

    def _push(self, message: Sequence[Any]) -> None:
        if not self._near.hear(self.part, message):
            self.connection.close()
        elif message[0] == b"sc.beat" and len(message) > 2 and int(message[2]) > self._core.view.epoch > 0:
            self.newer = True
            self._watcher.wake()

    def _read(self, size: int) -> None:
        if size < FULL_READ_BYTES:
            self._near.heard(self.part, self._watcher.ticked_at)

    def _lost(self) -> None:
        self._near.end(self.part)
        self._watcher.wake()


class AioWatcher:
    """Watches every active shard of the view until it is cancelled."""

    def __init__(
        self,
        core: Core,
        near: NearCache,
        open_watching: Callable[[ShardInfo], Awaitable[AioConnection]],
        run: Callable[[Operation[Any]], Awaitable[Any]],
    ) -> None:
        self._core = core
        self._near = near
        self._open = open_watching
        self._run = run
        self._ears: dict[str, _Ear] = {}
        self._opening: dict[str, asyncio.Task[None]] = {}
        self._retry_at: dict[str, float] = {}
        self._awake = asyncio.Event()
        self._tick_s = core.options.push_deadline_s / 8
        self._timer: asyncio.TimerHandle | None = None
        self.ticked_at = 0.0
        self.wake = self._awake.set

    def _tick(self) -> None:
        self.ticked_at = self._core.elapsed()
        self._timer = asyncio.get_running_loop().call_later(self._tick_s, self._tick)

    async def listen(self) -> None:
        """Connect, look for silence, report hits; until cancelled."""
        report_at = 0.0
        self._tick()
        try:
            while True:
                self._keep_connected()
                self._end_silent()
                for ear in list(self._ears.values()):
                    if ear.newer:
                        ear.newer = False
                        deadline = self._core.deadline()
                        await self._run(refresh_view(self._core, first=ear.connection.shard, deadline=deadline))
                if self._core.monotonic() >= report_at:
                    report_at = self._core.monotonic() + REPORT_EVERY_S
                    await self._run(self._near.report())
                await self._pause()
        except Exception:  # noqa: BLE001 - nobody else would hear of it
            LOGGER.exception("the near cache is off: its watcher failed")
        finally:
            if self._timer is not None:
                self._timer.cancel()
            for ear in list(self._ears.values()):
                ear.connection.close()
            for task in self._opening.values():
                task.cancel()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._tick_s):
                await self._awake.wait()
        except TimeoutError:
            pass
        self._awake.clear()

    def _keep_connected(self) -> None:
        wanted = {shard.id: shard for shard in self._core.active_shards()}
        for shard_id, ear in list(self._ears.items()):
            if ear.connection.closed or wanted.get(shard_id) != ear.connection.shard:
                ear.connection.close()
                del self._ears[shard_id]
        now = self._core.monotonic()
        for shard in wanted.values():
            busy = shard.id in self._ears or shard.id in self._opening
            if not busy and now >= self._retry_at.get(shard.id, 0.0):
                self._retry_at[shard.id] = now + RETRY_S
                self._opening[shard.id] = asyncio.create_task(self._begin(shard))

    async def _begin(self, shard: ShardInfo) -> None:
        try:
            connection = await self._open(shard)
        except ShardFailure:
            return
        finally:
            del self._opening[shard.id]
        self._ears[shard.id] = _Ear(self._core, self._near, connection, self)

    def _end_silent(self) -> None:
        for ear in self._ears.values():
            if self._near.is_silent(ear.part):
                ear.connection.close()
