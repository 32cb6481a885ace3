"""Invalidations: the one kind of call that never fails silently.

By key it goes to the key's owner, or while that is suspended to every active shard, which records it for the owner's
return; by tag, by namespace and for everything to every active shard. Right behind each command that goes to all,
`SC.VIEW` asks whether the shard knows a newer view than the one that the shards were chosen by.

Invariants: the number is returned only when every active shard of one view (at least one) has answered; an invalidation
that spans a view change is repeated under the new view, which costs misses at most; otherwise
InvalidationIncompleteError names the shards, and it is repeated in the background for a bounded time, as is one whose
caller was cancelled or interrupted; what is invalidated leaves this process's near cache before and after, whatever the
outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hiredis import ReplyError

from stratacache.client.core.circuit import backoff_s
from stratacache.client.core.counters import LOGGER
from stratacache.client.core.dispatch import ask_owners
from stratacache.client.core.effects import Call, Command, Exchange, Operation, ShardFailure, Sleep, Spawn
from stratacache.client.core.reads import slices
from stratacache.client.core.refresh import refresh_view
from stratacache.client.core.state import Core
from stratacache.client.core.trouble import Kind, failure_error, read_trouble
from stratacache.client.ring import Ring
from stratacache.client.view import ACTIVE, ShardInfo, View
from stratacache.node.errors import (
    AccessError,
    CacheError,
    CorruptionError,
    InvalidationIncompleteError,
    UnavailableError,
    UsageError,
)


class _KeysPlan:
    """`SC.INVALIDATE` at the owners. Repeating it is harmless, so it is repeated until the deadline."""

    read = False
    repeatable = True
    persist = True

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = keys
        self.removed = 0

    def build(self, indices: list[int]) -> list[tuple[list[int], Command]]:
        """One command for up to 512 keys."""
        return [(part, (b"SC.INVALIDATE", *[self._keys[index] for index in part])) for part in slices(indices)]

    def accept(self, indices: list[int], reply: Any, shard: ShardInfo) -> None:  # noqa: ARG002 - part of Plan
        """The number of entries removed."""
        self.removed += int(reply)


def invalidate_keys(core: Core, keys: Sequence[bytes]) -> Operation[int]:
    """Remove entries by key; the number removed."""

    def attempt(deadline: float) -> Operation[int]:
        plan = _KeysPlan(keys)
        failed = yield from ask_owners(core, keys, plan, deadline=deadline)
        if not failed:
            return plan.removed
        _raise_wrong_call(failed.values())
        what = f"{len(failed)} of {len(keys)} keys"
        ring = core.ring  # another thread may put a newer one into force at any time
        missing = _owners(ring, keys, list(failed))
        if all(ring.view.by_id[shard].state == ACTIVE for shard in missing):
            raise InvalidationIncompleteError(what, missing)
        # An owner is suspended: it will owe these keys, once every active shard has recorded them.
        removed = plan.removed
        for part in slices(list(failed)):
            command = (b"SC.INVKEYS", *[keys[index] for index in part])
            removed += yield from _everywhere(core, command, what, deadline)
        return removed

    def forget() -> None:
        core.flights.forget(keys)
        if core.near is not None:
            core.near.own_write(keys)

    return (yield from _until_acknowledged(core, attempt, forget, f"{len(keys)} keys"))


def invalidate_everywhere(core: Core, command: Command, what: str) -> Operation[int]:
    """Run an invalidating command at every active shard; the number of entries removed."""

    def attempt(deadline: float) -> Operation[int]:
        return (yield from _everywhere(core, command, what, deadline))

    def forget() -> None:
        core.flights.forget()
        if core.near is not None:
            core.near.own_command(command)

    return (yield from _until_acknowledged(core, attempt, forget, what))


def _until_acknowledged(
    core: Core, attempt: Callable[[float], Operation[int]], forget: Callable[[], None], what: str
) -> Operation[int]:
    forget()
    try:
        removed = yield from attempt(core.deadline())
    except InvalidationIncompleteError as error:
        core.counters.invalidations_incomplete += 1
        yield Spawn(_retry_in_background(core, attempt, error.what))
        raise
    except (CacheError, GeneratorExit):
        raise
    except BaseException:  # the caller was stopped: some shards may have it, and nobody will ask whether all do
        core.counters.invalidations_incomplete += 1
        yield Spawn(_retry_in_background(core, attempt, what))
        raise
    finally:
        forget()
    core.counters.invalidations += 1
    return removed


def _retry_in_background(core: Core, attempt: Callable[[float], Operation[int]], what: str) -> Operation[None]:
    """Go on for `invalidation_retry_s`; the caller has been told already that it is not done."""
    end = core.monotonic() + core.options.invalidation_retry_s
    tries = 0
    while core.monotonic() < end:
        tries += 1
        yield Sleep(min(1.0, 10 * backoff_s(tries, core.random)))
        try:
            yield from attempt(core.deadline())
        except InvalidationIncompleteError:
            continue
        except CacheError as error:
            LOGGER.warning("invalidation of %s was given up in the background: %s", what, error)
            return
        LOGGER.info("invalidation of %s was completed in the background", what)
        return
    LOGGER.warning("invalidation of %s was given up after %g s", what, core.options.invalidation_retry_s)


def _everywhere(core: Core, command: Command, what: str, deadline: float) -> Operation[int]:
    removed = 0
    tries = 0
    while True:
        view = core.view
        shards = core.active_shards()
        calls = [Call(shard, [command, (b"SC.VIEW", view.epoch)]) for shard in shards]
        outcomes = yield Exchange(calls, deadline)
        missing: list[str] = []
        newer: View | None = None
        for shard, outcome in zip(shards, outcomes, strict=True):
            count, seen = _acknowledged(core, shard, outcome)
            if count is None:
                missing.append(shard.id)
            else:
                removed += count
            if seen is not None and (newer is None or seen.epoch > newer.epoch):
                newer = seen
        if newer is not None:
            core.adopt(newer)
        elif core.view.epoch == view.epoch and shards and not missing:
            return removed
        elif core.view.epoch == view.epoch:
            yield from refresh_view(core, without=missing, deadline=deadline)
        tries += 1
        left = deadline - core.monotonic()
        if left <= 0:
            names = missing or [shard.id for shard in view.shards]
            raise InvalidationIncompleteError(what, tuple(names))
        if missing or not shards:
            yield Sleep(min(backoff_s(tries, core.random), left))


def _acknowledged(core: Core, shard: ShardInfo, outcome: list[Any] | ShardFailure) -> tuple[int | None, View | None]:
    """The number removed, or None when the shard has not applied it; and a newer view that it knows."""
    if isinstance(outcome, ShardFailure):
        core.shard_failed(shard.id)
        _raise_wrong_call([failure_error(outcome)])
        return None, None
    core.shard_answered(shard.id)
    reply, blob = outcome
    view: View | None = None
    if isinstance(blob, bytes):
        try:
            view = View.from_bytes(blob)
        except CorruptionError:  # whether it knows a newer view is not known then
            return None, None
        if view.epoch <= core.view.epoch:
            view = None
    if isinstance(reply, ReplyError):
        trouble = read_trouble(str(reply), shard.id)
        if trouble.kind is Kind.FINAL:
            _raise_wrong_call([trouble.error])
        return None, view
    return int(reply), view


def _raise_wrong_call(errors: Any) -> None:
    for error in errors:
        if isinstance(error, AccessError | UsageError) and not isinstance(error, UnavailableError):
            raise error


def _owners(ring: Ring, keys: Sequence[bytes], indices: list[int]) -> tuple[str, ...]:
    names: set[str] = set()
    for index in indices:
        try:
            owners = ring.owners(keys[index])
        except UnavailableError:
            continue
        names.add(next((shard.id for shard in owners if shard.state == ACTIVE), owners[0].id))
    return tuple(sorted(names))
