"""`stratacache demo`: a real AI pipeline, run by the package stratacache.cluster.demo."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from stratacache.cluster.local_ray import require_ray
from stratacache.node.errors import UnavailableError


@click.command("demo")
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the figures to this file.",
)
@click.option("--model", type=click.Choice(["lsa", "minilm"]), default="lsa", show_default=True, help="What embeds.")
@click.option("--shards", type=click.IntRange(1), default=3, show_default=True, help="How many shards.")
@click.option("--chunks", "chunks_max", type=click.IntRange(100), help="Only the first chunks of the corpus.")
def command(json_path: Path | None, model: str, shards: int, chunks_max: int | None) -> None:
    """Run an AI pipeline on Python's own manual through a cache of its own, and show what the cache does.

    Exit status 1 when anything that the demo promises was not seen.
    """
    require_ray()
    try:
        from stratacache.cluster.demo import Options, run
    except ImportError as error:
        raise UnavailableError(f"the demo needs {error.name}: pip install 'stratacache[demo]'") from None
    report = run(Options(shards=shards, embed_model=model, chunks_max=chunks_max), json_path)
    if not report.good:
        click.echo("the demo did not see what it promises", err=True)
        sys.exit(1)
