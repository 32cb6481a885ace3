"""Asking the owners of keys: grouping, one batch to every shard, retries, MOVED, the next owner, the deadline.

Invariants: every batch is written before any answer is awaited (the shell's part of Exchange); a command whose outcome
is unknown is repeated only if its plan says that this is harmless; at most one retry of a key leads to the same shard
without a pause; the loop ends by success, by the budget or by the deadline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from hiredis import ReplyError

from stratacache.client.core.circuit import backoff_s
from stratacache.client.core.effects import Call, Command, Exchange, Operation, ShardFailure, Sleep, Spawn
from stratacache.client.core.refresh import refresh_view
from stratacache.client.core.state import Core
from stratacache.client.core.trouble import Kind, failure_error, read_trouble
from stratacache.client.view import ShardInfo
from stratacache.node.errors import CacheError, UnavailableError

ATTEMPTS_MAX = 4
ATTEMPTS_OF_MANY = 9  # with several owners, a key is held while they change: some hundred milliseconds


class Plan(Protocol):
    """What to ask for some keys, and where their answers go."""

    read: bool  # may any owner answer?
    repeatable: bool  # may a command run twice?
    persist: bool  # retry until the deadline rather than a few times

    def build(self, indices: list[int]) -> list[tuple[list[int], Command]]:
        """The commands for keys of one shard, whose indices ascend, each with the indices that it answers."""
        ...

    def accept(self, indices: list[int], reply: Any, shard: ShardInfo) -> None:
        """Take the reply to one of those commands."""
        ...


class _Round:
    """What became of one exchange: which keys must be asked again, and what was learned on the way."""

    __slots__ = ("again", "errors", "failed", "lost", "newer", "pause")

    def __init__(self) -> None:
        self.again: list[int] = []
        self.errors: dict[int, CacheError] = {}
        self.failed: dict[int, CacheError] = {}
        self.lost: list[str] = []  # shards that did not answer or may not serve
        self.newer: ShardInfo | None = None  # a shard that knows a newer view
        self.pause = False


def ask_owners(
    core: Core, keys: Sequence[bytes], plan: Plan, *, deadline: float, wait_s: float = 0.0
) -> Operation[dict[int, CacheError]]:
    """Carry a plan out for all keys; the keys that could not be served come back with their errors, by index."""
    failed: dict[int, CacheError] = {}
    avoid: dict[int, set[str]] = {}
    pending: Sequence[int] = range(len(keys))
    attempt = 0
    core.budget.earn()
    while True:
        unserved: dict[int, CacheError] = {}
        groups = core.route(keys, pending, read=plan.read, avoid=avoid, failed=unserved)
        if unserved and core.may_ask_for_unserved() and (yield from refresh_view(core, deadline=deadline)):
            continue  # a shard that is suspended or silent here may be back, and elsewhere: this view need not say so
        failed.update(unserved)
        if not groups:
            return failed
        parts = [plan.build(indices) for _, indices in groups.values()]
        calls = [
            Call(shard, [command for _, command in part], wait_s, plan.repeatable)
            for (shard, _), part in zip(groups.values(), parts, strict=True)
        ]
        outcomes = yield Exchange(calls, _patience(core, plan, attempt, deadline))
        seen = _Round()
        for call, part, outcome in zip(calls, parts, outcomes, strict=True):
            _take(core, plan, call.shard, part, outcome, avoid, seen)
        failed.update(seen.failed)
        if not seen.again:
            return failed
        attempt += 1
        tries_max = ATTEMPTS_MAX if core.view.replicas == 1 else ATTEMPTS_OF_MANY
        out_of_tries = not plan.persist and (attempt >= tries_max or not core.budget.spend())
        if out_of_tries or core.monotonic() >= deadline:
            failed.update((index, seen.errors[index]) for index in seen.again)
            return failed
        core.counters.retries += 1
        if plan.read and attempt < core.view.replicas:  # another owner may answer at once
            if seen.newer is not None or seen.lost:
                yield Spawn(refresh_view(core, first=seen.newer, without=seen.lost, deadline=deadline))
        else:
            yield from _recover(core, seen, attempt, deadline)
        pending = sorted(seen.again)


def _patience(core: Core, plan: Plan, attempt: int, deadline: float) -> float:
    """Until when to wait for these shards: a read leaves time to ask every other owner."""
    others = core.view.replicas - 1 - attempt
    if not plan.read or others <= 0:
        return deadline
    now = core.monotonic()
    return min(deadline, now + max(0.0, deadline - now) / (others + 2))


def _take(
    core: Core,
    plan: Plan,
    shard: ShardInfo,
    part: list[tuple[list[int], Command]],
    outcome: list[Any] | ShardFailure,
    avoid: dict[int, set[str]],
    seen: _Round,
) -> None:
    if isinstance(outcome, ShardFailure):
        if core.view.by_id.get(shard.id) == shard:  # one that is elsewhere by now may well answer there
            core.shard_failed(shard.id)
        seen.lost.append(shard.id)
        error = failure_error(outcome)
        again = outcome.refused is None and (plan.repeatable or not outcome.sent)
        for indices, _ in part:
            _again(indices, error, shard, avoid, seen) if again else seen.failed.update(dict.fromkeys(indices, error))
        return
    core.shard_answered(shard.id)
    for (indices, _), reply in zip(part, outcome, strict=True):
        if not isinstance(reply, ReplyError):
            plan.accept(indices, reply, shard)
            continue
        trouble = read_trouble(str(reply), shard.id)
        if trouble.kind in (Kind.FINAL, Kind.INCOMPLETE):
            seen.failed.update(dict.fromkeys(indices, trouble.error))
            continue
        _again(indices, trouble.error, shard, avoid, seen)
        if trouble.epoch > core.view.epoch:
            seen.newer = shard
        elif trouble.kind is Kind.SUSPENDED:
            seen.lost.append(shard.id)
        else:
            seen.pause = True


def _again(indices: list[int], error: CacheError, shard: ShardInfo, avoid: dict[int, set[str]], seen: _Round) -> None:
    for index in indices:
        avoid.setdefault(index, set()).add(shard.id)
        seen.errors[index] = error
    seen.again.extend(indices)


def _recover(core: Core, seen: _Round, attempt: int, deadline: float) -> Operation[None]:
    """Before asking again: fetch the newer view that was heard of, or look for one, and pause where that helps."""
    if seen.newer is not None and (yield from refresh_view(core, first=seen.newer, deadline=deadline)):
        return
    if seen.lost and (yield from refresh_view(core, without=seen.lost, deadline=deadline)):
        return
    if seen.pause or attempt > 1:
        yield Sleep(max(0.0, min(backoff_s(attempt, core.random), deadline - core.monotonic())))


def first_error(failed: dict[int, CacheError]) -> CacheError:
    """One error to speak for many: a wrong call before a shard that did not answer."""
    errors = list(failed.values())
    return next((error for error in errors if not isinstance(error, UnavailableError)), errors[0])
