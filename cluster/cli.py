"""The command line `stratacache`: finds the subcommand, and turns every error into one line and an exit status.

Exit status: 0 done; 1 the answer is no (a miss, an unhealthy cluster); 2 the call was wrong or something it needs is
not there, with one line on stderr that names the way out; 130 interrupted.

Invariant: importing this module imports neither Ray nor a subcommand.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import click

from stratacache.node.errors import CacheError

COMMANDS: Final = {
    "up": "start a cache in the Ray cluster (or start a local Ray first)",
    "status": "show the shards and what they hold",
    "top": "watch shards, levels and hot keys in a live view",
    "bench": "measure a running cache",
    "down": "end what `up` made",
    "get": "print a cached value",
    "put": "store a value",
    "invalidate": "remove by key, tag, namespace, or everything",
    "node": "serve one cache node without Ray",
    "controller": "keep a cache alive in a Ray cluster (what the Helm chart runs)",
    "resize": "change the number of shards and their weights while the cache is in use",
    "drain": "take a shard out, or prepare this machine's shards for its end",
    "completion": "print what makes the shell complete `stratacache`",
    "demo": "run an AI pipeline on a local cluster and show what the cache does",
}


class LazyGroup(click.Group):
    """A group that imports a subcommand when it is called or asked for its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All names, in the order in which they are of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import one subcommand: the attribute `command` of the module of its name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"stratacache.cluster.commands.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _version() -> str:
    try:
        return version("stratacache")
    except PackageNotFoundError:
        return "(from its sources, not installed)"


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(_version(), message="stratacache %(version)s")
def cli() -> None:
    """A distributed cache for AI operations that lives inside a Ray cluster. It may miss, it never lies."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    try:
        status = cli.main(args=arguments, prog_name="stratacache", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f" (see `{context.command_path} --help`)" if context is not None else ""
        _fail(error.format_message() + hint)
    except CacheError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str) -> None:
    click.echo(f"stratacache: {' '.join(message.split())}", err=True)
    sys.exit(2)
