"""The plot of miss ratio by cache size, one small panel a trace."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def draw(rows: Sequence[Any], path: Path, column: str | None = None) -> None:
    """Write a PNG; the cost-weighted ratio where costs differ."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    if column is None:
        differ = any(row["cost_miss_ratio"] != row["miss_ratio"] for row in rows)
        column = "cost_miss_ratio" if differ else "miss_ratio"
    traces = list(dict.fromkeys(row["trace"] for row in rows))
    columns = min(3, len(traces))
    lines = -(-len(traces) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(3.6 * columns, 2.8 * lines), squeeze=False)
    styles = {"intelligent": ("tab:red", 2.2, "-"), "belady": ("black", 1.2, ":")}
    for trace, panel in zip(traces, axes.flat, strict=False):
        for policy in dict.fromkeys(row["policy"] for row in rows):
            points = sorted(
                (100 * row["size"], 100 * row[column])
                for row in rows
                if row["trace"] == trace and row["policy"] == policy
            )
            color, width, dash = styles.get(policy, (None, 0.9, "-"))
            panel.plot(
                *zip(*points, strict=True), label=policy, color=color, linewidth=width, linestyle=dash
            ) if points else None
        panel.set_xscale("log")
        panel.set_title(trace, fontsize=8)
        panel.tick_params(labelsize=7)
    for panel in list(axes.flat)[len(traces) :]:
        panel.set_visible(False)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=6, fontsize=7)
    figure.supxlabel("cache size, % of unique keys or bytes", fontsize=8, y=0.07)
    figure.supylabel(f"{column.replace('_', ' ')}, %", fontsize=8)
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    figure.savefig(path, dpi=80)
    plt.close(figure)
