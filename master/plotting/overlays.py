"""Series from elsewhere, drawn over the runs: a CSV with columns x, y, label, or a JSON with the same."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from master.plotting.curves import Curve
from protocol.errors import InputError


@dataclass(frozen=True)
class Overlay:
    """One foreign curve; `panel` names the panel's title or its y metric, and is empty for all panels."""

    curve: Curve
    panel: str = ""


def read_overlay(text: str, x_scale: float = 1.0) -> list[Overlay]:
    """The series of `FILE` or `FILE#key=value&key=value` (only JSON series, or CSV rows, with these values).

    CSV: a header with x, y, and perhaps label and panel. JSON: a list of objects (or one under "curves"), each with
    x and y (or xs and ys), and label (or series), and perhaps panel.

    Args:
        x_scale: what x is multiplied with, to bring it to the unit of the runs' x.

    Raises:
        InputError: there is no such file, or it holds no series.
    """
    name, _, wanted = text.partition("#")
    conditions = dict(part.partition("=")[::2] for part in wanted.split("&") if part)
    path = Path(name)
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--overlay {name}: cannot be read: {error}") from None
    try:
        rows = _json_rows(content) if path.suffix.lower() == ".json" else _csv_rows(content, path.stem)
        overlays = [_overlay(row, path.stem, x_scale) for row in rows if _meets(row, conditions)]
    except (ValueError, KeyError, TypeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"--overlay {name}: {reason}; it needs x, y and label (see flctl plot --help)") from None
    if not overlays:
        raise InputError(f"--overlay {text}: there is no such series in it")
    return overlays


def _json_rows(content: str) -> list[Mapping[str, Any]]:
    loaded = json.loads(content)
    rows = loaded.get("curves", [loaded]) if isinstance(loaded, dict) else loaded
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("it is no list of series")
    return rows


def _csv_rows(content: str, stem: str) -> Iterable[Mapping[str, Any]]:
    """The lines gathered by everything that is neither x nor y."""
    reader = csv.DictReader(content.splitlines())
    series: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    for line in reader:
        rest = {key: value for key, value in line.items() if key not in ("x", "y")}
        found = series.setdefault(tuple(rest.items()), {**rest, "label": rest.get("label") or stem, "x": [], "y": []})
        found["x"].append(line["x"])
        found["y"].append(line["y"])
    return series.values()


def _meets(row: Mapping[str, Any], conditions: Mapping[str, str]) -> bool:
    return all(str(row.get(key)) == value for key, value in conditions.items())


def _overlay(row: Mapping[str, Any], stem: str, x_scale: float) -> Overlay:
    xs, ys = (row[f"{axis}s"] if f"{axis}s" in row else row[axis] for axis in "xy")
    x, y = (np.array([float(value) for value in values], dtype=np.float64) for values in (xs, ys))
    if len(x) != len(y):
        raise ValueError(f"{len(x)} values of x for {len(y)} of y")
    label = str(row.get("label") or row.get("series") or stem)
    return Overlay(Curve(label, x * x_scale, y, np.full(len(x), -1), kind="overlay"), str(row.get("panel") or ""))


__all__ = ["Overlay", "read_overlay"]
