"""`stratacache controller`: keep a cache alive in a Ray cluster, as the Helm chart runs it."""

from __future__ import annotations

import json
import logging
import signal
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from stratacache.cluster.config import ClusterConfig
from stratacache.cluster.local_ray import require_ray
from stratacache.node.errors import UsageError


@click.command("controller")
@click.option(
    "--config",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="A JSON file with the fields of ClusterConfig.",
)
@click.option("--http-host", default="0.0.0.0", show_default=True, help="Where probes and metrics are answered.")  # noqa: S104 - Kubernetes asks the pod's address
@click.option("--http-port", type=click.IntRange(0, 65_535), default=8080, show_default=True, help="0: any free port.")
@click.option("--token", envvar="STRATACACHE_TOKEN", help="What clients must show.  [env: STRATACACHE_TOKEN]")
def command(*, path: Path, http_host: str, http_port: int, token: str | None) -> None:
    """Create the cache in the Ray cluster at RAY_ADDRESS where it is absent, and keep it as the file describes it.

    Answers /healthz, /readyz (every shard serves) and /metrics. Ends on SIGTERM; the cache goes on without it. Safe to
    run twice at once.
    """
    config = read_config(path, token)
    require_ray()
    from stratacache.cluster.controller_shell import ControllerShell, ray_address

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        shell = ControllerShell(config, ray_address(), http_host=http_host, http_port=http_port)
    except OSError as error:
        raise UsageError(f"port {http_port} on {http_host} can't be used: {error.strerror}; choose another") from error
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: shell.stop.set())
    click.echo(f"ready port={shell.http_port}")
    shell.run()


def read_config(path: Path, token: str | None) -> ClusterConfig:
    """The configuration in a file; UsageError names the field that is wrong or unknown."""
    try:
        values: Any = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is not JSON that can be read: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} holds no JSON object")
    known = {field.name for field in fields(ClusterConfig)} - {"uid", "machine", "token"}
    if unknown := sorted(set(values) - known):
        raise UsageError(f"{path} has the unknown field {unknown[0]!r}: known are {', '.join(sorted(known))}")
    config = ClusterConfig(**values, token=token)
    try:
        config.validate()
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    if token is None and not config.insecure:
        raise UsageError("no token: set STRATACACHE_TOKEN, or insecure to true in the file")
    return config
