"""Cached AI results by operation, input and parameters, with prediction of what is asked for next.

The blocking client does the work; the coroutines run it in a worker thread, so that they never hold up a loop. Results
are keyed by every byte of the input, tagged with operation, model and mode, and live as long as their operation says.

Invariants: an invalidation reaches every level of the client; what is remembered of inputs and patterns is bounded;
time saved is counted from measured seconds only, and the cache's own time is taken off; a prefetch that is not used
is counted against prefetching, which switches itself off where it does not pay.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from stratacache.client.base import Cache, Fill
from stratacache.client.efficiency import Prices, efficiency
from stratacache.client.keys import key_for
from stratacache.client.prefetch import PrefetchAccount
from stratacache.client.refreshable import try_recipe
from stratacache.client.tags import automatic_tags, input_size, model_tag
from stratacache.node.patterns import AccessPatterns
from stratacache.node.types import MISS, AIOperation

NAMESPACE: Final = "ai_operations"
HORIZON: Final = timedelta(minutes=10)
INPUT_BYTES_MAX: Final = 64 << 10
REQUESTS_MAX: Final = 10_000

Loader = Callable[[Any, Mapping[str, Any]], Any]
"""Computes a result: called with the input and the parameters."""


@dataclass(frozen=True)
class _Request:
    """What is needed to compute a result again."""

    operation: AIOperation
    input: Any
    parameters: dict[str, Any]


@dataclass
class _Account:
    """What was asked of the cache and what it saved."""

    hits: int = 0
    misses: int = 0
    saved_s: float = 0.0
    own_s: float = 0.0
    cost_s: dict[AIOperation, tuple[int, float]] = field(default_factory=dict)

    @property
    def hit_ratio(self) -> float:
        """Hits of all requests so far; 0 before the first."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else 0.0

    def learn(self, operation: AIOperation, cost_s: float) -> None:
        """Note what a result of this operation took."""
        count, total = self.cost_s.get(operation, (0, 0.0))
        self.cost_s[operation] = (count + 1, total + cost_s)

    def usual_cost_s(self, operation: AIOperation) -> float:
        """The mean of the measured seconds of this operation; 0 where none was measured."""
        count, total = self.cost_s.get(operation, (0, 0.0))
        return total / count if count else 0.0


class IntelligentCacheManager:
    """AI results in any cache client. Thread-safe.

    `loaders` compute missing results by operation; without one a miss is the caller's to compute. `clock` gives
    seconds and only ever grows; it is for patterns, not for expiry.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        loaders: Mapping[AIOperation, Loader] | None = None,
        prefetch_enabled: bool = True,
        learning_enabled: bool = True,
        patterns_max: int = 50_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cache = cache.namespace(NAMESPACE)
        self.prefetch_enabled = prefetch_enabled
        self.learning_enabled = learning_enabled
        self.patterns: AccessPatterns[str] = AccessPatterns(patterns_max)
        self.prefetch = PrefetchAccount()
        self._loaders = dict(loaders or {})
        self._requests: OrderedDict[str, _Request] = OrderedDict()
        self._account = _Account()
        self._clock = clock
        self._lock = threading.Lock()

    def register_loader(self, operation: AIOperation, loader: Loader) -> None:
        """Compute missing results of this operation with `loader(input, parameters)`, also ahead of time."""
        with self._lock:
            self._loaders[operation] = loader

    def cache_key(self, operation: AIOperation, input_data: Any, parameters: Mapping[str, Any] | None = None) -> str:
        """The key of a result inside the namespace `ai_operations`."""
        return key_for(operation, input_data, dict(parameters or {}))

    async def get_ai_result(
        self,
        operation: AIOperation,
        input_data: Any,
        parameters: Mapping[str, Any] | None = None,
        *,
        default: Any = MISS,
    ) -> Any:
        """The cached result; on a miss what the operation's loader computes, else `default`."""
        return await asyncio.to_thread(self._get, operation, input_data, dict(parameters or {}), default)

    async def put_ai_result(
        self,
        operation: AIOperation,
        input_data: Any,
        result: Any,
        parameters: Mapping[str, Any] | None = None,
        ttl: timedelta | None = None,
        *,
        cost_s: float | None = None,
    ) -> bool:
        """Store a result; `ttl` defaults to the operation's, `cost_s` is what it took to compute."""
        return await asyncio.to_thread(self._put, operation, input_data, result, dict(parameters or {}), ttl, cost_s)

    async def predictive_prefetch(self) -> int:
        """Compute what is due within ten minutes and would be missing by then; the number of results computed.

        Only what a loader can compute, and nothing while prefetching is off or does not pay.
        """
        if not (self.prefetch_enabled and self.prefetch.pays):
            return 0
        return await asyncio.to_thread(self._prefetch)

    def invalidate_by_operation(self, operation: AIOperation) -> int:
        """Remove all results of an operation from every level. Raises InvalidationIncompleteError."""
        return self.cache.invalidate_tags({operation.value})

    def invalidate_by_model(self, model_type: str) -> int:
        """Remove all results of a model from every level. Raises InvalidationIncompleteError."""
        return self.cache.invalidate_tags({model_tag(model_type)})

    def get_cache_efficiency_report(self, prices: Prices | None = None) -> dict[str, Any]:
        """What the cache did: for this manager, and under `cluster` for everybody.

        With `prices` the report has dollars, too. `cluster` has seconds saved by operation, model and namespace from
        measured costs, and recommendations in words.
        """
        account = self._account
        statistics = self.cache.stats()
        return {
            "cache_statistics": statistics,
            "cluster": efficiency(statistics.get("total", {}), prices=prices),
            "ai_cache_performance": {
                "hits": account.hits,
                "misses": account.misses,
                "hit_ratio": account.hit_ratio,
                "seconds_in_cache": account.own_s,
            },
            "access_patterns_tracked": len(self.patterns),
            "estimated_time_saved_seconds": account.saved_s - account.own_s,
            "prefetch": self.prefetch.report(),
            "prefetch_enabled": self.prefetch_enabled,
            "learning_enabled": self.learning_enabled,
            "cache_efficiency_score": account.hit_ratio * 100,
        }

    def _get(self, operation: AIOperation, input_data: Any, parameters: dict[str, Any], default: Any) -> Any:
        key = self.cache_key(operation, input_data, parameters)
        request = _Request(operation, input_data, parameters)
        started = time.perf_counter()
        value = self.cache.get(key)
        own_s = time.perf_counter() - started
        with self._lock:
            self._note_read(key, request)
            account = self._account
            account.own_s += own_s
            if value is MISS:
                account.misses += 1
            else:
                account.hits += 1
                account.saved_s += account.usual_cost_s(operation)
            loader = self._loaders.get(operation)
        if value is not MISS:
            return value
        return default if loader is None else self._compute(key, request, loader)

    def _put(
        self,
        operation: AIOperation,
        input_data: Any,
        result: Any,
        parameters: dict[str, Any],
        ttl: timedelta | None,
        cost_s: float | None,
    ) -> bool:
        if cost_s is not None:
            with self._lock:
                self._account.learn(operation, cost_s)
        return self.cache.put(
            self.cache_key(operation, input_data, parameters),
            result,
            ttl=operation.default_ttl if ttl is None else ttl,
            tags=automatic_tags(operation.value, input_data, parameters),
            cost_s=cost_s,
        )

    def _compute(self, key: str, request: _Request, loader: Loader, *, refresh: bool = False) -> Any:
        """Compute under a fill lease, so that an invalidation meanwhile keeps the result out."""

        operation = request.operation
        recipe = try_recipe(
            f"op:{operation.value}", operation.default_ttl, [operation.value, request.input, request.parameters]
        )

        def compute() -> Any:
            started = time.perf_counter()
            result = loader(request.input, request.parameters)
            with self._lock:
                self._account.learn(operation, time.perf_counter() - started)
            return Fill(value=result, metadata=recipe or b"")

        return self.cache.get_or_compute(
            key,
            compute,
            ttl=operation.default_ttl,
            tags=automatic_tags(request.operation.value, request.input, request.parameters),
            refresh=refresh,
        )

    def _now_ms(self) -> int:
        return round(self._clock() * 1000)

    def _note_read(self, key: str, request: _Request) -> None:
        if not self.learning_enabled:
            return
        now_ms = self._now_ms()
        self.prefetch.was_read(key, now_ms)
        self.patterns.read(key, now_ms)
        if request.operation in self._loaders and (input_size(request.input) or 0) <= INPUT_BYTES_MAX:
            self._requests[key] = request
            self._requests.move_to_end(key)
            if len(self._requests) > REQUESTS_MAX:
                self._requests.popitem(last=False)

    def _prefetch(self) -> int:
        now_ms = self._now_ms()
        horizon_ms = round(HORIZON.total_seconds() * 1000)
        with self._lock:
            self.prefetch.settle(now_ms)
            due = [
                (key, pattern.next_ms, self._requests[key])
                for key, pattern in self.patterns.upcoming(now_ms, horizon_ms)
                if key in self._requests and not self.prefetch.is_out(key)
            ]
        computed = 0
        for key, next_ms, request in due:
            left_s = self.cache.ttl(key)
            if left_s is None or (left_s is not MISS and now_ms + left_s * 1000 > next_ms):
                continue  # it will still be there
            started = time.perf_counter()
            self._compute(key, request, self._loaders[request.operation], refresh=True)
            with self._lock:
                self.prefetch.was_issued(key, max(next_ms, now_ms) + horizon_ms, time.perf_counter() - started)
            computed += 1
        return computed
