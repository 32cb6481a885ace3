"""What a shard does about keys that come and go with a change of the ring: both sides, and the server's part of it.

`ownership.py` says which keys the shard answers for; `intake.py` is the new owner's side, `leftovers.py` the former
one's.

Invariants: there is at most one of each side, those of the last change of the ring; a former owner gives entries to the
process that the view names as their owner, under the epoch of that change, and to nobody else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final

from stratacache.client.view import View
from stratacache.cluster import serving_events as s
from stratacache.cluster.intake import Intake, Peers
from stratacache.cluster.leftovers import Leftovers
from stratacache.cluster.ownership import Ownership
from stratacache.node.resp.replies import CommandError

if TYPE_CHECKING:
    from stratacache.node.engine import MultiLevelCache
    from stratacache.node.resp.server import NodeServer

STEP_MS: Final = 20
UNKNOWN: Final = "ERR this shard knows nothing of that handoff"
NOT_YET: Final = "TRYAGAIN this shard has prepared that view and waits for it to come into force"


class Handoffs:
    """One shard process's handoffs. It is its server's `arrivals` and `departures`."""

    def __init__(
        self,
        engine: MultiLevelCache,
        server: NodeServer,
        ownership: Ownership,
        peers: Peers,
        *,
        incarnation: int,
        gone: Callable[[int], object],
    ) -> None:
        self.ownership = ownership
        self._engine = engine
        self._server = server
        self._peers = peers
        self._incarnation = incarnation
        self._gone = gone  # hears that the leftovers of an epoch are gone
        self._view: View | None = None
        self._prepared = 0
        self.intake: Intake | None = None
        self.leftovers: Leftovers | None = None
        self._before: Counter[str] = Counter()  # what the handoffs before this one counted
        engine.leases.origin = b"%b/%d-" % (ownership.shard.encode(), incarnation)

    # -- view changes --------------------------------------------------------------------------------------------

    def stop_moving(self, view: View) -> None:
        """A view has been prepared: answer no more for what leaves with it, and give no fill lease of it any chance."""
        self.ownership.prepare(view)
        self._prepared = view.epoch
        if self.ownership.is_moving:
            self._server.table_is_owned = False
            self._engine.moving.drop_leases(lambda key: not self.ownership.keeps(key))
            self._server.keys_moved()
        elif not self.left:
            self._server.table_is_owned = True

    def drop_leftovers(self, done: Callable[[], None]) -> None:
        """Get rid of what an earlier change has left, before another ring is vouched for."""
        self._end()
        Leftovers(self._engine, self.ownership, until_ms=0).drop_all(done)

    def begin(self, effect: s.BeginHandoff) -> None:
        """The ring changes now: keep what leaves, take what comes."""
        self._end()
        view, engine = effect.view, self._engine
        self.ownership.activate(view)
        self._view = view
        self._server.table_is_owned = False
        until_ms = engine.now_ms() + effect.window_ms
        self.leftovers = Leftovers(engine, self.ownership, until_ms=until_ms)
        self._peers.after(STEP_MS, lambda: self._step(view.epoch))
        if effect.former is not None:
            self.intake = self._server.arrivals = Intake(
                engine,
                self._peers,
                shard=self.ownership.shard,
                incarnation=self._incarnation,
                view=view,
                former=effect.former,
                window_ms=effect.window_ms,
            )
            self.intake.begin()

    def show(self, view: View) -> None:
        """A view is in force."""
        self.ownership.activate(view)

    def _end(self) -> None:
        self._before.update(self._counted())
        if self.intake is not None:
            self.intake.end()
        self.intake = self._server.arrivals = None
        self.leftovers = None

    def _step(self, epoch: int) -> None:
        leftovers = self.leftovers
        if leftovers is None or self._view is None or self._view.epoch != epoch:
            return
        if not leftovers.step():
            self._peers.after(STEP_MS, lambda: self._step(epoch))
            return
        if not self.ownership.is_moving:
            self._server.table_is_owned = True
        self._gone(epoch)

    @property
    def left(self) -> int:
        """How many moved entries are still here, as far as is known; 0 when there are none."""
        return self.leftovers.left if self.leftovers is not None else 0

    def stats(self) -> dict[str, int]:
        """Entries that came from other shards and that went to them, since this process began, and those still due."""
        counts = Counter({"taken": 0, "refused": 0, "given": 0, "dropped": 0})
        counts.update(self._before)
        counts.update(self._counted())
        return {**counts, "left": self.left}

    def _counted(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        if self.intake is not None:
            counts |= {"taken": self.intake.taken, "refused": self.intake.refused}
        if self.leftovers is not None:
            counts |= {"given": self.leftovers.given, "dropped": self.leftovers.dropped}
        return counts

    # -- the server's commands -----------------------------------------------------------------------------------

    def take(self, epoch: int, taker: str, incarnation: bytes, keys: Sequence[bytes]) -> Future[list[bytes | None]]:
        """SC.TAKE: single keys; raises CommandError for a handoff that is not under way."""
        leftovers = self._checked(epoch, taker, incarnation)
        if any(self.ownership.primary(key) != taker for key in keys):
            raise CommandError(UNKNOWN)
        future: Future[list[bytes | None]] = Future()
        leftovers.take(keys, future.set_result)
        return future

    def drain(self, epoch: int, taker: str, incarnation: bytes) -> Future[list[bytes] | None] | None:
        """SC.DRAIN: the next batch, with None when there is none; None at once: to be asked again in a moment."""
        leftovers = self._checked(epoch, taker, incarnation)
        future: Future[list[bytes] | None] = Future()
        return future if leftovers.batch(taker, future.set_result) else None

    def _checked(self, epoch: int, taker: str, incarnation: bytes) -> Leftovers:
        view, leftovers = self._view, self.leftovers
        if epoch == self._prepared and (view is None or view.epoch < epoch):
            raise CommandError(NOT_YET)
        if view is None or leftovers is None or view.epoch != epoch:
            raise CommandError(UNKNOWN)
        entry = view.by_id.get(taker)
        if entry is None or entry.incarnation != incarnation.decode("ascii", "replace"):
            raise CommandError(UNKNOWN)
        return leftovers
