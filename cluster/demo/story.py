"""The demo's story in order: reference, cold, warm, a new model release, a killed shard, the status.

Invariant: nothing is claimed that was not compared. Every result of every pass through the cache is checked against an
uncached computation of the same input by the same release of the models.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import click

from stratacache.client import AIOperation
from stratacache.cluster.demo import models, operations, pipeline
from stratacache.cluster.demo.report import Report
from stratacache.cluster.demo.schedule import PERIOD_S, TTL_S, Schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stratacache.client.base import Cache
    from stratacache.cluster.demo.corpus import Chunk
    from stratacache.cluster.demo.pipeline import Pass, Release
    from stratacache.cluster.launch import ClusterHandle

NEXT_DIMENSIONS: Final = 48
WRITTEN_DEADLINE_S: Final = 10.0
MODEL_NAMES: Final = {
    AIOperation.SUMMARIZE: "textrank",
    AIOperation.EXTRACT: "lsa-phrases",
    AIOperation.CLASSIFY: "lsa-centroids",
}


def releases(chunks: Sequence[Chunk], embed_model: str) -> tuple[models.Models, models.Models]:
    """The models, and the same models with a new release of the one behind EMBED."""
    if embed_model == "minilm":
        first = models.fit(chunks, embedder=models.Transformer(quantized=False))
        return first, replace(first, embedder=models.Transformer(quantized=True))
    first = models.fit(chunks)
    return first, replace(first, embedder=models.fit_lsa(chunks, dimensions=NEXT_DIMENSIONS))


class Story:
    """Runs the passes over one corpus, one cache and one Ray cluster, and keeps what they found."""

    def __init__(self, handle: ClusterHandle, cache: Cache, chunks: Sequence[Chunk], embed_model: str) -> None:
        import ray

        self.handle = handle
        self.cache = cache
        self.texts = [chunk.text for chunk in chunks]
        first, second = releases(chunks, embed_model)
        names = MODEL_NAMES | {AIOperation.EMBED: embed_model}
        self.first = pipeline.Release("first", names, ray.put(first))
        self.second = pipeline.Release("second", names, ray.put(second))

    def run(self) -> Report:
        """Tell the whole story; every pass through the cache is compared with the uncached reference."""
        schedule = Schedule()
        try:
            return self._tell(schedule)
        finally:
            schedule.end()

    def _tell(self, schedule: Schedule) -> Report:
        reference = self._pass("without the cache", self.first, through_cache=False)
        cold = self._pass("cold", self.first)
        warm = self._pass("warm", self.first)
        counters, levels = self._counters()
        schedule.begin()
        wrong = cold.differs_from(reference) + warm.differs_from(reference)

        name = self.first.model_names[AIOperation.EMBED]
        click.echo(f"a new release of the model behind {name}: invalidating its tag")
        renewed = self._pass("new model, no cache", self.second, names=[AIOperation.EMBED], through_cache=False)
        renewed.digests = reference.digests | renewed.digests
        self._wait_written()
        invalidated = self.cache.invalidate_tags({f"model:{name}"})
        fresh = self._pass("new model", self.second)
        stale = len(self.texts) - fresh.differs_from(reference, only=AIOperation.EMBED)
        wrong += fresh.differs_from(renewed)
        recomputed = fresh.computed[name]
        click.echo(f"invalidated {invalidated:,} results, recomputed {recomputed:,}, served stale {stale}")

        victim = max(counters, key=lambda shard: counters[shard]["keys"])
        victim_pid = self.handle.pids()[victim]
        click.echo(f"next, {victim} gets SIGKILL in the middle of the run; Ray warns of a worker that died")
        struck = self._pass("a shard is killed", self.second, on_batch=_killer(victim_pid))
        self.handle.wait_ready()
        replaced = self.handle.pids()[victim] != victim_pid
        wrong += struck.differs_from(renewed)
        click.echo(f"{struck.differs_from(renewed)} wrong results; {victim} serves again")
        scheduled = schedule.finish()
        click.echo(
            f"a scheduled step of {scheduled.reads} reads every {PERIOD_S:g} s, results that live {TTL_S:g} s: "
            f"{scheduled.refreshed_ahead} found a result that a Ray task had computed before they came"
        )
        return Report(
            chunks=len(self.texts),
            distinct_chunks=len(set(self.texts)),
            operations=[operation.value for operation in operations.OPERATIONS],
            uncached_s=round(reference.wall_s, 3),
            cold_s=round(cold.wall_s, 3),
            warm_s=round(warm.wall_s, 3),
            speedup=round(cold.wall_s / warm.wall_s, 2),
            hits=sum(shard["hits"] for shard in counters.values()),
            misses=sum(shard["misses"] for shard in counters.values()),
            shards=counters,
            levels=levels,
            seconds_saved=round(reference.work_s - warm.work_s, 3),
            invalidated=invalidated,
            stale_after_invalidation=stale,
            recomputed_after_invalidation=recomputed,
            recomputed_of_other_models=fresh.computed.total() - recomputed,
            survived_shard_kill=replaced and struck.differs_from(renewed) == 0,
            killed_shard=victim,
            recomputed_after_kill=struck.computed.total(),
            scheduled_reads=scheduled.reads,
            refreshed_ahead=scheduled.refreshed_ahead,
            wrong_results=wrong + scheduled.wrong,
        )

    def _pass(
        self,
        label: str,
        release: Release,
        *,
        names: Sequence[AIOperation] = tuple(operations.OPERATIONS),
        through_cache: bool = True,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> Pass:
        """One pass with a progress bar on a terminal, and one line when it is done."""
        batches = -(-len(self.texts) // pipeline.BATCH_CHUNKS)
        stream = sys.stderr if sys.stderr.isatty() else io.StringIO()  # a bar is for people only
        with click.progressbar(length=batches, label=f"  {label:<20}", file=stream) as bar:

            def advance(done: int, of: int) -> None:
                bar.update(1)
                if on_batch is not None:
                    on_batch(done, of)

            done = pipeline.run_pass(release, self.texts, names=names, through_cache=through_cache, on_batch=advance)
        click.echo(f"{label:<20} {done.wall_s:7.2f} s   {done.computed.total():>6,} computed")
        return done

    def _wait_written(self) -> None:
        """Wait until the shards' disks have everything: what is just being written an invalidation may count twice."""
        until = time.monotonic() + WRITTEN_DEADLINE_S
        while self.handle.stats()["total"]["levels"]["l3_disk"]["queue_entries"] and time.monotonic() < until:
            time.sleep(0.05)

    def _counters(self) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, int]]]:
        """The shards' own counters: keys, hits, misses and bytes by shard; hits and misses by level."""
        stats = self.handle.stats()
        shards = {
            shard["id"]: {
                "keys": shard["stats"]["entries"],
                "hits": shard["stats"]["hits"],
                "misses": shard["stats"]["misses"],
                "bytes": sum(level["bytes_used"] for level in shard["stats"]["levels"].values()),
            }
            for shard in stats["shards"]
        }
        levels = {
            name: {"hits": level["hits"], "misses": level["misses"]} for name, level in stats["total"]["levels"].items()
        }
        return shards, levels


def _killer(pid: int) -> Callable[[int, int], None]:
    """A callback that kills a process, without warning, once a third of the batches is done."""

    def strike(done: int, of: int) -> None:
        if done == max(1, of // 3):
            os.kill(pid, signal.SIGKILL)

    return strike
