"""Carries out what the serving decisions of one shard ask for: on its server, its engine, its home and its streams.

Invariant: events are decided one at a time and their effects carried out in order (`_turn`), so that what is vouched
for has been done; where that fails, the process ends rather than vouch for it. What suspended shards owe is noted
beside that: it changes nothing but a log.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from stratacache.cluster import messages as m
from stratacache.cluster import serving_events as s
from stratacache.cluster.acting import act_at_once
from stratacache.cluster.owing import Owing, pay
from stratacache.cluster.serving import Serving
from stratacache.cluster.shard_node import ShardNode, ShardSpec, when_done


class ServingShell:
    """One incarnation's serving decisions, and the node on which they act."""

    def __init__(self, spec: ShardSpec) -> None:
        self.serving = Serving(shard=spec.shard, incarnation=spec.incarnation, lease_ms=spec.config.lease_ms)
        self._owing = Owing(self.serving)
        self.node = ShardNode(spec, owe=self._owing.owe, missed=self._owing.missed, gone=self._leftovers_gone)
        self.lease_wanted = asyncio.Event()
        """Set when a serving lease is to be asked for at once."""
        self._settling = 0
        self._turn = asyncio.Lock()

    def may_serve(self) -> bool:
        """Whether data commands may be answered at this moment."""
        return self.serving.may_serve(self.node.engine.now_ms())

    async def deliver(self, event: m.Prepare | m.Activate) -> m.Answers:
        """Take a step of a view change; returns what this shard vouches for."""
        answers = await self.handle(event)
        if self._settling and self.node.replication is not None:
            epoch, self._settling = self._settling, 0
            await asyncio.wrap_future(self.node.replication.outbox.drained())  # not in the turn: leases go on
            answers += await self.handle(s.Settled(epoch=epoch))
        return answers

    async def handle(self, event: s.ServingEvent) -> m.Answers:
        """Decide, and carry out what follows, when it is this event's turn."""
        answers: m.Answers = []
        async with self._turn:
            try:
                effects = self.serving.handle(event, self.node.engine.now_ms())
                self._owing.listen(self.node.server, self.node.replication)
                for effect in effects:
                    await self._act_on(effect, answers)
            except Exception as error:  # noqa: BLE001 - it ends the process
                # The decisions take it for done, and would vouch for it when asked again.
                self.node.fall(f"a step of a view change failed ({type(event).__name__})", error)
        return answers

    async def _act_on(self, effect: s.ServingEffect, answers: m.Answers) -> None:
        node = self.node
        if act_at_once(node, effect):
            return
        match effect:
            case s.Settle(epoch=epoch):
                self._settling = epoch
            case s.DropContent():
                await when_done(node.alone.clear())
            case s.PayDebts(debts=debts):
                await self._pay(debts)
            case s.StoreState():
                await asyncio.to_thread(node.home.write_state, self._stored(effect))
            case s.DropLeftovers():
                dropped = asyncio.get_running_loop().create_future()
                node.handoffs.drop_leftovers(lambda: dropped.set_result(None))
                await dropped
            case s.Answer(event=answer):
                answers.append(answer)
            case s.AskLease():
                self.lease_wanted.set()
            case s.End():
                os._exit(0)

    async def _pay(self, debts: Sequence[m.Debt]) -> None:
        for answer in pay(self.node.alone, debts):
            await when_done(answer)

    async def close(self, deadline_s: float, *, forget: bool) -> None:
        """Close the node when the turn of what is being carried out is over; clean when it served to the end."""
        async with self._turn:
            serves = self.serving.prepared is None and self.serving.epoch > 0
            await self.node.close(deadline_s, forget=forget, clean=serves)

    # -------------------------------------------------------------- what is kept for the next process

    def _stored(self, effect: s.StoreState) -> m.Stored:
        spec = self.node.spec
        return m.Stored(
            uid=spec.config.uid,
            incarnation=spec.incarnation,
            epoch=effect.epoch,
            ring=effect.ring,
            clean=False,
            pinned=spec.pinned,
            mixed=effect.mixed,
        )

    async def _leftovers_gone(self, epoch: int) -> None:
        await self.handle(s.LeftoversGone(epoch=epoch))
