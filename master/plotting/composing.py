"""From runs and the command line to panels: which curves, in which panel, with which labels and lines beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from master.flctl.conditions import check_key, natural
from master.flctl.stored_run import StoredRun, as_words
from master.plotting.curves import (
    Band,
    Curve,
    Group,
    Label,
    Panel,
    by_difference,
    curve,
    grouped,
    in_order,
    template,
)
from master.plotting.derived import Derived
from master.plotting.metric_words import words
from master.plotting.overlays import Overlay, read_overlay
from protocol.errors import InputError

if TYPE_CHECKING:
    from master.flctl.commands.plot import PlotOptions

_WIDEST = 3
"""Panels beside each other, where --by makes many."""


def compose(runs: Sequence[StoredRun], options: PlotOptions) -> tuple[list[Panel], int, list[str]]:
    """The panels row by row, the number of rows, and what the reader should be told (theory that there is none of)."""
    facets = _facets(runs, options.by)
    groups = [grouped(members, options.group) for _, members in facets]
    if options.order:
        groups = [in_order(found, options.order) for found in groups]
    everyone = [group for found in groups for group in found]
    label = template(options.label, everyone) if options.label else _automatic(groups, options.by)
    overlays = [o for text in options.overlay for o in read_overlay(text, options.overlay_x_scale)]
    notes: list[str] = []
    ys = tuple(_less(y, options.subtract) for y in options.y)
    least = _least(runs, (options.x, *ys), options.data_root)
    panels = []
    for y in ys:
        for (title, _), found in zip(facets, groups, strict=True):
            panel = Panel(options.x, y, title=title)
            panel.curves.extend(_measured(found, label, options, y, least))
            if options.theory:
                panel.curves.extend(_theory(found, panel, options, notes))
            panel.curves.extend(_overlays_of(overlays, panel))
            panels.append(panel)
    notes += _unplaced(overlays, panels)
    if len(facets) == 1:
        return panels, 2 if len(panels) == 4 else -(-len(panels) // _WIDEST), notes
    rows = len(options.y) if len(options.y) > 1 else -(-len(facets) // _WIDEST)
    return panels, rows, notes


def _facets(runs: Sequence[StoredRun], by: str | None) -> list[tuple[str, list[StoredRun]]]:
    if by is None:
        return [("", list(runs))]
    check_key(by, list(runs), "--by")
    found: dict[str, list[StoredRun]] = {}
    for run in sorted(runs, key=lambda run: natural(run.value(by))):
        found.setdefault(as_words(run.value(by)), []).append(run)
    named = by.endswith("name") or by not in runs[0].settings  # a plug-in, or its name, needs no key before it
    return [(value if named else f"{by.rpartition('.')[2]} = {value}", members) for value, members in found.items()]


def _automatic(groups: Sequence[Sequence[Group]], by: str | None) -> Label:
    everyone = [group for found in groups for group in found]
    return by_difference(everyone, [by, "label"] if by else [])


def _measured(
    groups: Sequence[Group], label: Label, options: PlotOptions, y: str, least: dict[str, float]
) -> list[Curve]:
    band: Band = options.band
    curves = [curve(group, label(group), options.x, y, band, least) for group in groups]
    seen: dict[str, int] = {}
    for found in curves:
        seen[found.label] = seen.get(found.label, 0) + 1
    twice = [text for text, times in seen.items() if times > 1]
    if twice:
        raise InputError(
            f'{seen[twice[0]]} curves of one panel would be labelled "{twice[0]}"; '
            "add to --label what tells them apart, or --group by what they share"
        )
    return curves


def _less(y: str, subtract: str | None) -> str:
    """The metric with what --subtract takes off it."""
    if subtract is None:
        return y
    if subtract == "f*" and y not in ("f", "f-f*"):
        raise InputError(f"--subtract f* is for -y f alone, not for {y}")
    found = y if Derived.of(y).less else f"{y}-{subtract}"
    if not Derived.of(found).less:
        raise InputError(f"--subtract {subtract}: must be a number or f*")
    return found


def _least(runs: Sequence[StoredRun], metrics: Sequence[str], root: Path | None) -> dict[str, float]:
    """f* by run, if a metric needs it."""
    gaps = [metric for metric in metrics if Derived.of(metric).is_gap]
    if not gaps:
        return {}
    if wrong := [metric for metric in gaps if Derived.of(metric).base != "f"]:
        raise InputError(f"{wrong[0]}: f* is the least value of f; take f-f*")
    from master.plotting.theory import least_value

    return {run.name: least_value(run, root) for run in runs}


def _theory(groups: Sequence[Group], panel: Panel, options: PlotOptions, notes: list[str]) -> list[Curve]:
    from master.plotting.theory import NoLineError, line

    found = []
    for group, measured in zip(groups, list(panel.curves), strict=True):
        try:
            found.append(line(group, measured, panel.y, options.data_root))
        except NoLineError as reason:
            text = f"no theory line for {measured.label} ({words(panel.y).definition.split(',')[0]}): {reason}"
            if text not in notes:
                notes.append(text)
    return found


def _overlays_of(overlays: Sequence[Overlay], panel: Panel) -> list[Curve]:
    return [o.curve for o in overlays if o.panel in ("", panel.title, panel.y)]


def _unplaced(overlays: Sequence[Overlay], panels: Sequence[Panel]) -> list[str]:
    """Of each overlay that is drawn nowhere, that it is not, and which panels there are."""
    known = {"", *(panel.title for panel in panels), *(panel.y for panel in panels)}
    lost: dict[str, list[str]] = {}
    for overlay in overlays:
        if overlay.panel not in known:
            lost.setdefault(overlay.panel, []).append(overlay.curve.label)
    there = ", ".join(f'"{name}"' for name in sorted(known - {""}))
    return [
        f'overlay {", ".join(labels)} is not drawn: it is for the panel "{panel}", and there are {there}'
        for panel, labels in lost.items()
    ]


__all__ = ["compose"]
