"""`stratacache status`: the shards, where they are, and what they hold."""

from __future__ import annotations

import sys
from typing import Any

import click

from stratacache.cluster.commands.options import json_option, name_option, print_json, size_text
from stratacache.cluster.launch import attach
from stratacache.cluster.local_ray import connect_ray, find_ray, require_ray
from stratacache.cluster.state import load_state
from stratacache.node.errors import UnavailableError


@click.command("status")
@name_option
@json_option
def command(name: str, as_json: bool) -> None:
    """Show each shard's endpoint, state, keys, hits, misses and bytes. Exit status 1 when a shard does not serve."""
    require_ray()
    state = load_state(name)
    address = state.ray_address if state is not None else find_ray()
    if address is None:
        raise UnavailableError(
            "no Ray cluster is running here: start a cache with `stratacache up`, or set RAY_ADDRESS"
        )
    connect_ray(address)
    report = summary(attach(name).stats())
    if as_json:
        print_json(report)
    else:
        print_summary(report)
    if not report["ready"]:
        sys.exit(1)


def summary(stats: dict[str, Any]) -> dict[str, Any]:
    """The figures of a status report: a stable form for programs, whatever the node counts beside them."""
    shards = []
    for shard in stats["shards"]:
        figures = shard.pop("stats", {})
        endpoint = f"{shard['host']}:{shard['port']}" if shard["port"] else ""
        metrics = figures.get("metrics", "")
        shards.append({**shard, "endpoint": endpoint, "metrics": metrics, **_figures(figures)})
    report = {name: stats[name] for name in ("name", "phase", "ready", "epoch", "term", "replicas", "metrics")}
    report["change"], report["fell"] = stats["change"], stats.get("fell", "")
    prefetch = stats.get("prefetch", {})
    return {**report, "shards": shards, "total": _figures(stats["total"]), "prefetch": prefetch}


def _figures(stats: dict[str, Any]) -> dict[str, Any]:
    levels = stats.get("levels", {})
    bytes_by_level = {level: figures.get("bytes_used", 0) for level, figures in levels.items()}
    return {
        "keys": stats.get("entries", 0),
        "hits": stats.get("hits", 0),
        "near_hits": stats.get("near_hits", 0),
        "misses": stats.get("misses", 0),
        "hit_ratio": round(stats.get("hit_ratio", 0.0), 4),
        "puts": stats.get("puts", 0),
        "saved_s": round(stats.get("saved_s", 0.0), 3),
        "bytes": bytes_by_level or {"l1_memory": stats.get("memory_bytes", 0)},
    }


def print_summary(report: dict[str, Any]) -> None:
    """Print the report as a table."""
    total = report["total"]
    click.echo(
        f"cache {report['name']}: {'ready' if report['ready'] else report['phase'] + ', not all shards serve'}, "
        f"epoch {report['epoch']}, {total['keys']} keys, hit ratio {total['hit_ratio']:.1%}"
    )
    header = ("shard", "endpoint", "state", "keys", "hits", "misses", *total["bytes"])
    rows = [header]
    for shard in [*report["shards"], {"id": "total", "endpoint": "", "state": "", **total}]:
        sizes = [size_text(shard["bytes"].get(level, 0)) for level in total["bytes"]]
        counts = [str(shard[name]) for name in ("keys", "hits", "misses")]
        rows.append((shard["id"], shard["endpoint"], shard["state"], *counts, *sizes))
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    for row in rows:
        left = [cell.ljust(width) for cell, width in zip(row[:3], widths[:3], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True)]
        click.echo("  ".join(left + right).rstrip())
    pages = {"coordinator": report["metrics"], **{shard["id"]: shard["metrics"] for shard in report["shards"]}}
    if any(pages.values()):
        told = ", ".join(f"{who} {address}" for who, address in pages.items() if address)
        click.echo(f"metrics (http, /metrics): {told}")
    change = report["change"]
    if change["phase"]:
        what = change["waits_for"] or f"{change['left']} entries left"
        click.echo(f"{change['phase']} ({len(change['target'])} shards are wanted): {what}")
    if total["near_hits"]:
        click.echo(f"near caches served {total['near_hits']} hits more")
    for kind in ("refresh_ahead", "wake"):
        account = report["prefetch"].get(kind, {})
        if account.get("issued"):
            click.echo(
                f"{kind.replace('_', ' ')}: {account['issued']} issued, {account['used']} used in time, "
                f"{account['seconds_saved']:.1f} s of waiting saved, {account['seconds_wasted']:.1f} s wasted"
                f"{'' if account['on'] else ', off for now'}"
            )
    if report["fell"]:
        click.echo(f"a coordinator ended itself, and Ray started the next: {report['fell']}")
    for shard in report["shards"]:
        if shard["reason"]:
            click.echo(f"{shard['id']}: {shard['reason']}")
