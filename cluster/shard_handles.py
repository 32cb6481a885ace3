"""The coordinator's hold on its shards' processes: starts them as Ray actors, watches them, calls them, ends them.

Invariants: a process is known by shard and incarnation, which are its actor's name; whatever becomes of a call is told
as an event, and no event tells more than is certain: an actor that Ray calls dead may still run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from stratacache.cluster import coordinator_events as c
from stratacache.cluster import messages as m
from stratacache.cluster.config import RAY_NAMESPACE, ClusterConfig, shard_actor_name
from stratacache.cluster.shard_actor import ShardActor
from stratacache.cluster.shard_node import ShardSpec
from stratacache.node.errors import CacheError
from stratacache.node.merging import counters, merged_stats

PROBE_DEADLINE_S: Final = 3.0
CALL_DEADLINE_S: Final = 30.0
STATS_DEADLINE_S: Final = 2.0
WATCH_AGAIN_S: Final = 0.25

log = logging.getLogger(__name__)


class ShardHandles:
    """The shards' actors of one cluster; `hear` takes events to the decisions, `spawn` runs work in the background."""

    def __init__(
        self,
        config: ClusterConfig,
        hear: Callable[[c.CoordinatorEvent], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self.actors: dict[tuple[str, int], Any] = {}
        self.last_stats: dict[str, dict[str, Any]] = {}
        """Each shard's last figures: one that gives no answer keeps them."""
        self._config = config
        self._hear = hear
        self._spawn = spawn

    # -------------------------------------------------------------- coming

    async def start(self, effect: c.StartShard, address: str, *, pinned: bool) -> None:
        """Start a process on the Ray node with this address."""
        import ray
        from ray.exceptions import RayError
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        config, shard, incarnation = self._config, effect.shard, effect.incarnation
        spec = ShardSpec(
            config=config,
            shard=shard,
            incarnation=incarnation,
            host=listen_address(config, address),
            port=effect.port,
            node=effect.node,
            pinned=pinned,
            base=counters(self.last_stats.get(shard, {})),
        )
        where = NodeAffinitySchedulingStrategy(effect.node, soft=False) if effect.node else "SPREAD"
        try:
            handle = (
                ray.remote(ShardActor)
                .options(
                    name=shard_actor_name(config.name, shard, incarnation),
                    namespace=RAY_NAMESPACE,
                    lifetime="detached",
                    num_cpus=config.cpus_per_shard,
                    memory=config.memory_bytes(),
                    max_restarts=0,
                    max_concurrency=1000,
                    scheduling_strategy=where,
                )
                .remote(spec)
            )
            self.actors[shard, incarnation] = handle
            started = await handle.start.remote()
        except (CacheError, RayError, ValueError, OSError) as error:
            self._hear(c.ShardStartFailed(shard=shard, incarnation=incarnation, reason=_one_line(shard, error)))
            return
        self._hear(started)
        self._spawn(self.watch(shard, incarnation))

    async def probe_all(self, names: Sequence[tuple[str, int]]) -> tuple[list[m.Found], list[tuple[str, int]]]:
        """Ask processes that an earlier coordinator has started; returns who answered, and who was silent."""
        answers = await asyncio.gather(*(self._probe(*name) for name in names))
        found = [answer for answer in answers if isinstance(answer, m.Found)]
        return found, [name for name, answer in zip(names, answers, strict=True) if answer == "silent"]

    async def _probe(self, shard: str, incarnation: int) -> m.Found | str:
        import ray
        from ray.exceptions import ActorDiedError, RayError, RayTaskError

        name = shard_actor_name(self._config.name, shard, incarnation)
        try:
            handle = await asyncio.to_thread(ray.get_actor, name, RAY_NAMESPACE)
            uid, found = await asyncio.wait_for(handle.probe.remote(), PROBE_DEADLINE_S)
        except RayTaskError:  # whatever it raised, and be it a ValueError: it lives
            log.exception("%s could not tell what it holds", name)
            return "silent"
        except (ActorDiedError, ValueError):
            return "dead"
        except (RayError, TimeoutError):
            return "silent"
        if uid != self._config.uid or found is None:
            ray.kill(handle)  # of an earlier life of the name, or never came to listen
            return "dead"
        self.actors[shard, incarnation] = handle
        answer: m.Found = found
        return answer

    async def watch(self, shard: str, incarnation: int) -> None:
        """Learn at once when the process ends."""
        from ray.exceptions import ActorUnavailableError, RayError

        while (handle := self.actors.get((shard, incarnation))) is not None:
            try:
                await handle.watch.remote()
            except ActorUnavailableError:
                await asyncio.sleep(WATCH_AGAIN_S)
            except RayError:
                self.actors.pop((shard, incarnation), None)
                self._hear(c.ShardLost(shard=shard, incarnation=incarnation))

    # -------------------------------------------------------------- calls

    async def deliver(self, effect: m.Prepare | m.Activate) -> None:
        """Take a step of a view change to a shard, and its answers back."""
        from ray.exceptions import RayError

        handle = self.actors.get((effect.shard, effect.incarnation))
        if handle is None:
            return
        try:
            answers: m.Answers = await asyncio.wait_for(handle.deliver.remote(effect), CALL_DEADLINE_S)
        except (RayError, TimeoutError) as error:
            log.warning("%s did not answer a view change: %s", effect.shard, type(error).__name__)
            return
        for answer in answers:
            self._hear(answer)

    async def gather_stats(self) -> None:
        """Ask all for their figures."""
        await asyncio.gather(*(self._ask_stats(shard, handle) for (shard, _), handle in self.actors.items()))

    async def _ask_stats(self, shard: str, handle: Any) -> None:
        with suppress(Exception):  # a shard that can't answer has no news
            self.last_stats[shard] = await asyncio.wait_for(handle.stats.remote(), STATS_DEADLINE_S)

    def operations(self) -> Mapping[str, Mapping[str, Any]]:
        """The sum of the last figures by operation, without the work of adding up all others."""
        found: Mapping[str, Mapping[str, Any]] = merged_stats(
            stats.get("operations", {}) for stats in self.last_stats.values()
        )
        return found

    # -------------------------------------------------------------- going

    async def close(self, effect: c.CloseShard) -> None:
        """Have a process close; it is ended in any case."""
        shard, incarnation = effect.shard, effect.incarnation
        handle = self.actors.get((shard, incarnation))
        if handle is None:
            return
        try:
            await asyncio.wait_for(handle.close.remote(forget=effect.forget), CALL_DEADLINE_S)
        except Exception as error:  # noqa: BLE001 - it is ended in any case
            log.warning("%s did not close: %s", shard, error)
        self.kill(shard, incarnation)

    def kill(self, shard: str, incarnation: int) -> None:
        """End a process at once."""
        import ray

        handle = self.actors.pop((shard, incarnation), None)
        if handle is not None:
            ray.kill(handle)

    def kill_all(self) -> None:
        """End every process that is known."""
        for shard, incarnation in list(self.actors):
            self.kill(shard, incarnation)


def listen_address(config: ClusterConfig, node_address: str) -> str:
    """Where a shard on a Ray node listens: as configured, else loopback on one machine, else the node's address."""
    if config.host:
        return config.host
    return "127.0.0.1" if config.machine else node_address


def _one_line(shard: str, error: BaseException) -> str:
    cause = getattr(error, "cause", None)
    if isinstance(cause, CacheError):
        error = cause
    text = " ".join(str(error).split())
    return text if isinstance(error, CacheError) else f"{shard} could not start: {text[:300]}"
