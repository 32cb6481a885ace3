"""`stratacache completion`: what makes a shell complete the command line."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from stratacache.node.errors import UsageError


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    bash:  echo 'source <(stratacache completion bash)' >> ~/.bashrc
    zsh:   echo 'source <(stratacache completion zsh)' >> ~/.zshrc
    fish:  stratacache completion fish > ~/.config/fish/completions/stratacache.fish
    """
    from stratacache.cluster.cli import cli

    found = get_completion_class(shell)
    if found is None:
        raise UsageError(f"click knows no completion for {shell}: update click")
    click.echo(found(cli, {}, "stratacache", "_STRATACACHE_COMPLETE").source())
