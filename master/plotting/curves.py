"""Runs made curves: grouped (by everything but the seed, unless told otherwise), averaged round by round, labelled."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from master.flctl.conditions import check_key, natural
from master.flctl.stored_run import StoredRun, as_words
from master.plotting.derived import Derived, series
from protocol.errors import InputError

Floats = npt.NDArray[np.float64]
Band = Literal["std", "quantiles", "range", "none"]
Label = Callable[["Group"], str]


@dataclass(frozen=True)
class Group:
    """Runs that make one curve."""

    runs: tuple[StoredRun, ...]

    def value(self, key: str) -> Any:
        """The value that all its runs share; None if they differ."""
        values = [self.runs[0].value(key), *(run.value(key) for run in self.runs[1:])]
        return values[0] if all(value == values[0] for value in values) else None


@dataclass(frozen=True, eq=False)
class Curve:
    """One line with its band; every array has one entry a round.

    Attributes:
        x, y: mean over the runs (y the median with quantile bands). x_std: deviation of x between runs.
        low, high: the band, or None for a single run. Where mean - deviation <= 0 < least run, low is the least run.
        kind: "runs", "theory" or "overlay": how it is drawn.
        beside: of a theory line, the label of the curve it belongs to.
    """

    label: str
    x: Floats
    y: Floats
    rounds: npt.NDArray[np.int64]
    x_std: Floats | None = None
    low: Floats | None = None
    high: Floats | None = None
    runs: int = 0
    kind: Literal["runs", "theory", "overlay"] = "runs"
    beside: str = ""

    def where(self, kept: npt.NDArray[np.bool_]) -> Curve:
        """The curve with some of its points only."""
        x_std, low, high = (None if part is None else part[kept] for part in (self.x_std, self.low, self.high))
        return replace(self, x=self.x[kept], y=self.y[kept], rounds=self.rounds[kept], x_std=x_std, low=low, high=high)


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    x: str
    y: str
    curves: list[Curve] = field(default_factory=list)
    title: str = ""


def grouped(runs: Sequence[StoredRun], keys: Sequence[str] = ()) -> list[Group]:
    """Groups in the order of their first runs.

    Args:
        keys: settings in which the runs of a group agree; by default all of them but the seed.
    """
    for key in keys:
        check_key(key, list(runs), "--group")
    groups: dict[tuple[str, ...], list[StoredRun]] = {}
    for run in runs:
        if keys:
            where = tuple(as_words(run.value(key)) for key in keys)
        else:
            where = tuple(f"{key}={as_words(value)}" for key, value in sorted(run.settings.items()) if key != "seed")
        groups.setdefault(where, []).append(run)
    return [Group(tuple(members)) for members in groups.values()]


def in_order(groups: list[Group], key: str) -> list[Group]:
    """The groups by a setting or last metric (its mean over the group); `-key` for the largest first."""
    name = key.removeprefix("-")
    check_key(name, [run for group in groups for run in group.runs], "--order")

    def place(group: Group) -> tuple[float, float, str]:
        values = [run.value(name) for run in group.runs]
        if all(isinstance(value, int | float) for value in values):
            return natural(float(np.mean(values)))
        return natural("" if values[0] is None else values[0])

    return sorted(groups, key=place, reverse=key.startswith("-"))


def curve(group: Group, label: str, x: str, y: str, band: Band = "std", least: Mapping[str, float] = {}) -> Curve:
    """The group's curve over the rounds in which all its runs measured x and y.

    Args:
        least: run name -> f* of its problem, where x or y is f-f*.

    Raises:
        InputError: there is no such round.
    """
    xs, ys = ([series(run, metric, least) for run in group.runs] for metric in (x, y))
    rounds = sorted(set.intersection(*(set(series) for series in (*xs, *ys))))
    if not rounds:
        raise InputError(_nothing_in_common(group, label, x, y))
    across, values = (np.array([[found[t] for t in rounds] for found in measured]) for measured in (xs, ys))
    several = len(values) > 1
    with np.errstate(invalid="ignore", over="ignore"):  # a run that diverged holds inf or NaN: its points are not drawn
        centre = np.median(values, axis=0) if band == "quantiles" else values.mean(axis=0)
        low, high = _band(values, centre, band) if several else (None, None)
    spread = across.std(axis=0, ddof=1) if several and np.ptp(across, axis=0).any() else None
    return Curve(label, across.mean(axis=0), centre, np.array(rounds), spread, low, high, len(values))


def _band(values: Floats, centre: Floats, band: Band) -> tuple[Floats | None, Floats | None]:
    if band == "none":
        return None, None
    if band == "std":
        spread = values.std(axis=0, ddof=1)
        # A deviation larger than the mean of positive values would take a log axis' band to its very bottom.
        least = values.min(axis=0)
        return np.where((centre <= spread) & (least > 0), least, centre - spread), centre + spread
    if band == "range":
        return values.min(axis=0), values.max(axis=0)
    return np.quantile(values, 0.2, axis=0), np.quantile(values, 0.8, axis=0)


def _nothing_in_common(group: Group, label: str, x: str, y: str) -> str:
    for metric in (Derived.of(name).base for name in (x, y)):
        lacking = [run for run in group.runs if not run.series(metric)]
        if lacking:
            measured = ", ".join(lacking[0].last) or "nothing yet"
            more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
            return f'run {lacking[0].name}{more} has no metric "{metric}"; it measured {measured}'
    return f"the {len(group.runs)} runs of {label!r} have no round in which all measured {x} and {y}"


# --- labels ------------------------------------------------------------


class _Template(string.Formatter):
    """A format string whose fields are dotted keys: "{algorithm.name}, k = {uplink.k}"."""

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, str]:
        group: Group = kwargs["group"]
        found = group.value(field_name)
        if isinstance(found, list):
            found = as_words(found)
        return ("" if found is None else found), field_name


def template(text: str, groups: Sequence[Group]) -> Label:
    """Labels by a template. InputError: no run has a key that it names, or it is no format string."""
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise InputError(f'--label "{text}": {error}') from None
    for name in names:
        check_key(name, [run for group in groups for run in group.runs], "--label")

    def label(group: Group) -> str:
        try:
            return _Template().format(text, group=group).strip(" ,;")
        except (ValueError, TypeError) as error:
            raise InputError(f'--label "{text}": {error}') from None

    return label


def by_difference(groups: Sequence[Group], left_out: Sequence[str] = ()) -> Label:
    """Labels of what tells the groups apart: their own labels if they have such, else the settings that vary.

    Args:
        left_out: keys that the panels' titles already name.
    """
    given = [group.value("label") for group in groups]
    if len(groups) > 1 and "label" not in left_out and all(given) and len(set(given)) == len(given):
        return lambda group: str(group.value("label"))
    keys = dict.fromkeys(key for group in groups for run in group.runs for key in run.settings)
    varying = [key for key in keys if len({as_words(group.value(key)) for group in groups}) > 1]
    varying = [key for key in varying if key not in ("seed", "label") and not _covered(key, left_out)]

    def label(group: Group) -> str:
        parts = []
        for key in varying:
            value = group.value(key)
            if value is not None:
                last = key.rpartition(".")[2]
                parts.append(as_words(value) if last == "name" else f"{_short(key)} = {as_words(value)}")
        return ", ".join(parts) or str(group.value("label") or group.value("algorithm.name") or group.runs[0].name)

    return label


def _covered(key: str, titles: Sequence[str]) -> bool:
    return any(key == title or key.startswith(f"{title}.") for title in titles)


def _short(key: str) -> str:
    """The last part of a key, with as much before it as says whose it is."""
    parts = key.split(".")
    return " ".join([parts[0], parts[-1]]) if parts[-1] in ("lr", "momentum", "dtype") else parts[-1]


def finite(values: Floats) -> Floats:
    """The values that can be drawn."""
    return values[np.isfinite(values)]


def spans_decades(curves: Sequence[Curve]) -> bool:
    """Whether a log axis suits y: nothing negative beyond rounding, and positive values over more than 1.5 decades."""
    values = np.concatenate([finite(c.y) for c in curves] or [np.zeros(0)])
    positive = values[values > 0]
    if not len(positive) or values.min() < -1e-9 * values.max():
        return False
    return math.log10(positive.max() / positive.min()) > 1.5


__all__ = ["Band", "Curve", "Group", "Label", "Panel", "by_difference", "curve", "finite", "grouped", "in_order",
           "spans_decades", "template"]  # fmt: skip
