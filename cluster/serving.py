"""A shard's side of views, serving leases and debts: whether it may serve, under which view, and what others owe.

Pure and synchronous: `handle(event, now_ms)` returns effects in the order in which they are to be carried out; `now_ms`
is the shard's monotonic clock.

Invariants:
- it serves only under an activated view and until its lease runs out, counted from when it *sent* the request;
- between prepare and activate it takes no invalidation, so that each is acknowledged under one view;
- it vouches (`Answer`) for a prepare only after its content has been dropped, or its debts have been paid, and the
  state is stored, and nothing is on its way to other owners that began before it;
- what it holds is of the ring in force, but for leftovers of the last change of the ring: they are gone before it
  vouches for the next one, so that nothing old is there when a key comes back;
- it obeys only the highest term that it has seen, and epochs never fall.
"""

from __future__ import annotations

from stratacache.client.view import View
from stratacache.cluster import messages as m
from stratacache.cluster import serving_events as s
from stratacache.cluster.debts import OpenLog
from stratacache.cluster.warmth import view_ring


class Serving:
    """The serving state of one shard process; see the module's text."""

    def __init__(self, *, shard: str, incarnation: int, lease_ms: int) -> None:
        self.shard = shard
        self.incarnation = incarnation
        self.lease_ms = lease_ms
        self.term = 0
        self.epoch = 0
        self.view: View | None = None
        self.prepared: m.Prepare | None = None
        self.away: dict[str, int] = {}
        self.fences: dict[str, str] = {}
        self.lease_until_ms = 0
        self.mixed = False
        self._handoff = 0  # the epoch of the last change of the ring
        self._logs: dict[str, OpenLog] = {}
        self._settled = 0

    def newest_view(self) -> View | None:
        """The view of the highest epoch that this shard vouches for, prepared or active."""
        return self.prepared.view if self.prepared is not None else self.view

    def may_serve(self, now_ms: int) -> bool:
        """Whether data commands may be answered at this moment."""
        return self.epoch > 0 and now_ms < self.lease_until_ms

    def is_logging(self) -> bool:
        """Whether some shard is suspended, so that invalidations have to be told to `handle`."""
        return bool(self._logs)

    def handle(self, event: s.ServingEvent, now_ms: int) -> list[s.ServingEffect]:
        """Take note of an event and say what is to be done."""
        match event:
            case m.Prepare():
                return self._on_prepare(event)
            case m.Activate():
                return self._on_activate(event)
            case s.LeaseGranted():
                return self._on_lease(event, now_ms)
            case m.RefuseLease(term=term, gone=gone):
                if gone and term >= self.term:
                    self.lease_until_ms = 0
                    return [s.ServeUntil(ms=0), s.End()]
                return []
            case s.Invalidated(debt=debt, shard=shard):
                logs = [self._logs[shard]] if shard in self._logs else [] if shard else self._logs.values()
                for log in logs:
                    log.add(debt)
                return []
            case s.Settled(epoch=epoch):
                if self.prepared is None or self.prepared.view.epoch != epoch:
                    return []
                self._settled = epoch
                return [self._prepared_answer(epoch)]
            case s.LeftoversGone(epoch=epoch):
                return self._on_leftovers_gone(epoch)

    def _on_prepare(self, event: m.Prepare) -> list[s.ServingEffect]:
        if event.incarnation != self.incarnation or event.term < self.term:
            return []
        epoch = event.view.epoch
        if self.prepared is not None and epoch == self.prepared.view.epoch and event.term == self.term:
            return [self._vouch(event.view)]
        newest = self.newest_view()
        if newest is not None and epoch <= newest.epoch:
            if event.term == self.term and newest is self.view:
                return []  # a late duplicate of what has been activated since
            answer = m.Outpaced(shard=self.shard, incarnation=self.incarnation, epoch=newest.epoch)
            return [s.Answer(event=answer)]
        if event.view.replicas > 1 and event.returns and newest is not None and not self._has_yet_to_come_in(event):
            # Others have gone on without this process and forgot its streams: only a new one can begin anew.
            self.lease_until_ms = 0
            return [s.ServeUntil(ms=0), s.End()]
        self.term, self.prepared = event.term, event
        self.away, self.fences = dict(event.away), dict(event.fences)
        for shard in event.away:
            self._logs.setdefault(shard, OpenLog(since=epoch))
        moves = self._moves(event.view)
        effects: list[s.ServingEffect] = [s.HoldInvalidations(on=True)]
        if event.view.replicas > 1:
            effects.append(s.HoldChains(view=event.view))
        else:
            effects.append(s.StopMoving(view=event.view))
        if moves and self.mixed:
            effects.append(s.DropLeftovers())
            self.mixed = False
        if event.keep is False:
            effects.append(s.DropContent())
        elif event.keep and event.debts:
            effects.append(s.PayDebts(debts=event.debts))
        effects.append(s.StoreState(epoch=epoch, ring=view_ring(event.view), mixed=self.mixed or moves))
        effects.append(self._vouch(event.view))
        return effects

    def _has_yet_to_come_in(self, event: m.Prepare) -> bool:
        """Whether the view that was to let this process in was overtaken before it came into force.

        Then nobody has sent it a change of a key, and the coordinator has had it in each of its views since.
        """
        prepared = self.prepared
        if self.view is not None or prepared is None:
            return False
        return prepared.term == event.term and event.after < prepared.view.epoch

    def _vouch(self, view: View) -> s.ServingEffect:
        """The answer to a prepare, or with several owners what has to come before it."""
        if view.replicas > 1 and self._settled != view.epoch:
            return s.Settle(epoch=view.epoch)
        return self._prepared_answer(view.epoch)

    def _moves(self, view: View) -> bool:
        """Whether keys leave or come with a view, seen from the one in force here."""
        return view.replicas == 1 and self.view is not None and view_ring(self.view) != view_ring(view)

    def _prepared_answer(self, epoch: int) -> s.Answer:
        owed = {shard: log.freeze() for shard, log in self._logs.items() if shard not in self.away}
        return s.Answer(event=m.Prepared(shard=self.shard, incarnation=self.incarnation, epoch=epoch, owed=owed))

    def _on_activate(self, event: m.Activate) -> list[s.ServingEffect]:
        if event.incarnation != self.incarnation or event.term < self.term:
            return []
        epoch = event.view.epoch
        answer = s.Answer(event=m.Activated(shard=self.shard, incarnation=self.incarnation, epoch=epoch))
        if epoch == self.epoch:
            return [answer]
        if self.prepared is None or epoch != self.prepared.view.epoch:
            return []
        prepare, moves = self.prepared, self._moves(event.view)
        self.epoch, self.view, self.prepared = epoch, event.view, None
        for shard in [shard for shard in self._logs if shard not in self.away]:
            del self._logs[shard]
        effects: list[s.ServingEffect] = []
        if moves or prepare.former is not None:
            self._handoff, self.mixed = epoch, moves
            effects.append(s.BeginHandoff(view=event.view, former=prepare.former, window_ms=prepare.window_ms))
        effects.append(s.ShowView(view=event.view, returns=prepare.returns))
        return [*effects, s.HoldInvalidations(on=False), answer, s.AskLease()]

    def _on_leftovers_gone(self, epoch: int) -> list[s.ServingEffect]:
        if not self.mixed or self.view is None or epoch != self._handoff:
            return []
        self.mixed = False
        if self.prepared is not None:
            return []  # what was stored for that may say more; the next that is stored is right again
        return [s.StoreState(epoch=self.epoch, ring=view_ring(self.view))]

    def _on_lease(self, event: s.LeaseGranted, now_ms: int) -> list[s.ServingEffect]:
        if event.term != self.term or event.epoch != self.epoch or self.epoch == 0 or event.sent_ms > now_ms:
            return []
        self.lease_until_ms = max(self.lease_until_ms, event.sent_ms + self.lease_ms)
        return [s.ServeUntil(ms=self.lease_until_ms)]
