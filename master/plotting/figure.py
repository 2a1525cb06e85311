"""Panels drawn with matplotlib. It knows numbers and labels; where they come from it does not know."""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from master.plotting.curves import Curve, Floats, Panel, finite, spans_decades
from master.plotting.legend import end_labels, ends_together, legend_below
from master.plotting.metric_words import is_share, words
from master.plotting.style import COLOURS, DASHES, GREY, INK, MANY, MARKERS, OVERLAY_MARKERS, RC

_LONGEST_LABEL = 28
"""Characters of a y-axis' label on one line."""
FORMATS = (".pdf", ".png", ".svg")
Legend = Literal["auto", "ends", "inside", "below", "none"]


@dataclass(frozen=True)
class Look:
    """What the command line says about the picture; None is "as suits the data"."""

    title: str = ""
    logx: bool | None = None
    logy: bool | None = None
    legend: Legend = "auto"
    size: tuple[float, float] | None = None  # inches, of the whole figure
    xlim: tuple[float, float] | None = None
    ylim: tuple[float, float] | None = None
    names_theory: bool = True  # whether the legend names theory lines; of several a note in the corner tells


def save(panels: Sequence[Panel], rows: int, look: Look, path: Path) -> None:
    """Draw the panels, `rows` rows of them, and write the picture (pdf, png or svg by its name)."""
    with matplotlib.rc_context(RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*constrained_layout not applied.*")  # a tiny --size still draws
        draw(panels, rows, look).savefig(path, metadata={"CreationDate": None} if path.suffix == ".pdf" else None)


def draw(panels: Sequence[Panel], rows: int, look: Look) -> Figure:
    """The figure; call it inside `matplotlib.rc_context(RC)`."""
    columns = -(-len(panels) // rows)
    width, height = look.size or (max(4.4, 2.9 * columns + 0.4), 2.9 if rows == 1 else 2.3 * rows + 0.3)
    figure = Figure(figsize=(width, height))
    shared = len({panel.y for panel in panels}) < len(panels)  # panels of one metric are to be compared
    grid = figure.subplots(rows, columns, squeeze=False, sharey="row" if shared else False)
    shown = list(grid.flat)
    if look.logx:
        panels = [_without_origin(panel) for panel in panels]
    look = replace(look, names_theory=sum(c.kind == "theory" for p in panels for c in p.curves) <= 1)
    colours, logs = _colours(panels), []
    for axes, panel in zip(shown, panels, strict=False):
        beside = [
            c for p in panels if p.y == panel.y and (shared or p is panel) for c in p.curves if c.kind != "theory"
        ]
        logy = spans_decades(beside) and not is_share(panel.y) if look.logy is None else look.logy
        logs.append(logy)
        _draw_panel(axes, panel, look, _floor(beside) if logy else None, colours)
        _limit(axes, panel, beside, look, logy)
        _ticks(axes, panel, look, logy)
        _note(axes, panel, logy, dotted=not look.names_theory and panel is panels[0])
    for axes in shown[len(panels) :]:
        axes.remove()
    _name_axes(grid, panels, look, logs)
    if look.title:
        figure.suptitle(look.title, fontsize=9.5)
    _explain(figure, shown[: len(panels)], panels, look)
    return figure


def _without_origin(panel: Panel) -> Panel:
    """The panel without its points at x = 0, which a logarithmic x-axis has no place for."""
    return replace(panel, curves=[c.where(c.x > 0) for c in panel.curves])


def _colours(panels: Sequence[Panel]) -> dict[str, int]:
    """An index for each label, the same in all panels."""
    labels = dict.fromkeys(c.label for panel in panels for c in panel.curves if c.kind == "runs")
    return {label: index for index, label in enumerate(labels)}


def _draw_panel(axes: Axes, panel: Panel, look: Look, floor: float | None, colours: dict[str, int]) -> None:
    """The lines. `floor`: where a logarithmic y-axis shows zero; None on a linear one."""
    if look.logx:
        axes.set_xscale("log")
    if floor is not None:
        axes.set_yscale("log")
    overlays = 0
    for curve in panel.curves:
        if curve.kind == "runs":
            _draw_runs(axes, curve, colours[curve.label], len(colours), floor, look.xlim)
        elif curve.kind == "theory":
            colour = COLOURS[colours[curve.beside] % len(COLOURS)] if curve.beside in colours else GREY
            named = curve.label if look.names_theory else None
            axes.plot(curve.x, curve.y, color=colour, lw=0.9, ls=(0, (1, 2)), label=named, zorder=1.8)
        else:
            _draw_overlay(axes, curve, overlays, colours, floor)
            overlays += 1


def _draw_runs(
    axes: Axes, curve: Curve, index: int, of: int, floor: float | None, xlim: tuple[float, float] | None = None
) -> None:
    """One curve, number `index` of `of`, with its band."""
    colour = COLOURS[index % len(COLOURS)]
    dashes = DASHES[index % len(DASHES)] if of <= MANY else "solid"  # with markers too, no line would be seen
    y = _raised(curve.y, floor)
    axes.plot(curve.x, y, color=colour, ls=dashes, label=curve.label, zorder=3 - 0.01 * index,
              **_marks(index, of, len(curve.x)))  # fmt: skip
    if curve.low is not None and curve.high is not None:
        low, high = _raised(curve.low, floor), _raised(curve.high, floor)
        axes.fill_between(curve.x, low, high, color=colour, alpha=0.16, lw=0, zorder=1.5)
    if floor is not None and bool((curve.y <= 0).any()):
        at_zero = np.flatnonzero(curve.y <= 0)
        at_zero = at_zero[:: max(1, len(at_zero) // 8)]  # a few say it
        look: Any = {"ls": "none", "marker": "v", "ms": 3.5, "mfc": "white", "mec": colour, "mew": 0.8}
        # Whole at the edge of the axes, and so left out beyond: what is not clipped would push the layout apart.
        within = at_zero if xlim is None else at_zero[(curve.x[at_zero] >= xlim[0]) & (curve.x[at_zero] <= xlim[1])]
        if len(within):
            axes.plot(curve.x[within], y[within], zorder=3.5, clip_on=False, **look)


def _marks(index: int, of: int, points: int) -> dict[str, Any]:
    """How the points of a curve are marked: all where they are few; of many curves some, each curve at its own."""
    if of <= MANY:
        return {"marker": "o" if points <= 12 else None, "ms": 2.6}
    apart = max(1, points // 8)
    look = {"ms": 4.0, "mec": "white", "mew": 0.5}
    return {"marker": MARKERS[index % len(MARKERS)], "markevery": (index * apart // of, apart), **look}


def _draw_overlay(axes: Axes, curve: Curve, number: int, colours: dict[str, int], floor: float | None) -> None:
    """A foreign series: thin, with open markers; in the colour of the curve whose label it begins with."""
    kin = [index for label, index in colours.items() if curve.label.startswith(label)]
    colour = COLOURS[kin[-1] % len(COLOURS)] if kin else (INK, GREY, "#AA4466", "#4466AA")[number % 4]
    axes.plot(curve.x, _raised(curve.y, floor), color=colour, lw=0.7, alpha=0.9, label=curve.label, zorder=2.2,
              marker=OVERLAY_MARKERS[number % len(OVERLAY_MARKERS)], ms=3.2, mfc="white", mew=0.8,
              markevery=max(1, len(curve.x) // 14))  # fmt: skip


def _floor(curves: Sequence[Curve]) -> float:
    """Where a log axis shows zero: below every positive value."""
    values = np.concatenate([finite(c.y) for c in curves] or [np.zeros(0)])
    positive = values[values > 0]
    if not len(positive):
        return 1.0
    decades = math.log10(positive.max() / positive.min())
    return float(positive.min() * 10 ** -max(0.15, 0.06 * decades))


def _raised(values: Floats, floor: float | None) -> Floats:
    """The values as they are drawn: on a log axis zero lies on the floor; what is not finite leaves a gap."""
    shown = np.where(np.isfinite(values), values, np.nan)
    return shown if floor is None else np.where(shown <= 0, floor, shown)


def _limit(axes: Axes, panel: Panel, beside: Sequence[Curve], look: Look, logy: bool) -> None:
    """Limits by what was measured (in all panels that share y): a theorem's line may leave the picture."""
    xs = np.concatenate([finite(c.x) for c in panel.curves if c.kind != "theory"] or [np.zeros(0)])
    if look.xlim:
        axes.set_xlim(*look.xlim)
    elif len(xs) and xs.max() > xs.min() and not look.logx:
        margin = 0.01 * (xs.max() - xs.min())
        axes.set_xlim(xs.min() - margin, xs.max() + margin)
    ys = np.concatenate([finite(c.y) for c in beside] or [np.zeros(0)])
    if look.ylim:
        axes.set_ylim(*look.ylim)
    elif logy and bool((ys > 0).any()):
        zeros = bool((ys <= 0).any())
        bottom, top = _floor(beside) if zeros else float(ys[ys > 0].min()), float(ys.max())
        span = math.log10(top / bottom)
        axes.set_ylim(bottom / 10 ** (0.05 * span + 0.02), top * 10 ** (0.06 * span + 0.02))


def _note(axes: Axes, panel: Panel, logy: bool, dotted: bool) -> None:
    """What the marks in the panel mean, small and above its corner."""
    notes = []
    if logy and any(bool((c.y <= 0).any()) for c in panel.curves if c.kind == "runs"):
        notes.append("▽ at or below 0")
    if dotted:
        notes.append("dotted: rate of the theorem")
    if notes:
        at: Any = {"xycoords": "axes fraction", "textcoords": "offset points", "xytext": (0, 2), "ha": "right"}
        axes.annotate("   ".join(notes), (1, 1), fontsize=6.5, color=GREY, **at)


def _ticks(axes: Axes, panel: Panel, look: Look, logy: bool) -> None:
    for axis, metric, log in ((axes.xaxis, panel.x, bool(look.logx)), (axes.yaxis, panel.y, logy)):
        if log:
            axis.set_major_locator(LogLocator(10, numticks=7 if axis is axes.yaxis else 6))
            axis.set_minor_formatter(NullFormatter())
            continue
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=metric in ("round", "clients")))
        scale = _prefix(metric, axis.get_view_interval()[1])[0]
        if scale != 1.0:
            axis.set_major_formatter(FuncFormatter(lambda value, _, scale=scale: f"{value / scale:.4g}"))


def _prefix(metric: str, largest: float) -> tuple[float, str]:
    """The power of 1000 that the ticks of a count leave to its axis' label, and the unit there: (1e6, "Mbit")."""
    unit = words(metric).unit
    if unit not in ("bit", "B") and metric != "oracle_calls":
        return 1.0, unit
    power = max(0, min(5, int(math.log10(max(1.0, largest / 1.5)) // 3)))
    names = ("", "k", "M", "G", "T", "P") if unit else ("", "thousands", "millions", "10⁹", "10¹²", "10¹⁵")
    return 1000.0**power, f"{names[power]}{unit}" if power else ("" if unit == "bit" else unit)


def _name_axes(grid: Any, panels: Sequence[Panel], look: Look, logs: Sequence[bool]) -> None:
    """Titles and axis labels on the outer panels only, where the inner ones say the same."""
    columns = grid.shape[1]
    for position, (panel, logy) in enumerate(zip(panels, logs, strict=True)):
        row, column = divmod(position, columns)
        axes = grid[row, column]
        below = panels[position + columns] if position + columns < len(panels) else None
        above = panels[position - columns] if row else None
        if above is None or above.title != panel.title:
            axes.set_title(panel.title, loc="left", pad=5)
        if below is None or below.x != panel.x:
            axes.set_xlabel(_axis_label(panel.x, axes.get_xlim()[1], bool(look.logx)))
        if column == 0 or panels[position - 1].y != panel.y:
            label = _axis_label(panel.y, axes.get_ylim()[1], logy)
            axes.set_ylabel(_folded(label))


def _folded(label: str) -> str:
    """A long label on two lines, at a comma if it has one."""
    if "$" in label or len(label) <= _LONGEST_LABEL:
        return label
    return label.replace(", ", ",\n", 1) if ", " in label else textwrap.fill(label, _LONGEST_LABEL)


def _axis_label(metric: str, largest: float, log: bool) -> str:
    unit = words(metric).unit if log else _prefix(metric, largest)[1]
    return words(metric).label + (f" ({unit})" if unit and not (log and unit == "bit") else "")


def _explain(figure: Figure, shown: Sequence[Axes], panels: Sequence[Panel], look: Look) -> None:
    """Say which curve is which, as near to the curves as there is room for."""
    handles: dict[str, Any] = {}
    for axes in shown:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    kind = look.legend
    if kind == "auto":
        together = len(panels) == 1 and ends_together(shown[0]) and len(handles) <= 9
        kind = "none" if len(handles) == 1 else "ends" if together else "below"
        if len(handles) == 1 and not look.title and len(panels) == 1 and not panels[0].title:
            shown[0].set_title(next(iter(handles)), loc="left", pad=5)
    if kind == "ends":
        if look.size is None:  # room for the names, so that the axes keep theirs
            figure.set_figwidth(figure.get_figwidth() + min(2.2, max(0.0, 0.066 * max(map(len, handles)) - 0.5)))
        for axes in shown:
            end_labels(figure, axes)
    elif kind == "inside":
        shown[0].legend(handles.values(), handles.keys(), loc="best", frameon=True, framealpha=0.9, edgecolor="none")
    elif kind == "below" and handles:
        legend_below(figure, handles, grow=look.size is None)


__all__ = ["FORMATS", "Legend", "Look", "draw", "save"]
