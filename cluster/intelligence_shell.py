"""The coordinator's side of prefetching: asks the shards for patterns, and carries out what the planner decides.

A thin shell round cluster/intelligence. It lives on the coordinator's event loop, beside views and leases, so it never
works for long at a time: a slice is bounded, and others get their turn between slices.

Invariants: at most one pull runs at a time; a shard that gives no answer is asked again at the next pull; no value and
no input passes here, only keys, times, and loaders as bytes that are never unpickled here.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from stratacache.cluster.config import ClusterConfig
from stratacache.node.clock import NodeClock
from stratacache.node.errors import UsageError

if TYPE_CHECKING:
    from stratacache.cluster.intelligence.plan import Planner, Refresh, Wake
    from stratacache.cluster.loaders import Loader
    from stratacache.cluster.registry import Registry

TICK_S: Final = 1.0
PULL_DEADLINE_S: Final = 2.0
TASK_DEADLINE_S: Final = 3600.0
SLICE_KEYS: Final = 1000
"""Keys that are asked for, and merged, at a time: in a millisecond or two."""
SLICES_A_PULL: Final = 4
LOADERS_MAX: Final = 256

log = logging.getLogger(__name__)


class IntelligenceShell:
    """Pulls, ticks, and acts for one coordinator.

    `handles` gives the shards' actors by (id, incarnation), `spawn` runs work in the background.
    """

    def __init__(
        self,
        config: ClusterConfig,
        registry: Registry,
        handles: Callable[[], Mapping[tuple[str, int], Any]],
        operations: Callable[[], Mapping[str, Mapping[str, Any]]],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._config = config
        self._registry = registry
        self._handles = handles
        self._operations = operations
        self._clock = NodeClock()
        self._reader = secrets.token_hex(4)
        self._planner: Planner | None = None
        self._loaders: dict[str, Loader] = {}
        self._spawn = spawn
        self._computed_s: float | None = None
        self._spent_s = 0.0
        self.longest_step_s = 0.0
        """The longest time for which one step has held the loop."""

    @property
    def planner(self) -> Planner:
        """The decisions; made when they are first needed, since they import NumPy."""
        if self._planner is None:
            from stratacache.cluster.intelligence.budget import Limits
            from stratacache.cluster.intelligence.plan import Planner, Settings

            config = self._config
            limits = Limits(tasks_max=config.prefetch_tasks, seconds_a_minute=config.prefetch_seconds_a_minute)
            self._planner = Planner(Settings(refresh_ahead=config.refresh_ahead, wake=config.wake, limits=limits))
        return self._planner

    async def register(self, packed: bytes) -> None:
        """Take a loader, and keep it for the next process of this coordinator."""
        from stratacache.cluster.loaders import Loader

        loader = Loader.from_bytes(packed)
        self._enter(loader)
        await asyncio.to_thread(self._registry.remember_loader, loader.name, packed)

    def _enter(self, loader: Loader) -> None:
        loader.validate()
        if loader.name not in self._loaders and len(self._loaders) >= LOADERS_MAX:
            raise UsageError(f"there are {LOADERS_MAX} loaders already: that is the limit of one cache")
        self._loaders[loader.name] = loader
        self.planner.batches[loader.name] = loader.batch_size_max

    async def _remember(self) -> bool:
        """Enter the loaders that were kept, but for those announced since; False to be called again."""
        from stratacache.cluster.loaders import Loader

        try:
            kept = await asyncio.to_thread(self._registry.loaders)
        except Exception as error:  # noqa: BLE001 - Ray can't be asked just now
            log.warning("the loaders that were kept can't be read yet: %s", error)
            return False
        for packed in kept:
            try:
                loader = Loader.from_bytes(packed)
                if loader.name not in self._loaders:
                    self._enter(loader)
            except Exception as error:  # noqa: BLE001 - the others can be used all the same
                log.warning("a loader that was kept must be announced again: %s", error)
        return True

    def report(self) -> dict[str, Any]:
        """What each kind of prefetch has brought and cost."""
        return {
            **self.planner.report(),
            "loaders": sorted(self._loaders),
            "longest_step_ms": round(1000 * self.longest_step_s, 3),
        }

    def seen(self) -> dict[str, Any]:
        """The same, and nothing before the first step: for those who only watch."""
        return {} if self._planner is None else self.report()

    async def run(self) -> None:
        """Pull and tick until the coordinator ends."""
        tick_s = min(TICK_S, self._config.patterns_every_ms / 1000)
        pulled_s = 0.0
        remembered = await self._remember()
        while True:
            await asyncio.sleep(tick_s)
            try:
                remembered = remembered or await self._remember()
                if time.monotonic() - pulled_s >= self._config.patterns_every_ms / 1000:
                    pulled_s = time.monotonic()
                    await self._pull()
                self._tick()
            except Exception:
                log.exception("prefetching skipped a step")

    # -- hearing -------------------------------------------------------------------------------------------------

    async def _pull(self) -> None:
        await asyncio.gather(*(self._ask(handle) for handle in list(self._handles().values())))
        computed_s = sum(figures["computed_s"] for figures in self._operations().values())
        if self._computed_s is not None:
            self.planner.demand(computed_s - self._computed_s - self._spent_s)
        self._computed_s, self._spent_s = computed_s, 0.0

    async def _ask(self, handle: Any) -> None:
        from stratacache.cluster.intelligence.slices import PatternSlice

        for _ in range(SLICES_A_PULL):
            try:
                blob = await asyncio.wait_for(handle.patterns.remote(self._reader, SLICE_KEYS), PULL_DEADLINE_S)
            except Exception:  # noqa: BLE001 - it starts, stops or died: there will be another pull
                return
            begun_s = time.perf_counter()
            try:
                part = PatternSlice.from_bytes(blob)
                self.planner.take(part, self._now_s())
            except Exception:
                log.exception("a slice of a shard's patterns is left out")  # what the others tell counts all the same
                return
            self._stepped(begun_s)
            if not part.more:
                return
            await asyncio.sleep(0)

    # -- acting --------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        from stratacache.cluster.intelligence.plan import Refresh

        begun_s = time.perf_counter()
        for effect in self.planner.tick(self._now_s()):
            self._spawn(self._refresh(effect) if isinstance(effect, Refresh) else self._wake(effect))
        self._stepped(begun_s)

    async def _wake(self, effect: Wake) -> None:
        shard, _, incarnation = effect.source.rpartition("/")
        handle = self._handles().get((shard, int(incarnation)))
        if handle is None:
            return
        with suppress(Exception):  # the shard is gone, and what it had to wake with it
            woken = await asyncio.wait_for(handle.wake.remote(list(effect.keys)), PULL_DEADLINE_S)
            self.planner.woken(woken, self._now_s())

    async def _refresh(self, effect: Refresh) -> None:
        from stratacache.cluster.loaders import FAILED, REFRESHED, Refreshed, refresh_values

        outcomes: dict[bytes, Refreshed] = {}
        begun_s, start_s = self._now_s(), None
        try:
            loader = self._loaders[effect.loader]
            import ray

            task = ray.remote(refresh_values).options(
                name=f"refresh-ahead {loader.name}",
                num_cpus=loader.num_cpus,
                max_retries=0,
                runtime_env=dict(loader.runtime_env) or None,
            )
            reference = task.remote(self._config.name, loader.name, loader.blob, list(effect.keys))
            try:
                found = await asyncio.wait_for(_value(reference), min(effect.deadline_s, TASK_DEADLINE_S))
            except TimeoutError:
                ray.cancel(reference, force=True)  # the budget counts it no more, so it may not go on
                raise
            outcomes = {one.key: one for one in found}
            start_s = self._now_s() - begun_s - sum(one.spent_s for one in found)
        except Exception as error:  # noqa: BLE001 - whatever a loader does, the coordinator goes on
            log.warning("refresh-ahead by %s failed: %s", effect.loader, type(error).__name__)
        finally:
            good = any(one.outcome != FAILED for one in outcomes.values())
            self.planner.task_ended(effect.loader, start_s if good else None)
        ended_s = self._now_s()
        for key in effect.keys:
            one = outcomes.get(key) or Refreshed(key, FAILED, 0.0, ended_s)
            if one.outcome == REFRESHED:
                self._spent_s += one.spent_s
            # Readers had it once it was stored, before the task was over. Another machine's clock may be off.
            done_s = min(max(one.at_s, begun_s), ended_s)
            self.planner.refreshed(key, done_s, good=one.outcome == REFRESHED, spent_s=one.spent_s)

    # -- time ----------------------------------------------------------------------------------------------------

    def _now_s(self) -> float:
        return self._clock.now_ms() / 1000

    def _stepped(self, begun_s: float) -> None:
        self.longest_step_s = max(self.longest_step_s, time.perf_counter() - begun_s)


async def _value(reference: Any) -> Any:
    return await reference
