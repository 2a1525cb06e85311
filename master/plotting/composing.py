"""From runs and the command line to panels: which curves, in which panel, with which labels and lines beside them."""

from __future__ import annotations

from collections.abc import Sequence
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
    subtract = _subtracted(runs, options)
    panels = []
    for y in options.y:
        for (title, _), found in zip(facets, groups, strict=True):
            panel = Panel(options.x, y, title=title)
            panel.curves.extend(_measured(found, label, options, y, subtract))
            if options.theory:
                panel.curves.extend(_theory(found, panel, options, notes))
            panel.curves.extend(_overlays_of(overlays, panel))
            panels.append(panel)
    if len(facets) == 1:
        return panels, -(-len(panels) // 2) if len(panels) > 2 else 1, notes
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
    groups: Sequence[Group], label: Label, options: PlotOptions, y: str, subtract: dict[str, float]
) -> list[Curve]:
    band: Band = options.band
    curves = [curve(group, label(group), options.x, y, band, subtract) for group in groups]
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


def _subtracted(runs: Sequence[StoredRun], options: PlotOptions) -> dict[str, float]:
    if options.subtract is None:
        return {}
    if options.subtract == "f*":
        if options.y != ("f",):
            raise InputError("--subtract f* is for -y f alone")
        from master.plotting.theory import least_value

        return {run.name: least_value(run, options.data_root) for run in runs}
    try:
        return dict.fromkeys((run.name for run in runs), float(options.subtract))
    except ValueError:
        raise InputError(f"--subtract {options.subtract}: must be a number or f*") from None


def _theory(groups: Sequence[Group], panel: Panel, options: PlotOptions, notes: list[str]) -> list[Curve]:
    from master.plotting.theory import NoLineError, line

    found = []
    for group, measured in zip(groups, list(panel.curves), strict=True):
        try:
            found.append(line(group, measured, panel.y, gap=options.subtract == "f*", root=options.data_root))
        except NoLineError as reason:
            text = f"no theory line for {measured.label} ({words(panel.y).definition.split(',')[0]}): {reason}"
            if text not in notes:
                notes.append(text)
    return found


def _overlays_of(overlays: Sequence[Overlay], panel: Panel) -> list[Curve]:
    return [o.curve for o in overlays if o.panel in ("", panel.title, panel.y)]


__all__ = ["compose"]
