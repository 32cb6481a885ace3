"""`stratacache resize`: another number of shards, or other weights, while the cache is in use."""

from __future__ import annotations

import click

from stratacache.cluster.commands.options import Seconds, json_option, name_option, print_json
from stratacache.cluster.launch import attach
from stratacache.cluster.local_ray import connect_ray, find_ray, require_ray
from stratacache.cluster.state import load_state
from stratacache.node.errors import UnavailableError


@click.command("resize")
@click.argument("shards", type=click.IntRange(min=1), required=False)
@click.option(
    "--weight", "weights", multiple=True, metavar="SHARD=WEIGHT", help="As shard-0=2: twice the keys. May be repeated."
)
@click.option("--timeout", "timeout_s", type=Seconds(1), default=180.0, show_default=True, help="Seconds.")
@name_option
@json_option
def command(shards: int | None, weights: tuple[str, ...], timeout_s: float, name: str, as_json: bool) -> None:
    """Change the number of shards to SHARDS, and wait until all keys are where they belong.

    Entries move with their keys: one that is asked for meanwhile is fetched from where it was.
    """
    if shards is None and not weights:
        raise click.UsageError("say how many shards there are to be, or give a --weight")
    heavy = dict(map(_weight, weights))
    require_ray()
    state = load_state(name)
    address = state.ray_address if state is not None else find_ray()
    if address is None:
        raise UnavailableError("no Ray cluster is running here: start a cache with `stratacache up`")
    connect_ray(address)
    handle = attach(name)
    handle.resize(shards, weights=heavy, deadline_s=timeout_s)
    target = handle.status()["change"]["target"]
    if as_json:
        print_json({"shards": target})
    else:
        others = [f"{shard} has weight {weight:g}" for shard, weight in target.items() if weight != 1]
        click.echo(", ".join([f"{len(target)} shard{'s' if len(target) != 1 else ''} serve", *others]))


def _weight(text: str) -> tuple[str, float]:
    shard, _, weight = text.partition("=")
    try:
        if shard and float(weight) > 0:
            return shard, float(weight)
    except ValueError:
        pass
    raise click.BadParameter(f"{text!r} is no weight: write for example shard-0=2", param_hint="--weight")
