"""Several runs of one file: the variants of [[run]], and for each the cartesian product of [sweep].

A variant is laid over the tables: key by key, but a table with a `name` replaces the one below it whole,
since the options of one plug-in mean nothing to another. Then each axis of the sweep sets its dotted path.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fl_core.errors import ExperimentError
from fl_core.experiment.places import Keys, split_key
from fl_core.options import shown


@dataclass(frozen=True)
class Variant:
    """The tables of one run, and the index of the [[run]] it came of (None if the file has none)."""

    tables: dict[str, Any]
    run: int | None


def expand(document: Mapping[str, Any], pinned: Iterable[Keys] = ()) -> list[Variant]:
    """Every run of the file, variants first, the last axis of the sweep fastest.

    A run's label is its variant's, then the swept values (but the seed's, which is no variant of anything).

    Args:
        document: the whole file.
        pinned: paths that `--set` fixes: an axis over one of them is dropped.

    Raises:
        ExperimentError: a sweep or run that has not the form it must have.
    """
    base = {key: value for key, value in document.items() if key not in ("sweep", "run")}
    axes = [axis for axis in _axes(document.get("sweep", {})) if not _is_pinned(axis[0], pinned)]
    variants = []
    for run, overlay in _overlays(document.get("run")):
        laid = over(base, overlay)
        for values in itertools.product(*(values for _, values in axes)):
            tables = copy.deepcopy(laid)
            for (path, _), value in zip(axes, values, strict=True):
                assign(tables, path, copy.deepcopy(value))
            swept = [(path, value) for (path, _), value in zip(axes, values, strict=True) if path != ("seed",)]
            label = [str(tables["label"])] if tables.get("label") else []
            label += [f"{'.'.join(path)} = {_value_label(value)}" for path, value in swept]
            if label:
                tables["label"] = ", ".join(label)
            variants.append(Variant(tables, run))
    return variants


def origin(document: Mapping[str, Any], run: int | None, path: Keys) -> Keys:
    """Which part of the file gave `path` its value in the run-th variant: ("sweep",), ("run", "n") or ()."""
    if path[:1] in (("sweep",), ("run",)):
        return ()
    if any(path[: len(axis)] == axis for axis, _ in _axes(document.get("sweep", {}))):
        return ("sweep",)
    if run is not None and _is_set(document["run"][run], path):
        return ("run", str(run))
    return ()


def _is_set(overlay: Any, path: Keys) -> bool:
    """Whether the overlay decides about `path`: it ends there, or in a table with a name, or in a value."""
    for depth, key in enumerate(path):
        if not isinstance(overlay, Mapping) or (depth > 0 and "name" in overlay):
            return True
        if key not in overlay:
            return False
        overlay = overlay[key]
    return True


def over(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """The overlay laid over the base, neither changed."""
    laid = dict(copy.deepcopy(dict(base)))
    for key, value in overlay.items():
        below = laid.get(key)
        if isinstance(below, str) and isinstance(value, Mapping):
            below = {"name": below}
        if isinstance(value, Mapping) and isinstance(below, Mapping) and "name" not in value:
            laid[key] = over(below, value)
        else:
            laid[key] = copy.deepcopy(value)
    return laid


def assign(tables: dict[str, Any], path: Keys, value: Any) -> None:
    """Set the value at a dotted path, making tables on the way; ExperimentError if a value is in the way."""
    table = tables
    for depth, key in enumerate(path[:-1], start=1):
        below = table.setdefault(key, {})
        if isinstance(below, str) and depth < len(path):
            below = table[key] = {"name": below}  # uplink = "randk" and uplink.k = 3 are one table
        if not isinstance(below, dict):
            raise ExperimentError(f"is {shown(below)}, not a table", path=".".join(path[:depth]))
        table = below
    table[path[-1]] = value


def _axes(sweep: Any, prefix: Keys = ()) -> list[tuple[Keys, list[Any]]]:
    """The axes: `"local.optimizer.lr" = [...]` or `local.optimizer.lr = [...]`, in the order of the file."""
    if not isinstance(sweep, Mapping):
        raise ExperimentError(f"must be a table, not {shown(sweep)}", path="sweep")
    axes: list[tuple[Keys, list[Any]]] = []
    for key, values in sweep.items():
        path = (*prefix, *split_key(key))
        if isinstance(values, Mapping):
            axes += _axes(values, path)
        elif isinstance(values, list) and values:
            axes.append((path, values))
        else:
            message = f"must be a list of the values to run, not {shown(values)}"
            raise ExperimentError(message, path=".".join(("sweep", *path)))
    return axes


def _overlays(runs: Any) -> list[tuple[int | None, Mapping[str, Any]]]:
    if runs is None:
        return [(None, {})]
    if not isinstance(runs, list) or not runs or not all(isinstance(run, Mapping) for run in runs):
        raise ExperimentError("must be tables, each under its own [[run]]", path="run")
    for run in runs:
        for key in ("run", "sweep"):
            if key in run:
                raise ExperimentError("a [[run]] holds neither [[run]] nor [sweep]", path=f"run.{key}")
    return list(enumerate(runs))


def _is_pinned(axis: Keys, pinned: Iterable[Keys]) -> bool:
    return any(axis[: len(path)] == path for path in pinned)


def _value_label(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("name", shown(value)))
    return value if isinstance(value, str) else shown(value)
