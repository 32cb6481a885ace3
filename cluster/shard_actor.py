"""The shard's process, as Ray starts and controls it; gets and puts come over sockets (shard_node.py).

The actor is never restarted by Ray: every process is one incarnation, made by the coordinator, so that what it holds
and who it is never disagree.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from stratacache.cluster import coordinator_events as c
from stratacache.cluster import messages as m
from stratacache.cluster import serving_events as s
from stratacache.cluster.config import RAY_NAMESPACE, coordinator_name
from stratacache.cluster.serving_shell import ServingShell
from stratacache.cluster.shard_node import ShardSpec, when_done

if TYPE_CHECKING:
    from stratacache.cluster.intelligence.facts import PatternReporter

RENEW_MAX_S: Final = 1.0
CALL_DEADLINE_S: Final = 2.0
ORPHAN_AFTER_S: Final = 120.0
"""A shard whose coordinator is gone for good (not only restarting) ends itself: nothing of ours is left behind."""


class ShardActor:
    """One incarnation of one shard. Call `start` first."""

    def __init__(self, spec: ShardSpec) -> None:
        self.spec = spec
        self.shell = ServingShell(spec)
        self.node = self.shell.node
        self.started: m.ShardStarted | None = None
        self._reporter: PatternReporter | None = None
        self._coordinator: Any = None

    # -------------------------------------------------------------- what the coordinator asks

    async def start(self) -> m.ShardStarted:
        """Open the home and listen, without serving yet; raises UsageError with one line for the user."""
        spec, node = self.spec, self.node
        await node.open()
        endpoints = node.server.endpoints
        self.started = m.ShardStarted(
            shard=spec.shard,
            incarnation=spec.incarnation,
            host=endpoints.host,
            port=endpoints.port,
            unix=endpoints.unix,
            node=spec.node,
            pid=os.getpid(),
            fence=node.home.fence,
            stored=node.home.read_state(),
        )
        node.background.keep(self._keep_lease())
        return self.started

    async def deliver(self, event: m.Prepare | m.Activate) -> m.Answers:
        """Take a step of a view change; returns what this shard vouches for."""
        return await self.shell.deliver(event)

    async def probe(self) -> tuple[str, m.Found | None]:
        """What a new coordinator has to know: the cluster's life, and this shard's state once it has started."""
        if self.started is None:
            return self.spec.config.uid, None
        serving = self.shell.serving
        found = m.Found(
            started=self.started,
            view=serving.newest_view(),
            serves=self.shell.may_serve(),
            away=dict(serving.away),
            fences=dict(serving.fences),
        )
        return self.spec.config.uid, found

    async def stats(self) -> dict[str, Any]:
        """The node's counters and gauges."""
        node = self.node
        return {
            **node.stats(),
            "server": node.server.stats(),
            "metrics": node.metrics.address if node.metrics is not None else "",
            "pid": os.getpid(),
            "serving": self.shell.may_serve(),
            "epoch": self.shell.serving.epoch,
            "uptime_ms": node.engine.now_ms() - node.server.started_ms,
        }

    async def patterns(self, reader: str, keys_max: int) -> bytes:
        """What changed of this shard's access patterns since `reader` asked last."""
        if self._reporter is None:
            from stratacache.cluster.intelligence.facts import PatternReporter

            self._reporter = PatternReporter(self.node.engine, f"{self.spec.shard}/{self.spec.incarnation}")
        return self._reporter.report(reader, keys_max).to_bytes()

    async def wake(self, keys: Sequence[bytes]) -> list[bytes]:
        """Bring keys up to L1, some at a time; those that were not there before."""
        woken = []
        for number, key in enumerate(keys):
            if self.shell.may_serve() and await when_done(self.node.engine.wake(key)):
                woken.append(key)
            if number % 16 == 15:
                await asyncio.sleep(0)
        return woken

    async def watch(self) -> None:
        """Never returns: the caller learns of this process's end by the error."""
        await asyncio.Event().wait()

    async def close(self, deadline_s: float = 10.0, *, forget: bool = False) -> None:
        """Stop serving, flush the L3, and mark it clean; with `forget` empty it first."""
        self.node.background.cancel()
        if self.started is not None:
            await self.shell.close(deadline_s, forget=forget)

    # -------------------------------------------------------------- the right to serve

    async def _keep_lease(self) -> None:
        """Ask for the right to serve, each second and when told to. The lease counts from when the request was sent."""
        from ray.exceptions import ActorDiedError, RayError

        loop = asyncio.get_running_loop()
        heard_s = loop.time()
        renew_s = min(RENEW_MAX_S, self.spec.config.lease_ms / 10_000)
        wanted = self.shell.lease_wanted
        while True:
            wanted.clear()
            sent_ms = self.node.engine.now_ms()
            request = m.LeaseRequested(
                shard=self.spec.shard,
                incarnation=self.spec.incarnation,
                epoch=self.shell.serving.epoch,
                leftovers=self.node.handoffs.left,
            )
            try:
                coordinator = await self._find_coordinator()
                effect = await asyncio.wait_for(coordinator.renew.remote(request), CALL_DEADLINE_S)
                heard_s = loop.time()
                await self._take_lease(effect, sent_ms)
            except (RayError, TimeoutError, ValueError) as error:
                if isinstance(error, ActorDiedError | ValueError):
                    self._coordinator = None
                    if loop.time() - heard_s > ORPHAN_AFTER_S:
                        self.node.home.close()
                        os._exit(0)
            with suppress(TimeoutError):
                await asyncio.wait_for(wanted.wait(), renew_s)

    async def _find_coordinator(self) -> Any:
        if self._coordinator is None:
            import ray

            name = coordinator_name(self.spec.config.name)
            self._coordinator = await asyncio.to_thread(ray.get_actor, name, RAY_NAMESPACE)
        return self._coordinator

    async def _take_lease(self, effect: c.CoordinatorEffect | None, sent_ms: int) -> None:
        match effect:
            case m.GrantLease(term=term, epoch=epoch):
                await self.shell.handle(s.LeaseGranted(term=term, epoch=epoch, sent_ms=sent_ms))
            case m.RefuseLease() | m.Activate():
                await self.shell.handle(effect)
