"""Every method of a client as an operation: arguments checked, fail-open decided, the same for both shells.

Invariants: a wrong call raises before anything is sent; what the cache can't do is counted and answered with the
default, unless `strict`; invalidations raise either way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgpack
from hiredis import ReplyError

from stratacache.client.base import Ttl
from stratacache.client.core import fills, invalidate, through
from stratacache.client.core.dispatch import first_error
from stratacache.client.core.effects import Call, Command, Exchange, Operation, ShardFailure
from stratacache.client.core.flight import Flight
from stratacache.client.core.fullkeys import all_full, careful_full, one_full, prefix_of, text_of
from stratacache.client.core.reads import EachPlan, GetPlan, ask_one, fetch
from stratacache.client.core.request import (
    NUMBER,
    Payloads,
    distinct_keys,
    encoded_argument,
    encoded_arguments,
    put_options,
    tag_list,
    ttl_ms,
    ttls_ms,
)
from stratacache.client.core.state import Core
from stratacache.client.core.writes import put_all, put_one
from stratacache.node.errors import UnavailableError, UsageError
from stratacache.node.keys import check_namespace
from stratacache.node.merging import merged_stats
from stratacache.node.types import MISS

WAIT_S_MAX = 365 * 86400.0  # nobody waits for longer, and threads can't wait for ever


class Operations:
    """The operations of one handle: a core, a default namespace, and whether errors of the cache are raised."""

    __slots__ = ("core", "default_namespace", "prefix", "strict")

    def __init__(self, core: Core, namespace: str, *, strict: bool) -> None:
        self.core = core
        self.default_namespace = check_namespace(text_of(namespace)).decode()
        self.strict = strict
        self.prefix = prefix_of(namespace)

    def full(self, key: str | bytes, namespace: str | None) -> bytes:
        """The canonical full key; raises UsageError or LimitError for what is no key."""
        if namespace is None and (full := one_full(key, self.prefix)) is not None:
            return full
        return careful_full(key, self.default_namespace if namespace is None else namespace)

    def _all_full(self, keys: Iterable[str | bytes], namespace: str | None) -> list[bytes]:
        """`full` for each, worked out on all of an ordinary batch at once."""
        if isinstance(keys, str | bytes):
            raise UsageError(f"keys is the single key {keys!r}; give a list of keys")
        keys = list(keys)
        if namespace is None and (fulls := all_full(keys, self.prefix)) is not None:
            return fulls
        return [self.full(key, namespace) for key in keys]

    def get(self, full: bytes, default: Any) -> Operation[Any]:
        """One value by full key, or the default."""
        (value,), failed = yield from fetch(self.core, (full,))
        if failed:
            self.core.fail_open("get", failed[0], strict=self.strict)
        return default if value is MISS else value

    def get_many(self, keys: Iterable[Any], namespace: str | None) -> Operation[dict[Any, Any]]:
        """The hits by the keys as they were given."""
        distinct = distinct_keys(keys)
        fulls = self._all_full(distinct, namespace)
        if not fulls:
            return {}
        values, failed = yield from fetch(self.core, fulls)
        if failed:
            self.core.fail_open("get_many", first_error(failed), strict=self.strict)
        return {key: value for key, value in zip(distinct, values, strict=True) if value is not MISS}

    def found(self, distinct: list[Any], reply: list[Any]) -> dict[Any, Any]:
        """The hits among keys that one SC.MGET has asked for."""
        plan = GetPlan(self.core, distinct)
        plan.take_many(range(len(distinct)), reply)
        self.core.counters.hits += len(distinct) - plan.missed
        self.core.counters.misses += plan.missed
        if not plan.missed:
            return dict(zip(distinct, plan.values, strict=True))
        return {key: value for key, value in zip(distinct, plan.values, strict=True) if value is not MISS}

    def encoded(
        self, value: Any, ttl: Ttl, tags: Iterable[str], cost_s: float | None, codec: str
    ) -> tuple[Any, int, int, tuple[Any, ...]]:
        """What a put sends: payload argument, size, codec id, options. Raises for what can't be stored."""
        options = self.core.options
        expires_in_ms = ttl_ms(ttl, jitter=options.ttl_jitter, random=self.core.random)
        tail = put_options(expires_in_ms, cost_s, tag_list(tags))
        return (*encoded_argument(value, codec, options.signing_key), tail)

    def put(
        self, full: bytes, value: Any, ttl: Ttl, tags: Iterable[str], cost_s: float | None, codec: str
    ) -> Operation[bool]:
        """Store one value."""
        return (yield from self.put_encoded(full, *self.encoded(value, ttl, tags, cost_s, codec)))

    def put_encoded(
        self, full: bytes, argument: Any, size: int, codec_id: int, tail: tuple[Any, ...]
    ) -> Operation[bool]:
        """Store one payload."""
        try:
            return (yield from put_one(self.core, full, argument, size, codec_id, tail))
        except UnavailableError as error:
            self.core.fail_open("put", error, strict=self.strict)
            return False

    def _prepared(
        self,
        items: Mapping[Any, Any],
        ttl: Ttl,
        tags: Iterable[str],
        namespace: str | None,
        cost_s: float | None,
        codec: str,
    ) -> tuple[list[Any], list[bytes], Payloads, Command, Sequence[int]]:
        """Keys, full keys, payloads, options and TTLs of a batch. Raises for what can't be stored."""
        if not isinstance(items, Mapping):
            raise UsageError(f"items is a {type(items).__name__}; give a mapping of keys to values")
        options = self.core.options
        ttls = ttls_ms(ttl, len(items), jitter=options.ttl_jitter, random=self.core.random)
        tail = put_options(None, cost_s, tag_list(tags))
        fulls = self._all_full(items, namespace)
        values = list(items.values())
        payloads = encoded_arguments(values, codec, options.signing_key) if values else Payloads([], [], b"")
        return list(items), fulls, payloads, tail, ttls

    def put_many(
        self,
        items: Mapping[Any, Any],
        ttl: Ttl,
        tags: Iterable[str],
        namespace: str | None,
        cost_s: float | None,
        codec: str,
    ) -> Operation[int]:
        """Store many values with the same options, each with a jitter of its own."""
        _, fulls, payloads, tail, ttls = self._prepared(items, ttl, tags, namespace, cost_s, codec)
        if not fulls:
            return 0
        stored, failed = yield from put_all(self.core, fulls, payloads, tail, ttls_ms=ttls)
        if failed:
            self.core.fail_open("put_many", first_error(failed), strict=self.strict)
        return len(stored)

    def put_through(
        self,
        items: Mapping[Any, Any],
        store: Callable[[], Any],
        ttl: Ttl,
        tags: Iterable[str],
        namespace: str | None,
        cost_s: float | None,
        codec: str,
    ) -> Operation[set[Any]]:
        """Have `store` take the items, then put them; the keys that the cache holds."""
        keys, fulls, payloads, tail, ttls = self._prepared(items, ttl, tags, namespace, cost_s, codec)
        stored = yield from through.put_through(self.core, fulls, payloads, tail, store, ttls)
        return {keys[index] for index in stored}

    def contains(self, key: str | bytes, namespace: str | None) -> Operation[bool]:
        """Whether a live entry is there."""
        reply = yield from self._one("contains", key, namespace, b"EXISTS", otherwise=0)
        return bool(reply)

    def touch(self, key: str | bytes, ttl: Ttl, namespace: str | None) -> Operation[bool]:
        """A new time to live; the near cache learns of it by a push, and at once in this process."""
        milliseconds = ttl_ms(ttl)
        full = self.full(key, namespace)
        if self.core.near is not None:
            self.core.near.own_write((full,))
        argument = -1 if milliseconds is None else milliseconds
        reply = yield from self._one("touch", key, namespace, b"SC.EXPIRE", argument, read=False, otherwise=0)
        if self.core.near is not None:
            self.core.near.own_write((full,))
        return bool(reply)

    def ttl(self, key: str | bytes, namespace: str | None) -> Operation[Any]:
        """Seconds left, None for no expiry, MISS for no entry."""
        reply = yield from self._one("ttl", key, namespace, b"PTTL", otherwise=-2)
        if reply == -2:
            return MISS
        return None if reply == -1 else reply / 1000

    def _one(
        self,
        operation: str,
        key: str | bytes,
        namespace: str | None,
        command: bytes,
        *arguments: Any,
        otherwise: Any,
        read: bool = True,
    ) -> Operation[Any]:
        plan = EachPlan((self.full(key, namespace),), command, *arguments, read=read)
        try:
            return (yield from ask_one(self.core, self.full(key, namespace), plan))
        except UnavailableError as error:
            self.core.fail_open(operation, error, strict=self.strict)
            return otherwise

    def fill_options(
        self,
        ttl: Ttl,
        tags: Iterable[str],
        cost_s: float | None,
        codec: str,
        wait_s: float | None,
        *,
        refresh: bool = False,
    ) -> fills.FillOptions:
        """Check the options of a get_or_compute before anything is computed."""
        ttl_ms(ttl)
        tag_list(tags := tags if isinstance(tags, str) else tuple(tags))
        wait = self.core.options.lease_wait_s if wait_s is None else wait_s
        if not isinstance(wait, NUMBER) or wait != wait:  # noqa: PLR0124 - that is what not a number is
            raise UsageError(f"wait_s is {wait_s!r}; give seconds, or None for the client's lease_wait_s")
        return fills.FillOptions(ttl, tuple(tags), cost_s, codec, min(wait, WAIT_S_MAX), refresh)

    def held(self, full: bytes, options: fills.FillOptions) -> Any:
        """What the near cache has for a get_or_compute, or MISS."""
        near = self.core.near
        return MISS if near is None or options.refresh else near.lookup(full)

    def run_flight(
        self, full: bytes, compute: Callable[[], Any], options: fills.FillOptions, flight: Flight
    ) -> Operation[None]:
        """Compute for everybody who waits for the flight; it lands whatever happens."""
        try:
            value = yield from fills.get_or_compute(
                self.core, full, compute, options, strict=self.strict, flight=flight
            )
        except BaseException as error:
            # Out of the table first: who comes after the landing begins anew.
            self.core.flights.leave(full, flight, refresh=options.refresh)
            flight.land(error=error)
            raise
        self.core.flights.leave(full, flight, refresh=options.refresh)
        flight.land(value)

    def compute_alone(self, full: bytes, compute: Callable[[], Any], options: fills.FillOptions) -> Operation[Any]:
        """For a caller whose patience with the others is over: compute without the flight."""
        impatient = replace(options, wait_s=0.0)
        return (yield from fills.get_or_compute(self.core, full, compute, impatient, strict=self.strict))

    def get_or_compute_many(
        self,
        keys: Iterable[Any],
        compute: Callable[[list[Any]], Any],
        options: fills.FillOptions,
        namespace: str | None,
    ) -> Operation[dict[Any, Any]]:
        """All values by the keys as they were given."""
        distinct = distinct_keys(keys)
        fulls = self._all_full(distinct, namespace)
        values = yield from fills.get_or_compute_many(self.core, fulls, distinct, compute, options, strict=self.strict)
        return {key: values[index] for index, key in enumerate(distinct)}

    def invalidate(self, keys: Iterable[str | bytes], namespace: str | None) -> Operation[int]:
        """Remove entries by key."""
        fulls = list(dict.fromkeys(self._all_full(keys, namespace)))
        if not fulls:
            return 0
        return (yield from invalidate.invalidate_keys(self.core, fulls))

    def invalidate_tags(self, tags: Iterable[str]) -> Operation[int]:
        """Remove entries by tag."""
        names = tag_list(tags)
        if not names:
            return 0
        what = "tag " + ", ".join(name.decode() for name in names[:5]) + (", ..." if len(names) > 5 else "")
        return (yield from invalidate.invalidate_everywhere(self.core, (b"SC.INVTAGS", *names), what))

    def invalidate_namespace(self, namespace: str | None) -> Operation[int]:
        """Remove a namespace."""
        name = check_namespace(text_of(self.default_namespace if namespace is None else namespace))
        command = (b"SC.INVNS", name)
        return (yield from invalidate.invalidate_everywhere(self.core, command, f"namespace {name.decode()}"))

    def clear(self) -> Operation[int]:
        """Remove everything."""
        return (yield from invalidate.invalidate_everywhere(self.core, (b"SC.CLEAR",), "everything"))

    def gather(self, command: bytes) -> Operation[tuple[dict[str, Any], list[str]]]:
        """A msgpack map from every shard by its id, and the shards that gave none."""
        shards = self.core.active_shards()
        outcomes = yield Exchange([Call(shard, [(command,)]) for shard in shards], self.core.deadline())
        found: dict[str, Any] = {}
        missing = [shard.id for shard in self.core.view.shards if shard not in shards]
        for shard, outcome in zip(shards, outcomes, strict=True):
            if isinstance(outcome, ShardFailure) or isinstance(outcome[0], ReplyError):
                missing.append(shard.id)
            else:
                found[shard.id] = msgpack.unpackb(outcome[0], strict_map_key=False)
        if missing and self.strict:
            raise UnavailableError(f"no answer from {', '.join(missing)}")
        return found, missing

    def stats(self) -> Operation[dict[str, Any]]:
        """This process's counters and what each shard reports."""
        shards, missing = yield from self.gather(b"SC.STATS")
        client = self.core.counters.as_dict()
        if self.core.near is not None:
            client["near"] = self.core.near.stats()
        view = self.core.view
        known = {shard.id: str(shard.incarnation) for shard in view.shards}
        shards = {name: self.core.ledger.take(name, known.get(name, ""), stats) for name, stats in shards.items()}
        return {
            "epoch": view.epoch,
            "cluster": view.cluster,
            "client": client,
            "shards": shards,
            "total": merged_stats(shards.values()),
            "missing": missing,
        }

    def patterns(self) -> Operation[dict[str, Any]]:
        """What each shard knows of access patterns."""
        shards, _ = yield from self.gather(b"SC.PATTERNS")
        return shards

    def recipe(self, full: bytes) -> Operation[bytes]:
        """What it takes to compute a value again; empty where that is not kept."""
        reply = yield from ask_one(self.core, full, EachPlan((full,), b"SC.RECIPE", read=False))
        return bytes(reply[0]) if reply and reply[0] is not None else b""

    def ping(self) -> Operation[dict[str, float]]:
        """One round trip to each shard, one after the other, so that none waits for another."""
        times: dict[str, float] = {}
        for shard in self.core.active_shards():
            begun = self.core.monotonic()
            (outcome,) = yield Exchange([Call(shard, [(b"PING",)])], self.core.deadline())
            if not isinstance(outcome, ShardFailure) and not isinstance(outcome[0], ReplyError):
                times[shard.id] = self.core.monotonic() - begun
        if not times:
            raise UnavailableError(f"no shard of {self.core.options.address or 'the cluster'} answers a ping")
        return times
