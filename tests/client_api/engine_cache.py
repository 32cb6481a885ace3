"""The real engine behind the client's interface, with a clock that tests move: no socket, no thread, no waiting."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Self

from stratacache.client.base import Fill
from stratacache.client.codec import decode, encode, payload_bytes
from stratacache.node.clock import ManualClock
from stratacache.node.engine import MultiLevelCache
from stratacache.node.entry import NEVER_MS
from stratacache.node.keys import full_key
from stratacache.node.leases import LeaseReply, LeaseState
from stratacache.node.types import MISS


class EngineCache:
    """`Cache` over one engine in the caller's thread."""

    def __init__(self, engine: MultiLevelCache | None = None, namespace: str = "default") -> None:
        self.clock = ManualClock()
        self.engine = engine or MultiLevelCache(clock=self.clock)
        self.bound = namespace

    def _full(self, key: Any, namespace: str | None) -> bytes:
        return full_key(namespace or self.bound, key)

    def _expires(self, ttl: Any) -> int:
        if ttl is None:
            return NEVER_MS
        seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
        return self.engine.now_ms() + int(seconds * 1000)

    def get(self, key: Any, default: Any = MISS, *, namespace: str | None = None) -> Any:
        entry: Any = self.engine.get(self._full(key, namespace))
        return default if entry is None else decode(entry.codec, entry.payload)

    def get_many(self, keys: Iterable[Any], *, namespace: str | None = None) -> dict[Any, Any]:
        found = {key: self.get(key, namespace=namespace) for key in keys}
        return {key: value for key, value in found.items() if value is not MISS}

    def put(
        self,
        key: Any,
        value: Any,
        *,
        ttl: Any = None,
        tags: Iterable[str] = (),
        namespace: str | None = None,
        cost_s: float | None = None,
        codec: str = "auto",
        lease: bytes | None = None,
    ) -> bool:
        codec_id, payload = encode(value, codec)
        stored = self.engine.put(
            self._full(key, namespace),
            payload_bytes(payload),
            expires_ms=self._expires(ttl),
            tags=tuple(sorted(tag.encode() for tag in tags)),
            cost_s=1.0 if cost_s is None else cost_s,
            codec=codec_id,
            lease=lease,
        )
        return stored is True

    def put_many(self, items: Mapping[Any, Any], **options: Any) -> int:
        return sum(self.put(key, value, **options) for key, value in items.items())

    def contains(self, key: Any, *, namespace: str | None = None) -> bool:
        return self.engine.peek(self._full(key, namespace)) is not None

    def touch(self, key: Any, *, ttl: Any, namespace: str | None = None) -> bool:
        return self.engine.set_expiry(self._full(key, namespace), self._expires(ttl)) is True

    def ttl(self, key: Any, *, namespace: str | None = None) -> Any:
        entry: Any = self.engine.peek(self._full(key, namespace))
        if entry is None:
            return MISS
        return None if entry.expires_ms == NEVER_MS else (entry.expires_ms - self.engine.now_ms()) / 1000

    def get_or_compute(
        self,
        key: Any,
        compute: Any,
        *,
        ttl: Any = None,
        tags: Iterable[str] = (),
        namespace: str | None = None,
        cost_s: float | None = None,
        codec: str = "auto",
        wait_s: float | None = None,
        refresh: bool = False,
    ) -> Any:
        full = self._full(key, namespace)
        if not refresh:
            found = self.get(key, namespace=namespace)
            if found is not MISS:
                return found
        reply = self.engine.leases.ask(full, 0, 60_000, self.engine.now_ms())
        assert isinstance(reply, LeaseReply)
        assert reply.state is LeaseState.LEASE
        before = time.perf_counter()
        try:
            fill = compute()
            took_s = time.perf_counter() - before
            fill = fill if isinstance(fill, Fill) else Fill(value=fill)
            if fill.store:
                self.put(
                    key,
                    fill.value if fill.stored is MISS else fill.stored,
                    ttl=ttl if fill.ttl is MISS else fill.ttl,
                    tags=tags if fill.tags is None else fill.tags,
                    namespace=namespace,
                    cost_s=fill.cost_s or cost_s or took_s,
                    codec=fill.codec or codec,
                    lease=reply.token,
                )
        finally:
            self.engine.release_lease(full, reply.token)  # harmless once it is filled
        return fill.value

    def get_or_compute_many(self, keys: Iterable[Any], compute: Any, **options: Any) -> dict[Any, Any]:
        wanted = list(dict.fromkeys(keys))
        found = self.get_many(wanted, namespace=options.get("namespace"))
        missing = [key for key in wanted if key not in found]
        if missing:
            computed = compute(missing)
            pairs = computed.items() if isinstance(computed, Mapping) else zip(missing, computed, strict=True)
            for key, fill in pairs:
                found[key] = self.get_or_compute(key, lambda fill=fill: fill, refresh=True, **options)
        return found

    def invalidate(self, key: Any, *, namespace: str | None = None) -> int:
        return self.invalidate_many([key], namespace=namespace)

    def invalidate_many(self, keys: Iterable[Any], *, namespace: str | None = None) -> int:
        removed = self.engine.invalidate_keys([self._full(key, namespace) for key in keys])
        assert isinstance(removed, int)
        return removed

    def invalidate_tags(self, tags: Iterable[str]) -> int:
        removed = self.engine.invalidate_tags(tag.encode() for tag in tags)
        assert isinstance(removed, int)
        return removed

    def invalidate_namespace(self, namespace: str | None = None) -> int:
        removed = self.engine.invalidate_namespace((namespace or self.bound).encode())
        assert isinstance(removed, int)
        return removed

    def clear(self) -> int:
        removed = self.engine.clear()
        assert isinstance(removed, int)
        return removed

    def stats(self) -> dict[str, Any]:
        return {"client": {}, "shards": {"local": self.engine.stats()}, "missing": []}

    def patterns(self) -> dict[str, Any]:
        return {}

    def ping(self) -> dict[str, float]:
        return {"local": 0.0}

    def namespace(self, name: str) -> Self:
        return type(self)(self.engine, name)

    def close(self) -> None:
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncEngineCache:
    """`AsyncCache` over the same, for decorated coroutines; each method is the blocking one behind a coroutine."""

    def __init__(self, blocking: EngineCache) -> None:
        self.blocking = blocking

    async def get(self, key: Any, default: Any = MISS, *, namespace: str | None = None) -> Any:
        return self.blocking.get(key, default, namespace=namespace)

    async def get_or_compute(self, key: Any, compute: Any, *, refresh: bool = False, **options: Any) -> Any:
        found = MISS if refresh else self.blocking.get(key, namespace=options.get("namespace"))
        if found is not MISS:
            return found
        fill = await compute()
        return self.blocking.get_or_compute(key, lambda: fill, refresh=True, **options)

    async def get_or_compute_many(self, keys: Any, compute: Any, **options: Any) -> Any:
        wanted = list(dict.fromkeys(keys))
        found = self.blocking.get_many(wanted, namespace=options.get("namespace"))
        missing = [key for key in wanted if key not in found]
        computed = await compute(missing) if missing else {}
        return {**found, **self.blocking.get_or_compute_many(missing, lambda _: computed, **options)}

    async def invalidate(self, key: Any, *, namespace: str | None = None) -> int:
        return self.blocking.invalidate(key, namespace=namespace)

    async def invalidate_tags(self, tags: Iterable[str]) -> int:
        return self.blocking.invalidate_tags(tags)
