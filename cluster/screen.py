"""A picture of the cache as Rich draws it: a headline, and tables of shards, levels and hot keys.

Invariant: keys come from users and are shown as text, never read as Rich's markup or as control characters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from stratacache.cluster.commands.options import size_text

_STYLES = {"active": "green", "suspended": "yellow", "silent": "red"}


def drawn(picture: Mapping[str, Any]) -> RenderableType:
    """The whole screen."""
    parts: list[RenderableType] = [_headline(picture), _shards(picture["shards"]), _levels(picture["levels"])]
    if picture["hot"]:
        parts.append(_hot(picture["hot"]))
    return Group(*parts)


def _headline(picture: Mapping[str, Any]) -> Text:
    total = picture["total"]
    serving = sum(shard["state"] == "active" for shard in picture["shards"])
    line = Text(f"{picture['cluster'] or 'node'}", style="bold")
    line.append(f"  epoch {picture['epoch']}  ", style="default")
    line.append(f"{serving} of {len(picture['shards'])} shards serve", style="green" if picture["ready"] else "red")
    line.append(
        f"  hit ratio {total['hit_ratio']:.1%}  {total['entries']:,} entries  saved {duration(total['saved_s'])}"
    )
    if total["gets_per_s"] is not None:
        line.append(f"  {total['gets_per_s']:,.0f} gets/s  {total['puts_per_s']:,.0f} puts/s")
    return line


def _table(title: str, names: Sequence[str], left: int) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for index, name in enumerate(names):
        table.add_column(name, justify="left" if index < left else "right", no_wrap=True)
    return table


def _shards(shards: Sequence[Mapping[str, Any]]) -> Table:
    names = ("shard", "state", "ring", "hit ratio", "entries", "memory", "gets/s", "puts/s", "saved", "address")
    table = _table("\nShards", names, 2)
    table.columns[-1].justify, table.columns[-1].overflow = "left", "ellipsis"
    for shard in shards:
        table.add_row(
            shard["id"],
            Text(shard["state"], style=_STYLES.get(shard["state"], "yellow")),
            f"{shard['share']:.1%}",
            f"{shard['hit_ratio']:.1%}",
            f"{shard['entries']:,}",
            size_text(shard["memory_bytes"]),
            _rate(shard["gets_per_s"]),
            _rate(shard["puts_per_s"]),
            duration(shard["saved_s"]),
            shard["address"],
        )
    for column in table.columns[:-1]:  # on a narrow screen the address gives way
        column.min_width = max(len(str(column.header)), *(len(str(cell)) for cell in column.cells))
    return table


def _levels(levels: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("\nLevels", ("level", "hit ratio", "hits", "entries", "bytes", "of", "full"), 1)
    for level in levels:
        full = level["bytes_used"] / level["bytes_max"] if level["bytes_max"] else 0.0
        table.add_row(
            level["level"],
            f"{level['hit_ratio']:.1%}",
            f"{level['hits']:,}",
            f"{level['entries']:,}",
            size_text(level["bytes_used"]),
            size_text(level["bytes_max"]),
            f"{full:.0%}",
        )
    return table


def _hot(keys: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("\nHot keys (hits are estimated)", ("key", "shard", "hits"), 2)
    table.columns[0].no_wrap, table.columns[0].overflow, table.columns[0].max_width = True, "ellipsis", 64
    for one in keys:
        shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in one["key"])
        table.add_row(Text(shown), one["shard"], f"{one['hits']:,}")
    return table


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:,.0f}"


def duration(seconds: float) -> str:
    """A time for people: 5400 as 1.5 h."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s"
