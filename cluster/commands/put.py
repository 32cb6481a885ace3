"""`stratacache put`: store a value."""

from __future__ import annotations

import sys

import click

from stratacache.cluster.commands.options import (
    Duration,
    cache_options,
    check_key,
    json_option,
    namespace_option,
    open_cache,
    print_json,
)


@click.command("put")
@click.argument("key")
@click.argument("value")
@click.option("--ttl", "ttl_s", type=Duration(), help="How long it stays good: 90, 15m, 2h, 1d.  [until evicted]")
@click.option("--tag", "tags", multiple=True, help="A tag by which it can be invalidated; may be given several times.")
@cache_options
@namespace_option
@json_option
def command(
    *,
    key: str,
    value: str,
    ttl_s: float | None,
    tags: tuple[str, ...],
    address: str | None,
    name: str | None,
    token: str | None,
    namespace: str,
    as_json: bool,
) -> None:
    """Store VALUE (text; - reads bytes from stdin) under KEY. Exit status 1 when the cache refused it."""
    check_key(key)
    payload = sys.stdin.buffer.read() if value == "-" else value
    cache = open_cache(address, name, token)
    try:
        stored = cache.put(key, payload, ttl=ttl_s, namespace=namespace, tags=tags)
    finally:
        cache.close()
    if as_json:
        print_json({"key": key, "namespace": namespace, "stored": stored})
    elif stored:
        click.echo("stored")
    else:
        click.echo("the cache refused it: is it larger than every level's budget?", err=True)
    if not stored:
        sys.exit(1)
