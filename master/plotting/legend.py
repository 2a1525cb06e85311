"""Which curve is which: names at the curves' ends where there is room for them, else one legend below the figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from master.plotting.style import GREY

_LINE = 1.25
"""Height of a line of text, in font sizes."""


def ends_together(axes: Axes) -> bool:
    """Whether all curves end near the right edge, so that names there would not be far from them."""
    ends = [_fraction(axes, line.get_xdata()) for line in _named(axes)]
    return bool(ends) and min(ends) > 0.94


def end_labels(figure: Figure, axes: Axes) -> None:
    """Each curve's label to the right of its end, in its colour, pushed apart where they would overlap."""
    figure.canvas.draw()  # the layout, so that a point on paper can be told
    lines = _named(axes)
    wanted = [_end(axes, line) for line in lines]
    size = float(Text(0, 0, "").get_fontsize()) - 0.5
    height = axes.get_position().height * figure.get_figheight() * 72  # points
    placed = spread([y * height for y in wanted], size * _LINE, 0.0, height)
    for line, at, end in zip(lines, placed, wanted, strict=True):
        axes.annotate(
            str(line.get_label()),
            xy=(1.0, end),
            xycoords="axes fraction",
            xytext=(10, at - end * height),
            textcoords="offset points",
            va="center",
            fontsize=size,
            color=_darker(str(line.get_color())),
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": GREY, "lw": 0.4, "shrinkA": 0.5, "shrinkB": 1.5},
        )


def legend_below(figure: Figure, handles: Mapping[str, Any], grow: bool) -> None:
    """One legend for all panels, in as many columns as fit the figure's width; `grow`: the figure makes room for it."""
    widest = max(len(label) for label in handles)
    columns = max(1, min(len(handles), int(figure.get_figwidth() * 72 / (widest * 4.6 + 40))))
    rows = math.ceil(len(handles) / columns)
    columns = math.ceil(len(handles) / rows)  # rows of about the same length
    if grow:
        figure.set_figheight(figure.get_figheight() + 0.17 * (rows - 1))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, columnspacing=1.6)


def spread(wanted: Sequence[float], apart: float, low: float, high: float) -> list[float]:
    """Positions at least `apart`, in the same order as `wanted`, as near to it as that allows, within low..high.

    Blocks of labels that touch are moved as one to the mean of where their members want to be.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[list[float]] = []  # [sum of wanted, members]
    for i in order:
        blocks.append([wanted[i], 1.0])
        while len(blocks) > 1 and _top(blocks[-2], apart) + apart > _bottom(blocks[-1], apart):
            total, members = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += members
    positions: list[float] = []
    for block in blocks:
        first = min(max(_bottom(block, apart), low), high - apart * (block[1] - 1))
        first = max(first, positions[-1] + apart) if positions else first
        positions += [first + apart * k for k in range(int(block[1]))]
    found = [0.0] * len(wanted)
    for i, at in zip(order, positions, strict=True):
        found[i] = at
    return found


def _bottom(block: Sequence[float], apart: float) -> float:
    return block[0] / block[1] - apart * (block[1] - 1) / 2


def _top(block: Sequence[float], apart: float) -> float:
    return block[0] / block[1] + apart * (block[1] - 1) / 2


def _named(axes: Axes) -> list[Any]:
    """The lines that stand for a curve (matplotlib's own names begin with an underscore)."""
    return [
        line for line in axes.get_lines() if not str(line.get_label()).startswith("_") and np.size(line.get_xdata())
    ]


def _fraction(axes: Axes, xs: Any) -> float:
    """How far to the right a line ends, as a fraction of the axes."""
    last = (float(np.asarray(xs, dtype=float)[-1]), axes.get_ylim()[0])
    return float(axes.transAxes.inverted().transform(axes.transData.transform([last]))[0][0])


def _end(axes: Axes, line: Any) -> float:
    """The height of the line's last point, as a fraction of the axes."""
    y = np.asarray(line.get_ydata(), dtype=float)
    y = y[np.isfinite(y)]
    if not len(y):
        return 0.5
    at = axes.transAxes.inverted().transform(axes.transData.transform([(axes.get_xlim()[1], float(y[-1]))]))[0][1]
    return float(min(1.0, max(0.0, at)))


def _darker(colour: str) -> Any:
    """Text is thinner than a line: its colour a little darker."""
    from matplotlib.colors import to_rgb

    return tuple(0.8 * part for part in to_rgb(colour))


__all__ = ["end_labels", "ends_together", "legend_below", "spread"]
