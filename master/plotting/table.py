"""The numbers of a figure as CSV: every point that was drawn, so that the figure can be drawn again by anything."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from master.plotting.curves import Panel

COLUMNS = ("panel", "kind", "label", "runs", "round", "x_metric", "x", "x_std", "y_metric", "y", "low", "high")


def figure_csv(panels: Sequence[Panel]) -> str:
    """One line a point. `low` and `high` are the band's; what there is none of is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for panel in panels:
        for curve in panel.curves:
            for row, number in enumerate(curve.rounds):
                band = ["" if part is None else repr(float(part[row])) for part in (curve.x_std, curve.low, curve.high)]
                x, y = repr(float(curve.x[row])), repr(float(curve.y[row]))
                head = [panel.title, curve.kind, curve.label, curve.runs or "", number if number >= 0 else ""]
                writer.writerow([*head, panel.x, x, band[0], panel.y, y, *band[1:]])
    return out.getvalue()


__all__ = ["COLUMNS", "figure_csv"]
