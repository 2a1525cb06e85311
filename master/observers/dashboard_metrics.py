"""The metrics on screen: sparklines, charts where there is room, and what it cost so far."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.text import Text

from master.observers.dashboard_state import RunView
from master.observers.screen_frame import fit, spread
from master.observers.sparkline import chart, is_logarithmic, sparkline
from master.observers.units import number, scaled

# the curves worth a place, best first; those that are not named here follow
CURVES = (
    "loss_train",
    "f",
    "accuracy",
    "grad_norm",
    "loss",
    "distance",
    "accuracy_top5",
    "direction_norm",
)
_NO_CURVES = ("round", "clients", "bits_up", "bits_down", "oracle_calls", "wire_bytes_sent", "wire_bytes_received",
              "gpu_memory_bytes", "round_s", "elapsed_s")  # fmt: skip
_STYLES = {"accuracy": "green", "accuracy_top5": "green", "grad_norm": "magenta", "direction_norm": "magenta",
           "distance": "magenta"}  # fmt: skip
_CHART_WIDTH = 44  # columns of a chart, at least, where two stand side by side
_CURVE_LINES = (3, 7)  # at least and at most
_DIM = "grey58"


def curve_names(run: RunView) -> list[str]:
    """The metrics that have a curve, best first."""
    known = [*CURVES, *(name for name in run.series if name not in (*CURVES, *_NO_CURVES))]
    return [name for name in known if name in run.series and run.series[name].points]


def metrics_title(run: RunView, capacity: int, page: int) -> Text:
    """With the page, where there are several."""
    pages = -(-len(curve_names(run)) // max(1, capacity))
    return Text.assemble(("metrics", "bold"), (f" {page % pages + 1}/{pages}" if pages > 1 else "", "cyan"))


def _of_page(names: Sequence[str], capacity: int, page: int) -> list[str]:
    """The last page is full, too."""
    if len(names) <= capacity:
        return list(names)
    first = min(page % -(-len(names) // capacity) * capacity, len(names) - capacity)
    return list(names[first : first + capacity])


def metric_lines(run: RunView, width: int, rows: int, page: int = 0) -> list[Text]:
    """`rows` lines: sparklines in two columns, and the counters last."""
    names = _of_page(curve_names(run), max(1, 2 * (rows - 1)), page)
    if not names:
        nothing = Text("nothing was measured yet", style=_DIM)
        return [nothing, counters(run)][: min(rows, 2 if counters(run).plain else 1)]
    columns = 2 if len(names) > 1 else 1
    label = max(len(name) for name in names)
    cell = (width - 3 * (columns - 1)) // columns
    lines: list[Text] = []
    for first in range(0, len(names), columns):
        cells = [_curve_line(run, name, cell, label) for name in names[first : first + columns]]
        lines.append(Text("   ").join(fit(text, cell) for text in cells))
    return [*lines, counters(run)]


def _curve_line(run: RunView, name: str, width: int, label: int) -> Text:
    values = [value for _, value in run.series[name].points]
    head = Text.assemble(fit(Text(name, style=_DIM), label), " ", _value(run, name, 9, "right"), " ")
    (curve,) = sparkline(values, max(1, width - head.cell_len))
    return Text.assemble(head, (curve, _STYLES.get(name, "cyan")))


def chart_capacity(run: RunView, width: int, height: int) -> int:
    """How many charts fit on so many lines, the counters among them."""
    return _grid(run, width, height)[0] * _grid(run, width, height)[1]


def _grid(run: RunView, width: int, height: int) -> tuple[int, int, int]:
    """Columns of charts, rows of charts, and the lines of a curve."""
    count = len(curve_names(run))
    columns = 2 if width >= 2 * _CHART_WIDTH + 3 and count > 1 else 1
    rows = max(1, min(-(-count // columns), (height - 1) // (_CURVE_LINES[0] + 1)))
    return columns, rows, max(1, min(_CURVE_LINES[1], (height - 1) // rows - 1))


def chart_lines(run: RunView, width: int, height: int, page: int = 0) -> list[Text]:
    """At most `height` lines: curves of several lines, one or two beside each other, and the counters last."""
    names = curve_names(run)
    if not names:
        return metric_lines(run, width, height)
    columns, rows, tall = _grid(run, width, height)
    names = _of_page(names, columns * rows, page)
    cell = (width - 3 * (columns - 1)) // columns
    lines: list[Text] = []
    for first in range(0, len(names), columns):
        charts = [_chart(run, name, cell, tall) for name in names[first : first + columns]]
        lines += [Text("   ").join(parts) for parts in zip(*charts, strict=True)]
    return [*lines, counters(run)][:height]


def _chart(run: RunView, name: str, width: int, tall: int) -> list[Text]:
    values = [value for _, value in run.series[name].points]
    finite = [value for value in values if math.isfinite(value)]
    span = f"{number(min(finite))} … {number(max(finite))}" if finite else "no finite value"
    scale = "  log" if is_logarithmic(values) else ""
    head = Text.assemble((f"{name}  ", _DIM), _value(run, name))
    curve = [fit(Text(row, style=_STYLES.get(name, "cyan")), width) for row in chart(values, width, tall)]
    return [spread(head, Text(span + scale, style=_DIM), width), *curve]


def _value(run: RunView, name: str, width: int = 0, align: str = "left") -> Text:
    value = run.metrics.get(name)
    style = "bold" if value is not None and math.isfinite(value) else "bold red"
    text = Text(number(value) if value is not None else "", style=style)
    return fit(text, width, align) if width else text


def counters(run: RunView) -> Text:
    """Cumulative costs, those that were measured."""
    shown = (
        ("bits_up", "up", "bit"),
        ("bits_down", "down", "bit"),
        ("oracle_calls", "oracle calls", ""),
        ("wire_bytes_sent", "wire out", "B"),
        ("wire_bytes_received", "in", "B"),
        ("gpu_memory_bytes", "gpu", "B"),
    )
    pairs = [
        Text.assemble((f"{label} ", _DIM), scaled(run.metrics[name], unit))
        for name, label, unit in shown
        if name in run.metrics
    ]
    return Text("   ").join(pairs)
