"""`stratacache bench`: how fast a running cache is, seen from here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from stratacache.cluster.commands.options import (
    Bytes,
    Seconds,
    cache_options,
    json_option,
    open_cache,
    print_json,
    require_rich,
    size_text,
)


@click.command("bench")
@cache_options
@click.option("--seconds", type=Seconds(0.1), default=5.0, show_default=True, help="For each kind of call.")
@click.option("--keys", type=click.IntRange(1), default=10_000, show_default=True, help="How many keys.")
@click.option("--value-bytes", "size", type=Bytes(), default=6 * 1024, help="Size of each value.  [6KiB]")
@click.option("--batch", type=click.IntRange(1), default=100, show_default=True, help="Keys to a many-key call.")
@click.option("--clients", type=click.IntRange(1, 256), default=1, show_default=True, help="Threads that ask.")
@json_option
def command(
    *,
    address: str | None,
    name: str | None,
    token: str | None,
    seconds: float,
    keys: int,
    size: int,
    batch: int,
    clients: int,
    as_json: bool,
) -> None:
    """Measure put, get, put_many and get_many against a running cache, in a namespace that is emptied afterwards.

    It takes room in the cache: keys times value size. Every value that is read is compared with what was put.
    """
    from stratacache.cluster.bench import WORKLOADS, Plan, run

    plan = Plan(seconds=seconds, keys=keys, value_bytes=size, batch=batch, clients=clients)
    if not as_json:
        require_rich()
    cache = open_cache(address, name, token)
    try:
        with _progress(WORKLOADS, shown=not as_json) as tell:
            report = run(cache, plan, tell)
    finally:
        cache.close()
    if as_json:
        print_json(report)
    else:
        _print(report)


@contextmanager
def _progress(workloads: tuple[str, ...], *, shown: bool) -> Iterator[Callable[[str, float], None]]:
    """A bar for each workload, on stderr."""
    if not shown:
        yield lambda _, __: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:>9}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        tasks = {workload: progress.add_task(workload, total=1.0, start=False) for workload in workloads}

        def tell(workload: str, part: float) -> None:
            progress.start_task(tasks[workload])
            progress.update(tasks[workload], completed=part)

        yield tell


def _print(report: dict[str, Any]) -> None:
    plan = report["plan"]
    click.echo(
        f"{report['shards']} shards, {plan['keys']} values of {size_text(plan['value_bytes'])}, "
        f"{plan['clients']} client{'s' if plan['clients'] > 1 else ''}, batches of {plan['batch']}"
    )
    click.echo(f"{'':9}  {'keys/s':>10}  {'p50 us':>9}  {'p99 us':>9}  {'failed':>7}")
    for workload, figures in report["workloads"].items():
        click.echo(
            f"{workload:9}  {figures['keys_per_s']:>10,.0f}  {figures['p50_us']:>9,.1f}  {figures['p99_us']:>9,.1f}  "
            f"{figures['failed']:>7}"
        )
