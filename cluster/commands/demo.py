"""`stratacache demo`: the lead example, run by the package stratacache.cluster.demo."""

from __future__ import annotations

import importlib
from pathlib import Path

import click

from stratacache.cluster.local_ray import require_ray


@click.command("demo")
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures to a file."
)
@click.option("--model", default="svd", show_default=True, help="What embeds: svd or minilm.")
@click.option("--shards", type=int, default=3, show_default=True, help="How many shards.")
def command(json_path: Path | None, model: str, shards: int) -> None:
    """Run an AI pipeline on Python's own manual, cold and warm, and show what the cache does."""
    require_ray()
    importlib.import_module("stratacache.cluster.demo").run(json_path=json_path, model=model, shards=shards)
