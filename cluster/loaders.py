"""Loaders: functions that compute cached values ahead of their readers, in Ray tasks.

A loader travels to the coordinator as bytes that only a task unpickles, in a worker process, with the rights of any
other task of the cluster. The inputs come from the shard over its own protocol, in the client's codec.

Invariants: neither a shard nor the coordinator ever unpickles a loader or decodes an input; what is computed is stored
under a fill lease, so that an invalidation meanwhile keeps it out; a recipe whose key is not that of its own inputs
is not computed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgpack

from stratacache.client import connect
from stratacache.client.base import Fill
from stratacache.client.keys import key_for
from stratacache.client.refreshable import read_inputs
from stratacache.client.sync_client import CacheClient
from stratacache.client.tags import automatic_tags
from stratacache.node.clock import NodeClock
from stratacache.node.errors import LimitError, UsageError
from stratacache.node.keys import split_key
from stratacache.node.types import MISS, AIOperation

BLOB_BYTES_MAX: Final = 1 << 20
BATCH_MAX: Final = 8
OPERATION: Final = "op:"
REFRESHED: Final = "refreshed"
BUSY: Final = "busy"
FAILED: Final = "failed"


@dataclass(frozen=True, kw_only=True)
class Loader:
    """A registered loader. `blob` is a cloudpickle; `runtime_env` is that of the program that registered it."""

    name: str
    blob: bytes
    num_cpus: float = 1.0
    batch_size_max: int = BATCH_MAX
    runtime_env: Mapping[str, Any] = field(default_factory=dict)

    def validate(self) -> None:
        """Raise UsageError or LimitError for what can't be registered."""
        if len(self.blob) > BLOB_BYTES_MAX:
            raise LimitError(
                f"loader {self.name} has {len(self.blob)} bytes, the limit is {BLOB_BYTES_MAX}: "
                "load models inside the function instead of capturing them"
            )
        if self.num_cpus < 0:
            raise UsageError(f"num_cpus is {self.num_cpus}; it can't be negative")
        if not 1 <= self.batch_size_max <= 1024:
            raise UsageError(f"batch_size_max is {self.batch_size_max}; it must be from 1 to 1024")

    def to_bytes(self) -> bytes:
        """As it is kept."""
        fields = {**self.__dict__, "runtime_env": json.dumps(dict(self.runtime_env))}
        packed: bytes = msgpack.packb(fields)
        return packed

    @classmethod
    def from_bytes(cls, packed: bytes) -> Loader:
        """What `to_bytes` made."""
        fields = msgpack.unpackb(packed)
        return cls(**{**fields, "runtime_env": json.loads(fields["runtime_env"])})


class Refreshed(NamedTuple):
    """What came of one key: REFRESHED, BUSY or FAILED, and when, in seconds since the epoch on the task's machine."""

    key: bytes
    outcome: str
    spent_s: float
    at_s: float


def register_loader(
    operation: AIOperation | str,
    function: Callable[[Any, Mapping[str, Any]], Any],
    *,
    num_cpus: float = 1.0,
    batch_size_max: int = BATCH_MAX,
    cluster: str | None = None,
) -> None:
    """Compute results of an operation ahead of time with `function(input, parameters)`, in Ray tasks.

    It serves the entries that IntelligentCacheManager computes. A task takes `num_cpus` and computes up to
    `batch_size_max` results, one after the other. Raises LimitError when the function captures more than a megabyte,
    UnavailableError without a running cache.
    """
    name = operation.value if isinstance(operation, AIOperation) else operation
    reference = _send(f"{OPERATION}{name}", function, {"num_cpus": num_cpus, "batch_size_max": batch_size_max}, cluster)
    import ray

    ray.get(reference, timeout=30)


def announce(name: str, function: Any, options: Mapping[str, Any], cluster: str) -> None:
    """Register a loader without waiting for the answer."""
    _send(name, function, options, cluster or None)


def _send(name: str, function: Any, options: Mapping[str, Any], cluster: str | None) -> Any:
    import ray
    from ray import cloudpickle

    from stratacache.cluster.discovery import find_coordinator

    environment = dict(ray.get_runtime_context().runtime_env)
    loader = Loader(name=name, blob=cloudpickle.dumps(function), runtime_env=environment, **options)
    loader.validate()
    return find_coordinator(cluster).register_loader.remote(loader.to_bytes())


# -- in the task ---------------------------------------------------------------------------------------------------


def refresh_values(cluster: str, name: str, blob: bytes, keys: Sequence[bytes]) -> list[Refreshed]:
    """The body of the Ray task: compute each key's value anew, and say what came of each."""
    from ray import cloudpickle

    function = cloudpickle.loads(blob)
    clock, outcomes = NodeClock(), []
    with connect(cluster=cluster) as client:
        for key in keys:
            begun_s = time.perf_counter()
            try:
                outcome = _refresh_one(client, name, function, key)
            except Exception:  # noqa: BLE001 - one input that fails must not keep the others from being computed
                outcome = FAILED
            outcomes.append(Refreshed(key, outcome, time.perf_counter() - begun_s, clock.now_ms() / 1000))
    return outcomes


def _refresh_one(client: CacheClient, name: str, function: Any, full: bytes) -> str:
    namespace, raw = split_key(full)
    recipe = client.recipe(raw, namespace=namespace.decode())
    if not recipe:
        return FAILED
    inputs = read_inputs(recipe)
    if name.startswith(OPERATION):
        done = _refresh_operation(client, function, namespace.decode(), raw.decode(), recipe, inputs)
    else:
        args, kwargs = inputs
        done = function.recompute(client, raw.decode(), tuple(args), kwargs)
    return FAILED if done is None else REFRESHED if done else BUSY


def _refresh_operation(
    client: CacheClient, function: Any, namespace: str, key: str, recipe: bytes, inputs: Any
) -> bool | None:
    """An entry of IntelligentCacheManager; None when the inputs are not those of the key."""
    operation, value, parameters = inputs
    known = AIOperation(operation)
    if key_for(known, value, parameters) != key:
        return None

    def compute() -> Fill[Any]:
        return Fill(
            value=function(value, parameters),
            tags=automatic_tags(known.value, value, parameters),
            metadata=recipe,
        )

    return client.recompute(key, compute, ttl=known.default_ttl, namespace=namespace) is not MISS
