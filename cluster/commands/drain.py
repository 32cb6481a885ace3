"""`stratacache drain`: take a shard out for good, or prepare a machine's shards for its end, as a preStop hook does."""

from __future__ import annotations

import click

from stratacache.cluster.commands.options import Seconds, any_name_option, json_option, print_json
from stratacache.cluster.launch import attach
from stratacache.cluster.local_ray import connect_ray, find_ray, require_ray
from stratacache.node.errors import UnavailableError


@click.command("drain")
@click.argument("shard", required=False)
@any_name_option
@click.option("--timeout", "timeout_s", type=Seconds(1), default=45.0, show_default=True, help="Seconds.")
@click.option(
    "--node-ip", envvar="POD_IP", help="The Ray node's address.  [env: POD_IP; else the node of this machine]"
)
@json_option
def command(shard: str | None, name: str | None, timeout_s: float, node_ip: str | None, as_json: bool) -> None:
    """Take SHARD out of the cache: the others get its keys and entries, then its process ends.

    Without SHARD: have the shards on a Ray node write everything to disk and end; none is started here any more. Their
    ranges miss until they run again: where the disk stays, they come back with what it holds.
    """
    require_ray()
    address = find_ray()
    if address is None:
        raise UnavailableError("no Ray node runs here: there is nothing to drain")
    connect_ray(address)
    if shard is not None:
        attach(name).drain_shard(shard, deadline_s=timeout_s)
        shards = [shard]
    else:
        shards = attach(name).drain(_node_id(node_ip), timeout_s)
    if as_json:
        print_json({"shards": shards})
    else:
        click.echo(f"drained {', '.join(shards)}" if shards else "no shard runs here")


def _node_id(address: str | None) -> str:
    """The id of the living Ray node with this address, or of the one that this process is connected to."""
    import ray

    if address is None:
        own: str = ray.get_runtime_context().get_node_id()
        return own
    found = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeManagerAddress"] == address]
    if not found:
        raise UnavailableError(f"no Ray node has the address {address}: there is nothing to drain")
    return str(found[0])
