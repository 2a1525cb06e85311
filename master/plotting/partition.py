"""A picture of a partition: samples a client and class, above them the clients' sizes."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fl_core.partitions.counts import Counts
from master.plotting.style import COLOURS, GREY, RC

_MOST_BUBBLES = (120, 30)
"""Clients and classes beyond which discs would touch: then a heat map."""


def save(counts: Counts, title: str, path: Path) -> None:
    """Draw it and write the picture (pdf, png or svg by its name)."""
    with matplotlib.rc_context(RC):
        draw(counts, title).savefig(path, metadata={"CreationDate": None} if path.suffix == ".pdf" else None)


def draw(counts: Counts, title: str) -> Figure:
    """The figure; call it inside `matplotlib.rc_context(RC)`."""
    n, classes = counts.table.shape
    width = min(9.0, max(4.0, 0.09 * n + 1.2))
    if not counts.labels:
        figure = Figure(figsize=(width, 2.2))
        _draw_sizes(figure.subplots(), counts)
        figure.suptitle(title, fontsize=9.5)
        return figure
    height = min(4.5, max(1.4, 0.19 * classes))
    figure = Figure(figsize=(width, height + 1.4))
    sizes, table = figure.subplots(2, 1, sharex=True, height_ratios=[0.8, height])
    _draw_sizes(sizes, counts)
    sizes.set_xlabel("")
    if n <= _MOST_BUBBLES[0] and classes <= _MOST_BUBBLES[1]:
        _draw_bubbles(table, counts, figure)
    else:
        picture = table.imshow(
            np.sqrt(counts.table.T), aspect="auto", cmap="Blues", interpolation="nearest", origin="lower"
        )
        picture.set_clim(0)
        bar = figure.colorbar(picture, ax=table, pad=0.01, label="samples (root scale)")
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value**2:,.0f}")
    table.grid(False)
    table.yaxis.set_major_locator(MaxNLocator(min(classes, 12), integer=True))
    table.yaxis.set_major_formatter(lambda value, _: str(counts.labels[int(value)]) if 0 <= value < classes else "")
    table.set(xlabel="client", ylabel="class", xlim=(-0.8, n - 0.2), ylim=(-0.7, classes - 0.3))
    figure.suptitle(title, fontsize=9.5)
    return figure


def _draw_sizes(axes: Axes, counts: Counts) -> None:
    n = len(counts.table)
    axes.bar(np.arange(n), counts.sizes, width=0.8 if n <= _MOST_BUBBLES[0] else 1.0, color=GREY)
    axes.set(ylabel="samples", xlabel="client")
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))


def _draw_bubbles(axes: Axes, counts: Counts, figure: Figure) -> None:
    """Discs whose area is the number of samples; the largest is as high as its row, or as wide as two columns."""
    n, classes = counts.table.shape
    width = 72 * (figure.get_figwidth() - 1.0) / n  # points
    height = 72 * (figure.get_figheight() - 1.4) / classes
    clients, columns = np.nonzero(counts.table)
    values = counts.table[clients, columns]
    area = values / values.max() * min(2 * width, height) ** 2
    axes.scatter(clients, columns, s=area, color=COLOURS[0], linewidths=0, alpha=0.85)


__all__ = ["draw", "save"]
