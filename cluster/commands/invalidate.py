"""`stratacache invalidate`: remove entries by key, tag, namespace, or everything."""

from __future__ import annotations

import click

from stratacache.cluster.commands.options import cache_options, check_key, json_option, open_cache, print_json
from stratacache.node.errors import UsageError


@click.command("invalidate")
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@click.option("--tag", "tags", multiple=True, help="Everything with this tag; may be given several times.")
@click.option("--all", "everything", is_flag=True, help="Everything.")
@click.option("--namespace", help="The keys' namespace; without KEY: everything in this namespace.")
@cache_options
@json_option
def command(
    *,
    keys: tuple[str, ...],
    tags: tuple[str, ...],
    everything: bool,
    namespace: str | None,
    address: str | None,
    name: str | None,
    token: str | None,
    as_json: bool,
) -> None:
    """Remove entries and print how many there were.

    Returns when no shard can serve them any more; otherwise exits with status 2 and names the shards that are missing.
    """
    if sum(map(bool, (keys, tags, everything, namespace and not keys))) != 1:
        raise UsageError(
            "say what to invalidate: KEY..., --tag TAG, --namespace NAMESPACE or --all, and one of these only"
        )
    for key in keys:
        check_key(key)
    cache = open_cache(address, name, token)
    try:
        if keys:
            removed = cache.invalidate_many(list(keys), namespace=namespace)
        elif tags:
            removed = cache.invalidate_tags(set(tags))
        elif namespace:
            removed = cache.invalidate_namespace(namespace)
        else:
            removed = cache.clear()
    finally:
        cache.close()
    if as_json:
        print_json({"removed": removed})
    else:
        click.echo(f"removed {removed}")
