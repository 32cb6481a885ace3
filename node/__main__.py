"""`python -m stratacache.node`: one node, without a cluster."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import click

from stratacache.node.config import MIB, NodeConfig
from stratacache.node.errors import UsageError
from stratacache.node.resp.config import ServerConfig
from stratacache.node.resp.main import run_node
from stratacache.node.resp.server import Endpoints
from stratacache.node.types import EvictionPolicy


@click.command()
@click.option("--port", default=6380, show_default=True, help="TCP port; 0 takes a free one, -1 listens on none.")
@click.option("--bind", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--unix", type=click.Path(path_type=Path), help="Unix socket to listen on.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Directory of the disk level; without it, none.")
@click.option("--token", envvar="STRATACACHE_TOKEN", help="Token that clients must show.  [env: STRATACACHE_TOKEN]")
@click.option("--read-token", envvar="STRATACACHE_READ_TOKEN", help="Token of clients that may only read.")
@click.option("--insecure", is_flag=True, help="Listen beyond this machine without a token.")
@click.option("--tls-cert", type=click.Path(path_type=Path), help="Certificate for TLS on the TCP port.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Key of the certificate.")
@click.option("--tls-client-ca", type=click.Path(path_type=Path), help="Clients must show a certificate of this CA.")
@click.option("--l1-mib", default=256, show_default=True, help="Memory level, in MiB.")
@click.option("--l2-mib", default=64, show_default=True, help="Compressed level, in MiB; 0 turns it off.")
@click.option("--l3-mib", default=1024, show_default=True, help="Disk level, in MiB (with --data-dir).")
@click.option("--policy", type=click.Choice([kind.value for kind in EvictionPolicy]), default="lru", show_default=True)
@click.option("--metrics-port", type=int, help="Serve metrics for Prometheus on this port; 0 takes a free one.")
@click.option("--metrics-host", default="127.0.0.1", show_default=True, help="Where they are served.")
@click.option("--connections", default=10_000, show_default=True, help="Clients at the same time.")
@click.option("--value-mib", default=64, show_default=True, help="Largest value, in MiB.")
@click.option("--query-mib", default=256, show_default=True, help="Largest command, in MiB.")
@click.option("--output-mib", default=256, show_default=True, help="Unread replies after which a client is cut off.")
@click.option("--stop-s", default=10.0, show_default=True, help="Seconds that stopping may take.")
def main(
    port: int,
    bind: str,
    unix: Path | None,
    data_dir: Path | None,
    token: str | None,
    read_token: str | None,
    insecure: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    l1_mib: int,
    l2_mib: int,
    l3_mib: int,
    policy: str,
    metrics_port: int | None,
    metrics_host: str,
    connections: int,
    value_mib: int,
    query_mib: int,
    output_mib: int,
    stop_s: float,
) -> None:
    """Serve one cache node over the Redis protocol."""
    logging.basicConfig(level=os.environ.get("STRATACACHE_LOG", "INFO"), format="%(asctime)s %(name)s %(message)s")
    node = NodeConfig(
        l1_bytes_max=l1_mib * MIB,
        l2_bytes_max=l2_mib * MIB,
        l3_bytes_max=l3_mib * MIB if data_dir is not None else 0,
        data_dir=data_dir,
        policy=EvictionPolicy(policy),
        value_bytes_max=value_mib * MIB,
    )
    server = ServerConfig(
        host=bind,
        port=None if port < 0 else port,
        unix_path=unix,
        token=token,
        read_token=read_token,
        insecure=insecure,
        tls_certificate=tls_cert,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
        connections_max=connections,
        value_bytes_max=value_mib * MIB,
        query_bytes_max=query_mib * MIB,
        output_bytes_max=output_mib * MIB,
        output_soft_bytes_max=min(output_mib, 32) * MIB,
    )
    try:
        metrics = None if metrics_port is None else (metrics_host, metrics_port)
        run_node(node, server, stop_s=stop_s, on_start=_tell, metrics=metrics)
    except UsageError as problem:
        raise click.UsageError(str(problem)) from None
    except OSError as problem:
        raise click.ClickException(f"can't listen on {bind}:{port}: {problem}") from None


def _tell(endpoints: Endpoints, metrics: str) -> None:
    """Say where the node listens, in a line that scripts can read."""
    pages = f" metrics={metrics}" if metrics else ""
    click.echo(f"ready host={endpoints.host} port={endpoints.port} unix={endpoints.unix}{pages}")


if __name__ == "__main__":
    main()
