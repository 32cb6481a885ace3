"""Learning who is in the cluster: the first view from the seeds, newer ones from any shard, Ray as the last resort.

Invariants: a view is adopted only if its epoch is higher; failures ask for a view at most every few dozen
milliseconds, whatever the number of threads; several lone nodes make a ring of exactly the addresses given, reachable
or not, because a ring that depended on who answers would differ between clients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hiredis import ReplyError

from stratacache.client.address import Seed
from stratacache.client.core.effects import Call, Discover, Exchange, Operation, ShardFailure
from stratacache.client.core.state import Core
from stratacache.client.core.trouble import failure_error, read_trouble
from stratacache.client.view import ANYBODY, ShardInfo, View
from stratacache.node.errors import AccessError, CacheError, CorruptionError, UnavailableError

REFRESH_EVERY_S = 0.05
FIRST_LOOK = 5  # times an operation's deadline: a coordinator that is just starting is waited for
ASKED_AT_ONCE = 3


def seed_shard(seed: Seed) -> ShardInfo:
    """A seed as something that can be called: whoever answers there is welcome."""
    return ShardInfo(id=seed.name, host=seed.host, port=seed.port, unix=seed.unix, incarnation=ANYBODY)


def bootstrap(core: Core) -> Operation[None]:
    """Get the first view: from Ray when there are no seeds, else from all seeds at once.

    Raises UnavailableError with one line that says who did not answer, AccessError for a wrong token.
    """
    if not core.seeds:
        view = yield Discover(core.options.deadline_s * FIRST_LOOK)
        core.adopt(view)
        return
    deadline = core.monotonic() + core.options.deadline_s
    calls = [Call(seed, [(b"SC.VIEW",)]) for seed in core.seeds]
    outcomes = yield Exchange(calls, deadline)
    views: dict[str, View] = {}
    errors: list[CacheError] = []
    for seed, outcome in zip(core.seeds, outcomes, strict=True):
        view_or_error = _read_view(outcome, seed)
        if isinstance(view_or_error, View):
            views[seed.id] = view_or_error
        elif view_or_error is not None:
            errors.append(view_or_error)
    refused = next((error for error in errors if isinstance(error, AccessError)), None)
    if refused is not None:
        raise refused
    if not views:
        raise UnavailableError(f"no shard answers at {core.options.address}: {'; '.join(map(str, errors))}")
    newest = max(views.values(), key=lambda view: view.epoch)
    core.adopt(newest if newest.epoch > 0 else lone_view(core.seeds, views))


def lone_view(seeds: Sequence[ShardInfo], views: dict[str, View]) -> View:
    """The view of nodes that belong to no cluster: one shard for each address, under the address as it was written."""
    if len(seeds) == 1:
        known = views[seeds[0].id].shards[0]
        # What a node believes its address to be may mean nothing here: the address that worked does. Its Unix socket
        # is worth a try from anywhere: a connection checks that the very same process answers there.
        unix = seeds[0].unix or known.unix
        return View(epoch=0, shards=(replace(seeds[0], id=known.id, unix=unix, incarnation=known.incarnation),))
    return View(epoch=0, shards=tuple(replace(seed, weight=1.0) for seed in seeds))


def _read_view(outcome: list[Any] | ShardFailure, shard: ShardInfo) -> View | CacheError | None:
    if isinstance(outcome, ShardFailure):
        return failure_error(outcome)
    blob = outcome[0]
    if blob is None:
        return None
    if isinstance(blob, ReplyError):
        return read_trouble(str(blob), shard.id).error
    try:
        return View.from_bytes(blob)
    except CorruptionError as error:
        return error


def refresh_view(
    core: Core, *, deadline: float, first: ShardInfo | None = None, without: Sequence[str] = ()
) -> Operation[bool]:
    """Look for a newer view; True when one was adopted.

    `first` is a shard that is known to have one. Otherwise a few shards other than `without` are asked, then the
    seeds, then Ray, and not more often than every REFRESH_EVERY_S.
    """
    epoch = core.view.epoch
    if epoch <= 0:
        return False  # a lone node, or several: there is nothing newer
    if first is not None:
        return bool((yield from _ask(core, [first], epoch, deadline)))
    now = core.monotonic()
    if now < core.refresh_after:
        return core.view.epoch > epoch
    core.refresh_after = now + REFRESH_EVERY_S
    others = [shard for shard in core.active_shards() if shard.id not in without]
    asked = core.random.sample(others, min(ASKED_AT_ONCE, len(others)))
    for places in (asked, list(core.seeds)):
        if places:
            adopted = yield from _ask(core, places, epoch, deadline)
            if adopted is not None:
                return adopted
    left_s = deadline - core.monotonic()
    if left_s <= 0:
        return False
    try:
        view = yield Discover(left_s)
    except UnavailableError:
        return False
    return view is not None and core.adopt(view)


def _ask(core: Core, shards: list[ShardInfo], epoch: int, deadline: float) -> Operation[bool | None]:
    """Whether a newer view was adopted; None when nobody answered."""
    soon = min(deadline, core.monotonic() + core.options.connect_deadline_s)
    outcomes = yield Exchange([Call(shard, [(b"SC.VIEW", epoch)]) for shard in shards], soon)
    views = [_read_view(outcome, shard) for outcome, shard in zip(outcomes, shards, strict=True)]
    if all(isinstance(view, CacheError) for view in views):
        return None
    newest = max((view for view in views if isinstance(view, View)), key=lambda view: view.epoch, default=None)
    return newest is not None and core.adopt(newest)
