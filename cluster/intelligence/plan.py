"""What to compute or to wake before it is read, and when.

Refresh-ahead: the predicted read falls after the entry's expiry, and a loader can compute it: compute it shortly
before. Wake: bring an entry up to L1 just before its predicted read. Both act only on predictions that have proved
right before (trust.py), within budgets (budget.py), and while they pay (accounting.py).

Of what is due, the earliest comes first; how early to begin takes into account the work before it and what tasks take
to start (starts.py), so that a batch that is read all at once is ready in time, and a single key is computed as late
as can be.

Invariants: nothing is begun twice for one prediction; a kind that is off or rests begins nothing; all times are handed
in, in seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stratacache.cluster.intelligence.accounting import Account, Issued, Kind
from stratacache.cluster.intelligence.budget import Budget, Limits
from stratacache.cluster.intelligence.slices import PatternSlice
from stratacache.cluster.intelligence.starts import Starts
from stratacache.cluster.intelligence.table import Foretold, PatternTable
from stratacache.cluster.intelligence.trust import Trust, classes_of

HORIZON_S: Final = 600.0
TRUST_MIN: Final = 0.6
"""The share of like predictions that must come true: below a half prefetching loses, and shares are estimates."""
MARGIN_S: Final = 4.0
"""What may pass between a read and a decision: a pull, a tick, whole seconds."""
ROUNDED_S: Final = 1.0
"""Visits are known by the second they fell into: a read is due from its predicted time until so much later."""
SPREADS: Final = 2.0
"""How many deviations of the interval before its mean a key is expected."""
STAY_S: Final = 30.0
"""How long a woken entry is expected to stay in L1 unread."""
BELOW_SAVES_S: Final = 3e-4
BELOW_BYTES_A_SECOND: Final = 5e8
"""What a read below L1 waits longer than one in L1; benchmarks/engine.py measured both."""
PATIENCE_S: Final = 15.0
DUE_MAX: Final = 16_384
"""Of more keys that are due at once the first are looked at: a tick stays below some milliseconds."""
TASK_S_MAX: Final = 2.0
"""Keys share a task, one after the other, to spare the start of tasks; dear ones get a task of their own."""
GIVEN_UP_AFTER: Final = 10.0
"""A task is given up after HORIZON_S and so many times what it was to take: by then the read that it was for is over,
whether it computes or waits for resources that are not there."""


@dataclass(frozen=True)
class Refresh:
    """Compute these keys' values anew in one task, under fill leases. It is given up after `deadline_s`."""

    loader: str
    keys: tuple[bytes, ...]
    deadline_s: float = HORIZON_S


@dataclass(frozen=True)
class Wake:
    """Ask a source's shard to bring these keys up to L1."""

    source: str
    keys: tuple[bytes, ...]


Effect = Refresh | Wake


@dataclass
class _Task:
    loader: str
    keys: list[bytes] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an operator may set. `horizon_s`: how far ahead predictions are used."""

    horizon_s: float = HORIZON_S
    refresh_ahead: bool = True
    wake: bool = True
    limits: Limits = field(default_factory=Limits)


class Planner:
    """Decides what to prefetch from what slices of patterns tell. `batches`: loader -> keys in one task at most."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings = settings or Settings()
        self.batches: dict[str, int] = {}
        self.table = PatternTable(registered=self.batches)
        self.budget = Budget(settings.limits)
        self.accounts = {
            Kind.REFRESH: Account(Kind.REFRESH, enabled=settings.refresh_ahead),
            Kind.WAKE: Account(Kind.WAKE, enabled=settings.wake),
        }
        self.trust = {Kind.REFRESH: Trust(), Kind.WAKE: Trust()}
        self.starts = Starts()

    # -- what is learned -----------------------------------------------------------------------------------------

    def take(self, part: PatternSlice, now_s: float) -> None:
        """Take in a slice of a shard's patterns."""
        self._judge(self.table.take(part))
        refresh, wake = self.accounts[Kind.REFRESH], self.accounts[Kind.WAKE]
        if refresh.out:
            for at, key in enumerate(part.keys):
                issued = refresh.out.get(key)
                if issued is not None:
                    self._was_read(refresh, key, issued, part.visits[at], now_s)
        for key in part.woken_used:
            wake.was_read(key, now_s, now_s)
        for key in part.woken_gone:
            wake.was_evicted(key, now_s)

    def _was_read(self, account: Account, key: bytes, issued: Issued, visits: NDArray[np.uint32], now_s: float) -> None:
        later = visits[(visits > issued.after_s) & (visits >= int(issued.at_s))]
        if len(later) and account.was_read(key, float(later[0]), now_s):
            self.budget.returned(issued.cost_s)

    def demand(self, computed_s: float) -> None:
        """Readers have computed for so many seconds since they were asked last."""
        self.budget.demand(computed_s)

    def refreshed(self, key: bytes, done_s: float, *, good: bool, spent_s: float, size: int | None = None) -> None:
        """A refresh of one key was done at `done_s`, or could not be."""
        row = self.table.row_of(key)
        ttl_s = int(self.table.columns["ttls_s"][row]) if row is not None else 0
        until_s = done_s + ttl_s if ttl_s else None
        account = self.accounts[Kind.REFRESH]
        issued = account.out.get(key)
        if issued is not None:
            self.budget.took(issued.cost_s, spent_s)
        if account.was_done(key, done_s, spent_s=spent_s, good=good, size=size, until_s=until_s):
            self.budget.returned(spent_s)
        if good and row is not None:
            self.table.columns["expires_ms"][row] = np.iinfo(np.int64).max if until_s is None else until_s * 1000

    def task_ended(self, loader: str, start_s: float | None) -> None:
        """A task of refreshes is over; `start_s` is what it took beside computing (None: nothing came of it)."""
        self.budget.ended(loader, came_back=start_s is not None)
        if start_s is not None:
            self.starts.learn(loader, start_s)

    def woken(self, keys: Iterable[bytes], now_s: float) -> None:
        """These keys have been brought up to L1."""
        account = self.accounts[Kind.WAKE]
        columns = self.table.columns
        for key in keys:
            row = self.table.row_of(key)
            size = int(columns["sizes"][row]) if row is not None else 0
            saves_s = BELOW_SAVES_S + size / BELOW_BYTES_A_SECOND
            account.was_issued(
                key,
                Issued(
                    at_s=now_s, until_s=now_s + 20 * STAY_S, cost_s=saves_s, size=size, saves_s=saves_s, done_s=now_s
                ),
            )

    def _judge(self, foretold: Foretold) -> None:
        """Learn from predictions that were decided: would what was prefetched have served the read?

        A kind learns only from those on which it could have acted: others tell of keys of another sort.
        """
        if not len(foretold):
            return
        classes = classes_of(foretold.loaders, foretold.seen, foretold.variation, foretold.mean_s)
        early_s, late_s = _refresh_window(foretold.seen, foretold.mean_s, foretold.variation, foretold.ttls_s)
        good = (foretold.late_s >= -early_s) & (foretold.late_s <= late_s)
        could = foretold.loaders >= 0
        self.trust[Kind.REFRESH].learn(classes[could], good[could])
        early_s = _wake_lead(foretold.mean_s, foretold.variation)
        good = (foretold.late_s >= -early_s) & (foretold.late_s <= STAY_S - early_s)
        could = foretold.mean_s > STAY_S
        self.trust[Kind.WAKE].learn(classes[could], good[could])

    # -- what is done --------------------------------------------------------------------------------------------

    def tick(self, now_s: float) -> list[Effect]:
        """What to begin now; call it about every second."""
        self.budget.pass_to(now_s)
        for account in self.accounts.values():
            account.settle(now_s, PATIENCE_S)
        self._judge(self.table.missed(now_s))
        rows = self.table.due(now_s, self.settings.horizon_s)
        if not len(rows):
            return []
        if len(rows) > DUE_MAX:
            rows = rows[np.argpartition(self.table.columns["next_s"][rows], DUE_MAX)[:DUE_MAX]]
        return [*self._refreshes(rows, now_s), *self._wakes(rows, now_s)]

    def _refreshes(self, rows: NDArray[np.int64], now_s: float) -> list[Effect]:
        account = self.accounts[Kind.REFRESH]
        allowed = account.allowance(now_s)
        if not allowed:
            return []
        columns = self.table.columns
        at = {name: columns[name][rows] for name in ("next_s", "mean_s", "variation", "ttls_s", "seen", "costs_s")}
        early_s, _ = _refresh_window(at["seen"], at["mean_s"], at["variation"], at["ttls_s"])
        spread_s = SPREADS * at["variation"] * at["mean_s"]
        latest_s = at["next_s"] + ROUNDED_S + np.minimum(spread_s, at["mean_s"] / 4)
        lives_s = np.where(at["ttls_s"] > 0, at["ttls_s"] - ROUNDED_S, np.inf)
        believed = self._believed(Kind.REFRESH, rows)
        chosen = (
            (columns["loaders"][rows] >= 0)
            & (columns["refreshed_for_s"][rows] != at["next_s"])
            & (columns["expires_ms"][rows] < latest_s * 1000)
            & (at["next_s"] + spread_s + MARGIN_S >= now_s)
            & ((at["ttls_s"] == 0) | (at["ttls_s"] > early_s + at["costs_s"]))
            & (at["costs_s"] <= self.budget.left_s)
            & self._may_begin()[columns["loaders"][rows]]
            & believed
        )
        order = np.flatnonzero(chosen)
        order = order[np.argsort(at["next_s"][order], kind="stable")]
        costs_s = at["costs_s"][order]
        before_s = (np.cumsum(costs_s) - costs_s) / self.settings.limits.tasks_max
        quick_s, slow_s = self.starts.of_all(self.table.loader_names)[:, columns["loaders"][rows[order]]]
        # After a quick start the value must live until the read all the same.
        slow_s = np.minimum(slow_s, np.maximum(quick_s + lives_s[order] - early_s[order], quick_s))
        begin_s = at["next_s"][order] - early_s[order] - costs_s - before_s - slow_s
        tasks: list[_Task] = []
        filling: dict[str, _Task] = {}
        full: set[str] = set()
        for place in np.flatnonzero(begin_s <= now_s)[:allowed]:
            row = int(rows[order[place]])
            loader = self.table.loader_names[columns["loaders"][row]]
            key = self.table.keys[row]
            cost_s = float(columns["costs_s"][row])
            if self.budget.is_spent:
                break
            if loader in full or cost_s > self.budget.left_s or key is None or key in account.out:
                continue
            task = filling.get(loader)
            opens = task is None or len(task.keys) >= self.batches[loader] or task.seconds + cost_s > TASK_S_MAX
            if not self.budget.may_compute(cost_s, loader, opens_task=opens, alone=len(self.batches) == 1):
                full.add(loader)
                continue
            if task is None or opens:
                task = filling[loader] = _Task(loader)
                tasks.append(task)
            task.keys.append(key)
            task.seconds += cost_s
            columns["refreshed_for_s"][row] = columns["next_s"][row]
            account.was_issued(key, self._issued(row, now_s))
        return [Refresh(task.loader, tuple(task.keys), HORIZON_S + GIVEN_UP_AFTER * task.seconds) for task in tasks]

    def _may_begin(self) -> NDArray[np.bool_]:
        """By the number of a loader (and for none, the last), whether anything of it can begin."""
        return np.array([*(not self.budget.is_stuck(name) for name in self.table.loader_names), False])

    def _believed(self, kind: Kind, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Of which rows the prediction is trusted."""
        columns = self.table.columns
        classes = classes_of(*(columns[name][rows] for name in ("loaders", "seen", "variation", "mean_s")))
        believed: NDArray[np.bool_] = self.trust[kind].share(classes) >= TRUST_MIN
        return believed

    def _issued(self, row: int, now_s: float) -> Issued:
        columns = self.table.columns
        cost_s, ttl_s = float(columns["costs_s"][row]), int(columns["ttls_s"][row])
        until_s = float(columns["next_s"][row] + (ttl_s or columns["mean_s"][row]))
        size, last_s = int(columns["sizes"][row]), int(columns["last_s"][row])
        return Issued(at_s=now_s, until_s=until_s, cost_s=cost_s, size=size, saves_s=cost_s, after_s=last_s)

    def _wakes(self, rows: NDArray[np.int64], now_s: float) -> list[Effect]:
        account = self.accounts[Kind.WAKE]
        allowed = account.allowance(now_s)
        if not allowed:
            return []
        columns = self.table.columns
        next_s, variation = columns["next_s"][rows], columns["variation"][rows]
        believed = self._believed(Kind.WAKE, rows)
        chosen = (
            (columns["woken_for_s"][rows] != next_s)
            & (next_s - _wake_lead(columns["mean_s"][rows], variation) <= now_s)
            & (next_s + MARGIN_S >= now_s)
            & (columns["expires_ms"][rows] > next_s * 1000)
            & (columns["mean_s"][rows] > STAY_S)
            & believed
        )
        shards: dict[str, list[bytes]] = {}
        for row in rows[chosen][:allowed].tolist():
            key = self.table.keys[row]
            if key is None or key in account.out:
                continue
            if not self.budget.may_wake():
                break
            columns["woken_for_s"][row] = columns["next_s"][row]
            shards.setdefault(self.table.source_names[columns["sources"][row]], []).append(key)
        return [Wake(source, tuple(keys)) for source, keys in shards.items()]

    def report(self) -> Mapping[str, Any]:
        """What each kind has brought and cost, and how many predictions were judged."""
        return {
            "patterns": len(self.table),
            "judged": self.trust[Kind.REFRESH].outcomes,
            **{kind.value: account.as_dict() for kind, account in self.accounts.items()},
        }


def _refresh_window(
    seen: NDArray[Any], mean_s: NDArray[Any], variation: NDArray[Any], ttls_s: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How long before the predicted time to compute, and how late a read the value still serves.

    A deviation that was estimated from few intervals is taken for larger, and none for less than a five-hundredth.
    """
    doubt = 1 + 2 / np.maximum(seen.astype(np.float64) - 1, 1)
    early = np.maximum(np.maximum(SPREADS * doubt * variation * mean_s, mean_s / 500), MARGIN_S)
    early = np.minimum(early, np.minimum(0.25 * mean_s + MARGIN_S / 2, HORIZON_S))
    mortal = ttls_s > 0
    early = np.where(mortal, np.minimum(early, 0.5 * ttls_s), early)
    late = np.where(mortal, np.minimum(0.5 * mean_s, ttls_s - early), 0.5 * mean_s)
    return early, late


def _wake_lead(mean_s: NDArray[Any], variation: NDArray[Any]) -> NDArray[np.float64]:
    lead: NDArray[np.float64] = np.clip(SPREADS * variation * mean_s, MARGIN_S, STAY_S / 2)
    return lead
