"""Values that go into a store first and then into the cache, from any number of processes at once.

Each key's fill lease is taken before the store is called. Where it is still ours afterwards the value is put with it;
the keys that we did not get it for, or lost it meanwhile, are invalidated instead, and so are all of them when the
caller is stopped in between.

Why the cache is never left with a value that is older than the store's: call a value stale once the store has taken a
newer one, whose writer W has returned. W did one of two things after its call of the store.
- W put with its lease. A put ends all leases of its key, and there is one at a time, so whoever puts later took its
  lease later, and called the store later still.
- W invalidated. That removes what is there and voids the lease of whoever has not put yet: what is put later was asked
  of the store, or given to it, later.
So what is in the cache after W returned is W's value or one that the store took after it, until it takes a newer one.
A load takes its lease before it asks the store, and is covered by the same argument.

Invariants: nothing is put without a lease that was taken before the store was called; where the store raised, whether
it took the values is not known, so their keys are invalidated, unless it says that the call was wrong (UsageError:
nothing was changed).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stratacache.client.core import leases
from stratacache.client.core.dispatch import first_error
from stratacache.client.core.effects import Command, Compute, Operation
from stratacache.client.core.invalidate import invalidate_keys
from stratacache.client.core.request import Payloads
from stratacache.client.core.state import Core
from stratacache.client.core.writes import put_all
from stratacache.node.errors import CacheError, UsageError


def put_through(
    core: Core, keys: Sequence[bytes], payloads: Payloads, tail: Command, store: Callable[[], Any], ttls: Sequence[int]
) -> Operation[set[int]]:
    """Call `store`, then put; indices of the keys that the cache has taken. Raises what `store` raises, and
    InvalidationIncompleteError when an old value may still be served.
    """
    if not keys:
        yield Compute(store)
        return set()
    held, failed = yield from leases.take_many(core, keys)
    if failed:
        core.fail_open("put_through", first_error(failed), strict=False)  # the invalidation tells, if it lasts
    try:
        yield Compute(store)
    except BaseException as error:
        unchanged = isinstance(error, UsageError)
        undo = leases.release(core, [(keys[index], held[index]) for index in held])
        yield from _quietly(core, undo if unchanged else invalidate_keys(core, keys))
        raise
    try:
        stored = yield from _put_leased(core, keys, payloads, tail, held, ttls)
    except GeneratorExit:
        raise
    except BaseException:  # the caller was cancelled, say: the store has the new values and the cache may have old ones
        yield from _quietly(core, invalidate_keys(core, keys))
        raise
    if rest := [key for index, key in enumerate(keys) if index not in stored]:
        yield from invalidate_keys(core, rest)
    return stored


def _put_leased(
    core: Core, keys: Sequence[bytes], payloads: Payloads, tail: Command, held: dict[int, Any], ttls: Sequence[int]
) -> Operation[set[int]]:
    """Put the values of the keys whose leases we hold; indices of those that were taken."""
    if not held:
        return set()
    places = sorted(held)
    done, failed = yield from put_all(
        core,
        [keys[index] for index in places],
        _some(payloads, places),
        tail,
        ttls_ms=[ttls[index] for index in places] if ttls else (),
        leases=[held[index] for index in places],
    )
    if failed:  # also for a reason that would last (a value above the shard's limit): the store has taken it
        core.counters.failed("put_through")
        core.log.note("put_through", f"put_through went on without the cache: {first_error(failed)}")
    return {places[at] for at in done}


def _quietly(core: Core, undo: Operation[Any]) -> Operation[None]:
    """For what follows an error that is raised itself; invalidations go on being tried in the background."""
    try:
        yield from undo
    except CacheError as error:
        core.log.note("put_through", f"the store failed, and then the cache: {error}")


def _some(payloads: Payloads, places: Sequence[int]) -> Payloads:
    arguments, sizes, codecs = payloads
    if len(places) == len(codecs):
        return payloads
    return Payloads(
        [arguments[index] for index in places],
        [sizes[index] for index in places],
        bytes([codecs[index] for index in places]),
    )
