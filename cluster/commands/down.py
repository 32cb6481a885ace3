"""`stratacache down`: end a cache, and the local Ray when `up` started it and nothing else of ours runs in it."""

from __future__ import annotations

from dataclasses import replace

import click

from stratacache.cluster.commands.options import json_option, name_option, print_json
from stratacache.cluster.discovery import running_clusters
from stratacache.cluster.launch import attach
from stratacache.cluster.local_ray import connect_ray, disconnect_ray, end_head, find_ray, require_ray
from stratacache.cluster.state import ClusterState, forget_state, known_states, load_state, save_state
from stratacache.node.errors import UnavailableError


@click.command("down")
@name_option
@json_option
def command(name: str, as_json: bool) -> None:
    """End a cache: flush its shards to disk, end their processes, and end the Ray that `up` started for it.

    A Ray cluster that was there before `up` is left alone.
    """
    require_ray()
    state = load_state(name)
    stopped = _stop_cache(name, state)
    ray_ended = _end_ray(name, state)
    forget_state(name)
    if not stopped and not ray_ended and state is None:
        raise UnavailableError(f"no cache named {name!r} was found: nothing was changed")
    if as_json:
        print_json({"name": name, "stopped": stopped, "ray_ended": ray_ended})
        return
    click.echo(f"cache {name}: {'ended' if stopped else 'was not running'}{', local Ray ended' if ray_ended else ''}")


def _stop_cache(name: str, state: ClusterState | None) -> bool:
    address = state.ray_address if state is not None else find_ray()
    if address is None:
        return False
    try:
        connect_ray(address)
        attach(name).stop()
    except UnavailableError:
        if state is None:
            raise
        return False  # it is gone already; its Ray, if it was ours, is ended below
    return True


def _end_ray(name: str, state: ClusterState | None) -> bool:
    if state is None or state.head is None:
        return False
    heir = _heir(name, state)
    disconnect_ray()
    if heir is not None:
        save_state(replace(heir, head=state.head))
        return False
    end_head(state.head)
    return True


def _heir(name: str, state: ClusterState) -> ClusterState | None:
    """Another cache of ours that runs in the same Ray: it takes the Ray over, to be ended with it."""
    import ray

    others = set(running_clusters()) - {name} if ray.is_initialized() else set()
    mine = [one for one in known_states() if one.name in others and one.ray_address == state.ray_address]
    return mine[0] if mine else None
