"""`AsyncCacheClient`: the asyncio client, over the same operations as `CacheClient`.

Invariants: native asyncio, no threads (but for asking Ray who is in the cluster); a handle may be used from several
loops, one after the other or at once, and has connections in each; it connects with the first call; a pickle holds the
address and the options only.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self

from stratacache.client.address import parse_address
from stratacache.client.aio_backend import AioBackend, forget_ended, give, take
from stratacache.client.base import AsyncCache, K, Key, T, Ttl, declared_as
from stratacache.client.core.effects import Join, Operation
from stratacache.client.core.fills import FillOptions
from stratacache.client.core.flight import Flight
from stratacache.client.core.fullkeys import text_of
from stratacache.client.core.operations import Operations
from stratacache.client.options import ClientOptions
from stratacache.client.transport.runner import CLOSED
from stratacache.node.errors import UsageError
from stratacache.node.keys import check_namespace
from stratacache.node.types import MISS

FLIGHT_S_MAX = 86400.0  # who began a computation waits for it, up to a day


class AsyncCacheClient:
    """A handle on a cache for asyncio. Made by `connect_async`; `base.AsyncCache` describes the methods."""

    def __init__(
        self, options: ClientOptions, *, strict: bool = False, default_namespace: str = "default", shared: bool = True
    ) -> None:
        options.validate()
        self._options = options
        self._address = parse_address(options.address)
        self._strict = strict
        self._shared = shared
        self._closed = False
        self._namespace = check_namespace(text_of(default_namespace)).decode()
        # Shared with the views that `namespace` makes: they use what their parent opened, and end with it.
        self._backends: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AioBackend] = weakref.WeakKeyDictionary()
        self._parent: Self | None = None

    def __repr__(self) -> str:
        where = self._options.address or "the cluster of this Ray program"
        return f"<{type(self).__name__} {where} namespace={self._namespace!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reconnect, (type(self), self._options, self._strict, self._namespace)

    async def _here(self) -> tuple[AioBackend, Operations]:
        """The connections of the running loop and the operations over them."""
        loop = asyncio.get_running_loop()
        if self._closed or (self._parent is not None and self._parent._closed):
            raise UsageError("this client is closed; connect again")
        backend = self._backends.get(loop)
        if backend is None:
            backend = self._backends[loop] = self._take(loop)
        if not backend.core.view.shards:
            await backend.open()
        return backend, Operations(backend.core, self._namespace, strict=self._strict)

    def _take(self, loop: asyncio.AbstractEventLoop) -> AioBackend:
        forget_ended(self._backends)
        return take(loop, self._options, self._address, shared=self._shared)

    async def _run(self, make: Callable[[Operations], Operation[T]]) -> T:
        backend, operations = await self._here()
        return await backend.shell.run(make(operations))

    @property
    def strict(self) -> bool:
        """Whether failures of the cache are raised instead of answered with the default."""
        return self._strict

    async def get(self, key: Key, default: Any = MISS, *, namespace: str | None = None) -> Any:
        """The value under `key`, or `default` when there is none. Arrays are read-only."""
        backend, operations = await self._here()
        return await backend.shell.run(operations.get(operations.full(key, namespace), default))

    async def get_many(self, keys: Iterable[K], *, namespace: str | None = None) -> dict[K, Any]:
        """The values of those keys that are cached, asked of all shards at once."""
        return await self._run(lambda operations: operations.get_many(keys, namespace))

    async def put(
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
        return await self._run(
            lambda operations: operations.put(operations.full(key, namespace), value, ttl, tags, cost_s, codec)
        )

    async def put_many(
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
        return await self._run(lambda operations: operations.put_many(items, ttl, tags, namespace, cost_s, codec))

    async def put_through(
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
        """As `CacheClient.put_through`; `store` may be a coroutine function."""
        return await self._run(lambda ops: ops.put_through(items, store, ttl, tags, namespace, cost_s, codec))

    async def contains(self, key: Key, *, namespace: str | None = None) -> bool:
        """Whether a live entry is there, without fetching it."""
        return await self._run(lambda operations: operations.contains(key, namespace))

    async def touch(self, key: Key, *, ttl: Ttl, namespace: str | None = None) -> bool:
        """Give an entry a new time to live from now (None: no expiry); False when there is no such entry."""
        return await self._run(lambda operations: operations.touch(key, ttl, namespace))

    async def ttl(self, key: Key, *, namespace: str | None = None) -> Any:
        """Seconds left as a float, None for an entry without expiry, MISS when there is no such entry."""
        return await self._run(lambda operations: operations.ttl(key, namespace))

    @declared_as(AsyncCache.get_or_compute)
    async def get_or_compute(
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
        """The cached value, or that of `compute`, which runs once for all callers in the cluster.

        The computation is a task of its own: cancelling a caller, even the first, leaves it and the others alone.
        """
        backend, operations = await self._here()
        options = operations.fill_options(ttl, tags, cost_s, codec, wait_s, refresh=refresh)
        full = operations.full(key, namespace)
        if (value := operations.held(full, options)) is not MISS:
            return value
        landed, value = await _fly(backend, operations, full, compute, options)
        return value if landed else await backend.shell.run(operations.compute_alone(full, compute, options))

    async def count_not_refreshable(self) -> None:
        """A value was stored whose inputs could not be kept with it."""
        backend, _ = await self._here()
        backend.core.counters.not_refreshable += 1

    async def recipe(self, key: Key, *, namespace: str | None = None) -> bytes:
        """What it takes to compute the value of a key again, as it was put with it; empty where that is not kept."""
        backend, operations = await self._here()
        return await backend.shell.run(operations.recipe(operations.full(key, namespace)))

    async def recompute(
        self,
        key: Key,
        compute: Callable[[], Any],
        *,
        ttl: Ttl = None,
        namespace: str | None = None,
        codec: str = "auto",
    ) -> Any:
        """Compute a value anew under a fill lease and store it; MISS, and nothing computed, when another holds it."""
        backend, operations = await self._here()
        options = replace(operations.fill_options(ttl, (), None, codec, 0.0, refresh=True), leased_only=True)
        landed, value = await _fly(backend, operations, operations.full(key, namespace), compute, options)
        return value if landed else MISS

    @declared_as(AsyncCache.get_or_compute_many)
    async def get_or_compute_many(
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
        backend, operations = await self._here()
        options = operations.fill_options(ttl, tags, cost_s, codec, wait_s)
        return await backend.shell.run(operations.get_or_compute_many(keys, compute, options, namespace))

    async def invalidate(self, key: Key, *, namespace: str | None = None) -> int:
        """Remove one entry everywhere; the number removed. Raises InvalidationIncompleteError."""
        return await self._run(lambda operations: operations.invalidate((key,), namespace))

    async def invalidate_many(self, keys: Iterable[Key], *, namespace: str | None = None) -> int:
        """Remove many entries everywhere; the number removed. Raises InvalidationIncompleteError."""
        return await self._run(lambda operations: operations.invalidate(keys, namespace))

    async def invalidate_tags(self, tags: Iterable[str]) -> int:
        """Remove every entry that has one of these tags. Raises InvalidationIncompleteError."""
        return await self._run(lambda operations: operations.invalidate_tags(tags))

    async def invalidate_namespace(self, namespace: str | None = None) -> int:
        """Remove every entry of a namespace. Raises InvalidationIncompleteError."""
        return await self._run(lambda operations: operations.invalidate_namespace(namespace))

    async def clear(self) -> int:
        """Remove everything from the whole cache. Raises InvalidationIncompleteError."""
        return await self._run(lambda operations: operations.clear())

    async def stats(self) -> dict[str, Any]:
        """`client` (this loop's counters), `shards` (id -> what the shard reports) and `missing` (no answer)."""
        return await self._run(lambda operations: operations.stats())

    async def patterns(self) -> dict[str, Any]:
        """Access patterns by shard id, as the shards report them."""
        return await self._run(lambda operations: operations.patterns())

    async def ping(self) -> dict[str, float]:
        """Seconds of one round trip for every shard that answers."""
        return await self._run(lambda operations: operations.ping())

    def namespace(self, name: str) -> Self:
        """The same client bound to another default namespace; closing it closes nothing."""
        bound = type(self).__new__(type(self))
        bound.__dict__.update(self.__dict__)
        bound._parent = self._parent or self
        bound._namespace = check_namespace(text_of(name)).decode()
        return bound

    async def close(self) -> None:
        """Give this handle back; the last one of a loop closes that loop's connections."""
        if self._closed:
            return
        self._closed = True
        if self._parent is not None:
            return
        for loop, backend in list(self._backends.items()):
            await give(loop, backend)

    async def __aenter__(self) -> Self:
        await self._here()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def _fly(
    backend: AioBackend, operations: Operations, full: bytes, compute: Callable[[], Any], options: FillOptions
) -> tuple[bool, Any]:
    """One computation for all tasks of this loop: whether it landed in time, and with what."""
    deadline = backend.core.monotonic() + options.wait_s
    while True:
        flight, mine = backend.core.flights.board(full, refresh=options.refresh)
        if mine:
            task = backend.shell.spawn(operations.run_flight(full, compute, options, flight))
            task.add_done_callback(partial(_end, backend, full, options, flight))
            deadline = backend.core.monotonic() + FLIGHT_S_MAX
        early = not flight.begun
        landed = await backend.shell.run(_join(Join(flight, deadline)))
        if mine or not landed or flight.serves(early):
            break
    if mine and backend.shell.closed and isinstance(flight.error, asyncio.CancelledError):
        raise UsageError(CLOSED)  # close() ended the computation; nobody has cancelled this caller
    return (True, flight.result()) if landed and (mine or not flight.abandoned) else (False, None)


def _end(backend: AioBackend, full: bytes, options: FillOptions, flight: Flight, _: object) -> None:
    """Land a flight whose task was cancelled before it began, which nobody else would."""
    if not flight.landed:
        backend.core.flights.leave(full, flight, refresh=options.refresh)
        flight.land(error=asyncio.CancelledError())


def _join(effect: Join) -> Operation[bool]:
    landed: bool = yield effect
    return landed


def _reconnect(
    kind: type[AsyncCacheClient], options: ClientOptions, strict: bool, default_namespace: str
) -> AsyncCacheClient:
    return kind(options, strict=strict, default_namespace=default_namespace)
