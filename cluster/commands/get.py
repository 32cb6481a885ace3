"""`stratacache get`: print a cached value."""

from __future__ import annotations

import sys

import click

from stratacache.cluster.commands.options import (
    cache_options,
    check_key,
    json_option,
    namespace_option,
    open_cache,
    print_json,
)
from stratacache.node.types import MISS


@click.command("get")
@click.argument("key")
@cache_options
@namespace_option
@json_option
def command(
    *, key: str, address: str | None, name: str | None, token: str | None, namespace: str, as_json: bool
) -> None:
    """Print the value of KEY; exit status 1 on a miss.

    Text and bytes are written as they are, other values as Python shows them.
    """
    check_key(key)
    cache = open_cache(address, name, token)
    try:
        value = cache.get(key, namespace=namespace)
    finally:
        cache.close()
    if as_json:
        shown = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
        found = value is not MISS
        print_json({"key": key, "namespace": namespace, "found": found, "value": shown if found else None})
    elif isinstance(value, bytes):
        sys.stdout.buffer.write(value + b"\n")
    elif value is not MISS:
        click.echo(value if isinstance(value, str) else repr(value))
    else:
        click.echo(f"miss: nothing is cached under {key!r} in namespace {namespace!r}", err=True)
    if value is MISS:
        sys.exit(1)
