"""One pass of the pipeline: batches of chunks as Ray tasks, every operation on every chunk.

A pass returns digests of the results, not the results, so that two passes can be compared exactly and cheaply. The
uncached pass (`through_cache=False`) calls the same functions without the decorator: it is the reference for what is
right, and the measure of what the cache saves.
"""

from __future__ import annotations

import hashlib
import inspect
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stratacache.client.codec import encode, payload_bytes
from stratacache.cluster.demo import operations

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stratacache.client import AIOperation
    from stratacache.cluster.demo.models import Models

BATCH_CHUNKS = 35


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one task did: result digests by operation in chunk order, calls that computed (by model), seconds."""

    digests: dict[AIOperation, list[bytes]]
    computed: Counter[str]
    seconds: float


@dataclass(kw_only=True)
class Pass:
    """What one pass over the corpus did. `digests` by operation, in chunk order."""

    digests: dict[AIOperation, list[bytes]] = field(default_factory=dict)
    computed: Counter[str] = field(default_factory=Counter)
    wall_s: float = 0.0
    work_s: float = 0.0

    def differs_from(self, other: Pass, only: AIOperation | None = None) -> int:
        """How many results differ from the other pass's, of one operation or of all."""
        names = [only] if only else list(self.digests)
        return sum(a != b for name in names for a, b in zip(self.digests[name], other.digests[name], strict=True))


def digest(value: Any) -> bytes:
    """A fingerprint of a result: equal exactly when type, structure and every byte are equal."""
    codec, payload = encode(value)
    return hashlib.blake2b(bytes([codec]) + payload_bytes(payload), digest_size=16).digest()


@dataclass(frozen=True)
class Release:
    """A release of the models: its name, what each operation's model is called, and where Ray keeps them."""

    name: str
    model_names: dict[AIOperation, str]
    reference: Any  # ObjectRef[Models], inside a dataclass so that a task receives it unloaded

    def load(self) -> Models:
        """Fetch the models from Ray's object store."""
        import ray

        models: Models = ray.get(self.reference)
        return models


def run_batch(release: Release, texts: Sequence[str], names: Sequence[AIOperation], through_cache: bool) -> Batch:
    """Run these operations on every text in this process."""
    operations.models.use(release.name, release.load)
    before = operations.computed.copy()
    started = time.perf_counter()
    digests: dict[AIOperation, list[bytes]] = {}
    for name in names:
        function = operations.OPERATIONS[name]
        call = function if through_cache else inspect.unwrap(function)
        results = [call(text, model=release.model_names[name]) for text in texts]
        digests[name] = [digest(result) for result in results]
    return Batch(
        digests=digests,
        computed=operations.computed - before,
        seconds=time.perf_counter() - started,
    )


def run_pass(
    release: Release,
    texts: Sequence[str],
    *,
    names: Sequence[AIOperation] = tuple(operations.OPERATIONS),
    through_cache: bool = True,
    on_batch: Callable[[int, int], None],
) -> Pass:
    """Run the pipeline over the texts as Ray tasks.

    `on_batch(done, of)` is called in the driver after each finished batch.
    """
    import ray

    task = ray.remote(num_cpus=1, max_retries=3)(run_batch)
    started = time.perf_counter()
    references = [
        task.remote(release, texts[start : start + BATCH_CHUNKS], names, through_cache)
        for start in range(0, len(texts), BATCH_CHUNKS)
    ]
    whole = Pass()
    for done, reference in enumerate(references, start=1):
        batch: Batch = ray.get(reference)
        for name, digests in batch.digests.items():
            whole.digests.setdefault(name, []).extend(digests)
        whole.computed += batch.computed
        whole.work_s += batch.seconds
        on_batch(done, len(references))
    whole.wall_s = time.perf_counter() - started
    return whole
