"""`CacheClient`: the blocking client, a thin face of the operations in `core/operations.py`.

Invariants: safe to share between threads; a pickle holds the address and the options, never a socket, and connects
again where it is read; every method is one operation, run by the shell of this process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from stratacache.client.backend import BACKENDS, Backend
from stratacache.client.base import Cache, Fill, K, Key, T, Ttl, declared_as
from stratacache.client.core.effects import Operation, ShardFailure
from stratacache.client.core.fills import FillOptions, join_or_run
from stratacache.client.core.flight import Flight
from stratacache.client.core.operations import Operations
from stratacache.client.core.trouble import failure_error
from stratacache.client.options import ClientOptions
from stratacache.client.transport.runner import CLOSED, SLOW
from stratacache.client.view import View
from stratacache.node.errors import UsageError
from stratacache.node.types import MISS


class CacheClient:
    """A handle on a cache. Made by `connect`; `base.Cache` describes the methods.

    Handles of a process with equal options share connections and near cache. A handle that was closed, or whose
    parent was (`namespace`), raises UsageError.
    """

    def __init__(
        self, options: ClientOptions, *, strict: bool = False, default_namespace: str = "default", shared: bool = True
    ) -> None:
        self._options = options
        self._strict = strict
        self._shared = shared
        self._owns = True
        self._closed = False
        self._backend: Backend = BACKENDS.take(options, shared=shared)
        self._bind(default_namespace)

    def _bind(self, default_namespace: str) -> None:
        self._ops = Operations(self._backend.core, default_namespace, strict=self._strict)
        self._run = self._backend.shell.run
        self._ask_one: Callable[..., Any] = self._backend.shell.ask_one
        self._ask_many: Callable[..., Any] = self._backend.shell.ask_many
        self._core = self._backend.core
        self._near = self._core.near

    def __repr__(self) -> str:
        where = self._options.address or "the cluster of this Ray program"
        return f"<{type(self).__name__} {where} namespace={self._ops.default_namespace!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reconnect, (type(self), self._options, self._strict, self._ops.default_namespace)

    @property
    def view(self) -> View:
        """The view that this client routes by."""
        return self._backend.core.view

    @property
    def strict(self) -> bool:
        """Whether failures of the cache are raised instead of answered with the default."""
        return self._strict

    def get(self, key: Key, default: Any = MISS, *, namespace: str | None = None) -> Any:
        """The value under `key`, or `default` when there is none. Arrays are read-only."""
        full = self._ops.full(key, namespace)
        if self._near is not None and not self._closed:
            value = self._near.lookup(full)
            if value is not MISS:
                return value
        elif (reply := self._ask_one(full, (b"SC.GET", full))) is not SLOW:
            counters = self._core.counters
            if reply.__class__ is ShardFailure:
                self._core.fail_open("get", failure_error(reply), strict=self._strict)
                return default
            if reply is not None:
                value = self._core.decode(reply[0], reply[1])
                if value is not MISS:
                    counters.hits += 1
                    return value
            counters.misses += 1
            return default
        return self._run(self._ops.get(full, default))

    def get_many(self, keys: Iterable[K], *, namespace: str | None = None) -> dict[K, Any]:
        """The values of those keys that are cached, asked of all shards at once."""
        if self._near is None and namespace is None and not isinstance(keys, str | bytes):
            keys = list(dict.fromkeys(keys))
            if (reply := self._ask_many(keys, self._ops.prefix)) is not SLOW:
                if reply.__class__ is ShardFailure:
                    self._core.fail_open("get_many", failure_error(reply), strict=self._strict)
                    return {}
                return self._ops.found(keys, reply)
        return self._run(self._ops.get_many(keys, namespace))

    def put(
        self,
        key: Key,
        value: Any,
        *,
        ttl: Ttl = None,
        tags: Iterable[str] = (),
        namespace: str | None = None,
        cost_s: float | None = None,
        codec: str = "auto",
    ) -> bool:
        """Store a value; True when every owner that must hold it has acknowledged it."""
        full = self._ops.full(key, namespace)
        argument, size, codec_id, tail = self._ops.encoded(value, ttl, tags, cost_s, codec)
        if self._near is None and argument.__class__ is bytes:
            command = (b"SC.PUT", full, argument, b"CODEC", codec_id, *tail)
            reply = self._ask_one(full, command, repeatable=False)
            if reply is not SLOW:
                return self._put_outcome(reply)
        return self._run(self._ops.put_encoded(full, argument, size, codec_id, tail))

    def _put_outcome(self, reply: Any) -> bool:
        counters = self._core.counters
        if isinstance(reply, ShardFailure):
            self._core.fail_open("put", failure_error(reply), strict=self._strict)
            return False
        stored = reply is not None
        counters.puts += stored
        counters.puts_refused += not stored
        return stored

    def put_many(
        self,
        items: Mapping[K, Any],
        *,
        ttl: Ttl = None,
        tags: Iterable[str] = (),
        namespace: str | None = None,
        cost_s: float | None = None,
        codec: str = "auto",
    ) -> int:
        """Store many values with the same options; the number of those that were acknowledged."""
        return self._run(self._ops.put_many(items, ttl, tags, namespace, cost_s, codec))

    def put_through(
        self,
        items: Mapping[K, Any],
        store: Callable[[], Any],
        *,
        ttl: Ttl = None,
        tags: Iterable[str] = (),
        namespace: str | None = None,
        cost_s: float | None = None,
        codec: str = "auto",
    ) -> set[K]:
        """Call `store`, which keeps these values for good, then put them; the keys that the cache has taken.

        However many processes write a key so at once: after a call has returned, the cache gives no value that the
        store took before the one of that call (a near cache, where there is one, as soon as it has heard of it). Keys
        that several change at the same moment are not cached, but invalidated. Until it returns, readers may be given
        the old values; those that miss wait for it. Raises what `store` raises, and InvalidationIncompleteError when
        an old value may still be served.
        """
        return self._run(self._ops.put_through(items, store, ttl, tags, namespace, cost_s, codec))

    def contains(self, key: Key, *, namespace: str | None = None) -> bool:
        """Whether a live entry is there, without fetching it."""
        return self._run(self._ops.contains(key, namespace))

    def touch(self, key: Key, *, ttl: Ttl, namespace: str | None = None) -> bool:
        """Give an entry a new time to live from now (None: no expiry); False when there is no such entry."""
        return self._run(self._ops.touch(key, ttl, namespace))

    def ttl(self, key: Key, *, namespace: str | None = None) -> Any:
        """Seconds left as a float, None for an entry without expiry, MISS when there is no such entry."""
        return self._run(self._ops.ttl(key, namespace))

    @declared_as(Cache.get_or_compute)
    def get_or_compute(
        self,
        key: Key,
        compute: Callable[[], Any],
        *,
        ttl: Ttl = None,
        tags: Iterable[str] = (),
        namespace: str | None = None,
        cost_s: float | None = None,
        codec: str = "auto",
        wait_s: float | None = None,
        refresh: bool = False,
    ) -> Any:
        """The cached value, or that of `compute`, which runs once for all callers in the cluster."""
        options = self._ops.fill_options(ttl, tags, cost_s, codec, wait_s, refresh=refresh)
        full = self._ops.full(key, namespace)
        if self._near is not None and not self._closed and (value := self._ops.held(full, options)) is not MISS:
            return value
        landed, value = self._fly(full, compute, options)
        if not landed:
            value = self._run(self._ops.compute_alone(full, compute, options))
        return value

    def _fly(self, full: bytes, compute: Callable[[], Any], options: FillOptions) -> tuple[bool, Any]:
        """One computation for all threads of this process: whether it landed in time, and with what."""

        def run(flight: Flight) -> Operation[None]:
            return self._ops.run_flight(full, compute, options, flight)

        return self._run(join_or_run(self._core, full, options, run))

    def count_not_refreshable(self) -> None:
        """A value was stored whose inputs could not be kept with it."""
        self._core.counters.not_refreshable += 1

    def recipe(self, key: Key, *, namespace: str | None = None) -> bytes:
        """What it takes to compute the value of a key again, as it was put with it; empty where that is not kept."""
        return self._run(self._ops.recipe(self._ops.full(key, namespace)))

    def recompute(
        self,
        key: Key,
        compute: Callable[[], T | Fill[T]],
        *,
        ttl: Ttl = None,
        namespace: str | None = None,
        codec: str = "auto",
    ) -> Any:
        """Compute a value anew under a fill lease and store it; MISS, and nothing computed, when another holds it."""
        options = self._ops.fill_options(ttl, (), None, codec, 0.0, refresh=True)
        landed, value = self._fly(self._ops.full(key, namespace), compute, replace(options, leased_only=True))
        return value if landed else MISS

    @declared_as(Cache.get_or_compute_many)
    def get_or_compute_many(
        self,
        keys: Iterable[K],
        compute: Callable[[list[K]], Any],
        *,
        ttl: Ttl = None,
        tags: Iterable[str] = (),
        namespace: str | None = None,
        cost_s: float | None = None,
        codec: str = "auto",
        wait_s: float | None = None,
    ) -> dict[K, Any]:
        """All values: the cached ones, and the others from one call of `compute` with the distinct missing keys."""
        options = self._ops.fill_options(ttl, tags, cost_s, codec, wait_s)
        return self._run(self._ops.get_or_compute_many(keys, compute, options, namespace))

    def invalidate(self, key: Key, *, namespace: str | None = None) -> int:
        """Remove one entry everywhere; the number removed. Raises InvalidationIncompleteError."""
        return self._run(self._ops.invalidate((key,), namespace))

    def invalidate_many(self, keys: Iterable[Key], *, namespace: str | None = None) -> int:
        """Remove many entries everywhere; the number removed. Raises InvalidationIncompleteError."""
        return self._run(self._ops.invalidate(keys, namespace))

    def invalidate_tags(self, tags: Iterable[str]) -> int:
        """Remove every entry that has one of these tags. Raises InvalidationIncompleteError."""
        return self._run(self._ops.invalidate_tags(tags))

    def invalidate_namespace(self, namespace: str | None = None) -> int:
        """Remove every entry of a namespace. Raises InvalidationIncompleteError."""
        return self._run(self._ops.invalidate_namespace(namespace))

    def clear(self) -> int:
        """Remove everything from the whole cache. Raises InvalidationIncompleteError."""
        return self._run(self._ops.clear())

    def stats(self) -> dict[str, Any]:
        """`client` (this process's counters), `shards` (id -> its figures), `total` (merged), `missing` (no answer)."""
        return self._run(self._ops.stats())

    def patterns(self) -> dict[str, Any]:
        """Access patterns by shard id, as the shards report them."""
        return self._run(self._ops.patterns())

    def ping(self) -> dict[str, float]:
        """Seconds of one round trip for every shard that answers."""
        return self._run(self._ops.ping())

    def namespace(self, name: str) -> Self:
        """The same client bound to another default namespace; closing it closes nothing."""
        bound = type(self).__new__(type(self))
        bound.__dict__.update(self.__dict__)
        bound._owns = False
        bound._bind(name)
        return bound

    def close(self) -> None:
        """Give this handle back; the last one of its process closes the connections."""
        if self._closed:
            return
        self._closed = True
        self._run = _closed
        self._ask_one = _ask_nobody
        self._ask_many = _ask_nobody
        if self._owns:
            BACKENDS.give(self._backend)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _ask_nobody(*_: Any, **__: Any) -> Any:
    return SLOW


def _closed(operation: Operation[Any]) -> Any:
    operation.close()
    raise UsageError(CLOSED)


def _reconnect(kind: type[CacheClient], options: ClientOptions, strict: bool, default_namespace: str) -> CacheClient:
    return kind(options, strict=strict, default_namespace=default_namespace)
