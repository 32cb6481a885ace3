"""`stratacache up`: start a cache in the running Ray cluster, or start a local Ray for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from stratacache.cluster.commands.options import (
    Bytes,
    Seconds,
    json_option,
    metrics_options,
    name_option,
    print_json,
    tls_options,
)
from stratacache.cluster.config import ClusterConfig
from stratacache.cluster.launch import ClusterHandle, start
from stratacache.cluster.local_ray import connect_ray, disconnect_ray, end_head, find_ray, require_ray, start_head
from stratacache.cluster.state import ClusterState, RayHead, forget_state, load_state, save_state, state_dir
from stratacache.node.types import EvictionPolicy

_DEFAULTS = ClusterConfig()


@click.command("up")
@click.option("--shards", type=int, default=_DEFAULTS.shards, show_default=True, help="How many shards to start.")
@name_option
@click.option("--replicas", type=int, default=1, show_default=True, help="Copies of each key, 1 to 3.")
@click.option(
    "--l1-bytes", "l1", type=Bytes(), default=_DEFAULTS.l1_bytes_max, help="L1 (memory) of each shard.  [256MiB]"
)
@click.option(
    "--l2-bytes", "l2", type=Bytes(), default=_DEFAULTS.l2_bytes_max, help="L2 (compressed) of each.  [128MiB]"
)
@click.option("--l3-bytes", "l3", type=Bytes(), default=_DEFAULTS.l3_bytes_max, help="L3 (disk) of each.  [1GiB]")
@click.option(
    "--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Where L3 lies; without it there is none."
)
@click.option(
    "--policy", default=_DEFAULTS.policy, show_default=True, help=", ".join(one.value for one in EvictionPolicy)
)
@click.option("--host", default="", help="Listen address.  [127.0.0.1; each node's own when Ray spans machines]")
@click.option("--port", type=int, default=0, help="shard-0's port, shard-1's is one more, ...  [any free ports]")
@click.option("--token", envvar="STRATACACHE_TOKEN", help="What clients must show.  [env: STRATACACHE_TOKEN]")
@click.option("--insecure", is_flag=True, help="Allow a host that others can reach without a token.")
@metrics_options
@tls_options
@click.option(
    "--cpus-per-shard", type=float, default=0.0, show_default=True, help="CPUs that each shard takes from Ray."
)
@click.option(
    "--start-timeout", "timeout_s", type=Seconds(1), default=60.0, show_default=True, help="Seconds for all shards."
)
@json_option
def command(
    *,
    shards: int,
    name: str,
    replicas: int,
    l1: int,
    l2: int,
    l3: int,
    data_dir: Path | None,
    policy: str,
    host: str,
    port: int,
    token: str | None,
    insecure: bool,
    metrics_host: str,
    metrics_port: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_ca: Path | None,
    tls_name: str,
    cpus_per_shard: float,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Start a cache of N shards that outlives this command.

    Uses the Ray cluster at RAY_ADDRESS or the local one that Ray finds; starts a local Ray when there is none. End it
    with `stratacache down`.
    """
    config = ClusterConfig(
        name=name,
        shards=shards,
        replicas=replicas,
        host=host,
        port=port,
        token=token,
        insecure=insecure,
        metrics_host=metrics_host,
        tls_certificate=_absolute(tls_cert),
        tls_key=_absolute(tls_key),
        tls_ca=_absolute(tls_ca),
        tls_name=tls_name,
        metrics_port=None if metrics_port < 0 else metrics_port,
        data_dir=str(data_dir.expanduser().resolve()) if data_dir is not None else None,
        l1_bytes_max=l1,
        l2_bytes_max=l2,
        l3_bytes_max=l3,
        policy=policy,
        cpus_per_shard=cpus_per_shard,
        start_timeout_ms=int(timeout_s * 1000),
    )
    config.validate()
    state_dir()  # what is started can be remembered, or nothing is
    require_ray()
    handle, address, head = _start(config)
    if as_json:
        print_json(_report(config, handle) | {"ray_address": address, "ray_started": head is not None})
    else:
        _tell(config, handle)


def _report(config: ClusterConfig, handle: ClusterHandle) -> dict[str, Any]:
    view = handle.view
    return {
        "name": config.name,
        "address": handle.address,
        "epoch": view.epoch,
        "shards": [shard.to_map() for shard in view.shards],
        "token": handle.token,
        "tls_ca": config.tls_ca,
        "tls_name": config.tls_name,
    }


def _tell(config: ClusterConfig, handle: ClusterHandle) -> None:
    secret = handle.token
    endpoints = {shard.id: shard.address for shard in handle.view.shards}
    click.echo(f"cache {config.name}: {len(endpoints)} shards serve")
    for shard, endpoint in endpoints.items():
        click.echo(f"  {shard}  {endpoint}")
    trusted = f", tls_ca={config.tls_ca!r}, tls_server_name={config.tls_name!r}" if config.tls_certificate else ""
    click.echo(f"connect() inside Ray, or connect({handle.address!r}{', token=...' if secret else ''}{trusted})")
    if secret and config.token is None:
        click.echo(f"token: {secret}")


def _absolute(path: Path | None) -> str:
    return "" if path is None else str(path.expanduser().resolve())


def _start(config: ClusterConfig) -> tuple[ClusterHandle, str, RayHead | None]:
    """Start everything, remembering each thing before it can be lost; undo it all on failure.

    Returns the cache, the address of its Ray, and that Ray's head if it was started here.
    """
    before = load_state(config.name)
    address = find_ray()
    head = None
    try:
        if address is None:
            head = start_head(config.name)
            address = head.address
            save_state(ClusterState(name=config.name, ray_address=address, head=head))
        connect_ray(address)
        handle = start(config)
        state = ClusterState(
            name=config.name,
            ray_address=address,
            head=head or _head_of(before, address),
            token=handle.token,
            endpoints=handle.endpoints,
            tls_ca=config.tls_ca,
            tls_name=config.tls_name,
        )
        save_state(state)
    except BaseException:
        if head is not None:
            disconnect_ray()
            end_head(head)
            forget_state(config.name)
        raise
    return handle, address, head


def _head_of(before: ClusterState | None, address: str) -> RayHead | None:
    """The Ray that an earlier `up` of this name started and that still runs: `down` has to end it too."""
    return before.head if before is not None and before.head is not None and before.head.address == address else None
