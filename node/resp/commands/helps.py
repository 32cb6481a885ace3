"""HELP of the commands that have subcommands: what an error about an unknown one tells to try."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stratacache.node.resp.replies import array, status
from stratacache.node.resp.table import COMMANDS, Reply, command

if TYPE_CHECKING:
    from stratacache.node.resp.connection import Connection


def _help(connection: Connection, argv: list[bytes]) -> Reply:
    """List the subcommands."""
    name = argv[0].upper()
    lines = [b"%b <subcommand> [<arg> [value] [opt] ...]. Subcommands are:" % name]
    for sub, found in sorted(COMMANDS[name].subcommands.items()):
        lines += [sub, b"    " + found.summary.encode()]
    return array([status(line) for line in lines])


def enter_help(parent: str) -> None:
    """Enter `parent|help` into the table."""
    command(f"{parent}|help", 2, group=COMMANDS[parent.upper().encode()].group)(_help)
