"""get_or_compute: single flight across the cluster by fill leases (Nishtala et al., "Scaling Memcache at Facebook").

A miss gives one caller in the cluster a token; the others wait for the value. The put carries the token, and the shard
refuses it when an invalidation touched the key, one of its tags or its namespace since the token was given.

Invariants: a value computed without a lease is handed to its caller and never stored, because nothing would keep it out
after an invalidation; a lease is given back as soon as its computation fails, so that the next in line goes on; within
a process one flight serves all callers of a key, and what the computation raises reaches each of them; who joined after
it began is given its value only when the owner says that the lease was good: else an invalidation may be between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stratacache.client.base import Fill, Ttl
from stratacache.client.core import leases
from stratacache.client.core.effects import Command, Compute, Join, Operation, Spawn
from stratacache.client.core.flight import Flight
from stratacache.client.core.request import as_payloads, encoded_argument, put_options, tag_list, ttl_ms, ttls_ms
from stratacache.client.core.state import Core
from stratacache.client.core.writes import put_all, put_fill
from stratacache.node.errors import CacheError, UnavailableError, UsageError
from stratacache.node.types import MISS, MissType


@dataclass(frozen=True, slots=True)
class FillOptions:
    """The options of the call; a Fill may override them for its own value."""

    ttl: Ttl
    tags: Sequence[str]
    cost_s: float | None
    codec: str
    wait_s: float
    refresh: bool = False  # compute although a value is cached
    leased_only: bool = False  # and not at all when somebody else computes it


def get_or_compute(
    core: Core,
    key: bytes,
    compute: Callable[[], Any],
    options: FillOptions,
    *,
    strict: bool,
    flight: Flight | None = None,
) -> Operation[Any]:
    """The operation of one key for the caller that runs the flight."""
    if core.near is not None and not options.refresh and (value := core.near.lookup(key)) is not MISS:
        return value
    token: Any = b""
    try:
        wait_until = core.monotonic() + options.wait_s
        word, found = yield from leases.ask(core, key, wait_until, refresh=options.refresh)
        if word == leases.HIT:
            return found
        token = found if word == leases.LEASE else b""
    except UnavailableError as error:
        if not options.refresh and (others := (yield from leases.elsewhere(core, {0: key}))):
            return others[0]
        core.fail_open("get_or_compute", error, strict=strict)
    if options.leased_only and not token:
        if flight is not None:
            flight.void = True
        return MISS
    core.counters.misses += 1
    kept = False
    if flight is not None:
        flight.begun, flight.proven = True, False
    try:
        result, seconds = yield Compute(compute)
        core.counters.computed += 1
        value, stored = _unwrap(result)
        if token and stored is not None:
            cost_s = options.cost_s if options.cost_s is not None else seconds
            if flight is not None:  # who comes from now on may come after what the owner's answer knows of
                core.flights.leave(key, flight, refresh=options.refresh)
            try:
                good = yield from _store_one(core, key, stored, options, cost_s, token)
                kept = True
                if flight is not None:
                    flight.proven = good
            except UnavailableError as error:
                kept = True
                yield Spawn(leases.release_in_background(core, [(key, token)]))
                core.fail_open("put", error, strict=strict)
    except BaseException:
        core.counters.compute_errors += 1
        raise
    finally:
        if token and not kept:
            yield from _release_quietly(core, [(key, token)])
    return value


def _release_quietly(core: Core, held: list[tuple[bytes, Any]]) -> Operation[None]:
    try:
        yield from leases.release(core, held)
    except UsageError:
        return  # the client was closed, and with its connections its leases have ended
    except CacheError as error:
        core.log.note("release", f"a fill lease was not given back and ends by itself: {error}")


def _unwrap(result: Any) -> tuple[Any, Fill[Any] | None]:
    """What the caller gets, and what is to be stored (None: nothing)."""
    if not isinstance(result, Fill):
        return result, Fill(value=result)
    return result.value, result if result.store else None


def _store_one(
    core: Core, key: bytes, fill: Fill[Any], options: FillOptions, cost_s: float, token: Any
) -> Operation[bool]:
    argument, size, codec = _payload(core, fill, options)
    tail = _tail(fill, options, cost_s)
    kept_ms = ttl_ms(_ttl(fill, options), jitter=core.options.ttl_jitter, random=core.random)
    good = yield from put_fill(core, key, argument, size, codec, tail, kept_ms, token)
    core.counters.fills_void += not good
    return good


def _payload(core: Core, fill: Fill[Any], options: FillOptions) -> tuple[Any, int, int]:
    """Payload argument, size and codec of what a fill stores."""
    value = fill.value if fill.stored is MISS else fill.stored
    return encoded_argument(value, fill.codec or options.codec, core.options.signing_key)


def _ttl(fill: Fill[Any], options: FillOptions) -> Ttl:
    return options.ttl if isinstance(fill.ttl, MissType) else fill.ttl


def _tail(fill: Fill[Any], options: FillOptions, cost_s: float) -> Command:
    tags = tag_list(options.tags if fill.tags is None else fill.tags)
    cost_s = fill.cost_s if fill.cost_s is not None else cost_s
    return put_options(None, cost_s, tags, fill.metadata)


def join_or_run(
    core: Core, key: bytes, options: FillOptions, run: Callable[[Flight], Operation[Any]]
) -> Operation[tuple[bool, Any]]:
    """Wait for the flight of this key, or run it. `(False, None)`: it brought nothing in time."""
    deadline = core.monotonic() + options.wait_s
    while True:
        flight, mine = core.flights.board(key, refresh=options.refresh)
        if mine:
            yield from run(flight)
            return True, flight.result()
        early = not flight.begun
        landed = yield Join(flight, deadline)
        if not landed or flight.serves(early):
            return (True, flight.result()) if landed and not flight.abandoned else (False, None)


def get_or_compute_many(
    core: Core,
    keys: Sequence[bytes],
    names: Sequence[Any],
    compute: Callable[[list[Any]], Any],
    options: FillOptions,
    *,
    strict: bool,
) -> Operation[dict[int, Any]]:
    """Values of distinct keys by index; `compute` takes the missing ones by the names that the caller gave them."""
    batch = _Batch(core, keys, names, compute, options, strict)
    values: dict[int, Any] = {}
    if core.near is not None:
        values = {index: value for index, key in enumerate(keys) if (value := core.near.lookup(key)) is not MISS}
    wait_until = core.monotonic() + options.wait_s
    asked = [index for index in range(len(keys)) if index not in values]
    ours, busy, unleased = yield from _sort_out(core, keys, asked, values, strict=strict)
    if ours or unleased:
        yield from batch.run(ours, unleased, values)
    while busy:  # only now the keys that others compute: they had our computing time as a head start
        ours, busy, unleased = yield from _wait_for(core, keys, busy, values, wait_until, strict=strict)
        if ours or unleased:
            yield from batch.run(ours, unleased, values)
    return values


def _wait_for(
    core: Core, keys: Sequence[bytes], busy: list[int], values: dict[int, Any], wait_until: float, *, strict: bool
) -> Operation[tuple[dict[int, Any], list[int], list[int]]]:
    """What became of keys that others compute: as `_sort_out`, and those that are to be asked for once more.

    Who holds a lease waits for nobody: two callers who were given each what the other waits for would wait for ever.
    """
    ours: dict[int, Any] = {}
    later: list[int] = []
    unleased: list[int] = []
    try:
        for index in busy:
            word, found = leases.TIMEOUT, None
            try:
                word, found = yield from leases.ask(core, keys[index], 0.0 if ours else wait_until)
            except UnavailableError as error:
                core.fail_open("get_or_compute_many", error, strict=strict)
            if word == leases.HIT:
                values[index] = found
            elif word == leases.LEASE:
                ours[index] = found
            elif word == leases.TIMEOUT and ours and core.monotonic() < wait_until:
                later.append(index)
            else:
                unleased.append(index)
    except GeneratorExit:
        raise
    except BaseException:
        if ours:
            yield Spawn(leases.release_in_background(core, [(keys[index], token) for index, token in ours.items()]))
        raise
    return ours, later, unleased


def _sort_out(
    core: Core, keys: Sequence[bytes], asked: list[int], values: dict[int, Any], *, strict: bool
) -> Operation[tuple[dict[int, Any], list[int], list[int]]]:
    """Hits go into `values`; the rest is leased to us, busy elsewhere, or to be computed without a lease."""
    ours: dict[int, Any] = {}
    busy: list[int] = []
    unleased: list[int] = []
    if not asked:
        return ours, busy, unleased
    answers, failed = yield from leases.ask_many(core, {index: keys[index] for index in asked})
    if failed:
        values.update((yield from leases.elsewhere(core, {index: keys[index] for index in failed})))
    for index in asked:
        word, found = answers.get(index, (leases.TIMEOUT, None))
        if word == leases.HIT:
            values[index] = found
        elif word == leases.LEASE:
            ours[index] = found
        elif word == leases.BUSY:
            busy.append(index)
        elif index not in values:
            unleased.append(index)
            if index in failed:
                core.fail_open("get_or_compute_many", failed[index], strict=strict)
    return ours, busy, unleased


@dataclass(frozen=True, slots=True)
class _Batch:
    """The computing half of get_or_compute_many: one call of the user's function, then the storing."""

    core: Core
    keys: Sequence[bytes]
    names: Sequence[Any]
    compute: Callable[[list[Any]], Any]
    options: FillOptions
    strict: bool

    def run(self, held: dict[int, Any], unleased: list[int], values: dict[int, Any]) -> Operation[None]:
        """Compute all of them, hand the values out, store those with a lease, give unused leases back."""
        core = self.core
        missing = sorted([*held, *unleased])
        core.counters.misses += len(missing)
        unused = dict(held)
        try:
            result, seconds = yield Compute(self.compute, ([self.names[index] for index in missing],))
            fills = [_unwrap(each) for each in _in_order(result, [self.names[index] for index in missing])]
            core.counters.computed += len(missing)
            values.update((index, value) for index, (value, _) in zip(missing, fills, strict=True))
            cost_s = self.options.cost_s if self.options.cost_s is not None else seconds / len(missing)
            groups: dict[Any, list[tuple[int, Fill[Any]]]] = {}
            for index, (_, fill) in zip(missing, fills, strict=True):
                if fill is not None and index in held:
                    given = fill.tags
                    tags = given if given is None or isinstance(given, str) else tuple(sorted(set(given)))
                    groups.setdefault((fill.ttl, tags, fill.cost_s, fill.metadata), []).append(
                        (index, replace(fill, tags=tags))
                    )
            for alike in groups.values():
                yield from self._store_alike(alike, held, cost_s)
                for index, _ in alike:
                    del unused[index]
        except BaseException:
            core.counters.compute_errors += 1
            raise
        finally:
            if unused:
                yield from _release_quietly(core, [(self.keys[index], token) for index, token in unused.items()])

    def _store_alike(self, alike: list[tuple[int, Fill[Any]]], held: dict[int, Any], cost_s: float) -> Operation[None]:
        """Store fills that have the same options: one request for each shard."""
        core = self.core
        payloads = as_payloads([_payload(core, fill, self.options) for _, fill in alike])
        tokens = [held[index] for index, _ in alike]
        first, keys = alike[0][1], [self.keys[index] for index, _ in alike]
        ttls = ttls_ms(_ttl(first, self.options), len(keys), jitter=core.options.ttl_jitter, random=core.random)
        tail = _tail(first, self.options, cost_s)
        stored, failed = yield from put_all(core, keys, payloads, tail, ttls_ms=ttls, leases=tokens)
        core.counters.fills_void += len(alike) - len(stored) - len(failed)
        if failed:
            yield Spawn(leases.release_in_background(core, [(keys[at], tokens[at]) for at in failed]))
        for error in failed.values():
            core.fail_open("put_many", error, strict=self.strict)


def _in_order(result: Any, missing: list[Any]) -> list[Any]:
    if isinstance(result, Mapping):
        absent = [name for name in missing if name not in result]
        if absent:
            raise UsageError(
                f"compute gave no value for {len(absent)} of {len(missing)} keys, {absent[0]!r} among them"
            )
        return [result[name] for name in missing]
    values = list(result)
    if len(values) != len(missing):
        raise UsageError(
            f"compute gave {len(values)} values for {len(missing)} keys; give one for each, in their order"
        )
    return values
