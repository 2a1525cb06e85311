"""Curves in a terminal: braille dots, eight to a cell, axes with ticks; a pure function of the points.

What is drawn are the curves that `flctl plot` draws (`master.plotting.curves`): measured points and straight lines
between neighbours. On a log axis what is not positive is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from master.observers.units import number, scaled

COLOURS = ("#7aa2f7", "#ff9e64", "#9ece6a", "#bb9af7", "#f7768e", "#7dcfff", "#e0af68", "#c0caf5")
_AXIS = "grey42"
_TICK = "grey62"
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # by row and column of a cell


@dataclass(frozen=True)
class Line:
    """One curve: its points in order."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Axis:
    """From values to a share of the width or height."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def of(cls, values: Sequence[float], log: bool) -> Axis:
        """An axis that holds all that can be drawn."""
        drawn = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
        if not drawn:
            return cls(1.0, 10.0, True) if log else cls(0.0, 1.0)
        low, high = min(drawn), max(drawn)
        if low == high:
            return cls(low / 2, high * 2, True) if log else cls(low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)
        return cls(low, high, log)

    def share(self, value: float) -> float | None:
        """Where the value lies, from 0 to 1; None if it cannot be drawn."""
        if not math.isfinite(value) or (self.log and value <= 0):
            return None
        low, high, at = (
            (math.log(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return (at - low) / (high - low)

    def at(self, share: float) -> float:
        """The value at a share."""
        if self.log:
            return math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        return self.low + share * (self.high - self.low)


def chart(lines: Sequence[Line], width: int, height: int, logx: bool = False, logy: bool = False) -> Text:
    """The curves on `width` x `height` cells, axes and ticks included.

    The colour of a cell is that of the last curve that passes through it.
    """
    xs, ys = [v for line in lines for v in line.x], [v for line in lines for v in line.y]
    if not any(math.isfinite(y) and (y > 0 or not logy) for y in ys):
        return Text("nothing that could be drawn was measured", style=_TICK)
    across, up = Axis.of(xs, logx), Axis.of(ys, logy)
    rows = max(3, height - 2)
    ticks = _ticks(up, rows)
    margin = max(len(text) for text in ticks.values()) + 1
    columns = max(8, width - margin - 2)
    cells = _Cells(columns, rows)
    for index, line in enumerate(lines):
        cells.draw(line, across, up, index)
    drawn = Text(no_wrap=True, overflow="crop")
    for row in range(rows):
        tick = ticks.get(row, "")
        drawn.append(f"{tick:>{margin}}", _TICK).append("┤" if tick else "│", _AXIS)
        for character, colour in cells.row(row):
            drawn.append(character, colour)
        drawn.append("\n")
    drawn.append(" " * margin + "└" + _ruler(columns), _AXIS).append("\n")
    return drawn.append(" " * (margin + 1) + _below(across, columns), _TICK)


class _Cells:
    """Dots and the curve that set them last."""

    def __init__(self, columns: int, rows: int) -> None:
        self._columns, self._rows = columns, rows
        self._dots = [[0] * columns for _ in range(rows)]
        self._owner = [[0] * columns for _ in range(rows)]

    def draw(self, line: Line, across: Axis, up: Axis, index: int) -> None:
        """The points and the straight lines between neighbours that can both be drawn."""
        before: tuple[int, int] | None = None
        for x, y in zip(line.x, line.y, strict=True):
            to_right, to_top = across.share(x), up.share(y)
            if to_right is None or to_top is None:
                before = None
                continue
            here = round(to_right * (2 * self._columns - 1)), round((1 - to_top) * (4 * self._rows - 1))
            self._join(before or here, here, index)
            before = here

    def _join(self, a: tuple[int, int], b: tuple[int, int], index: int) -> None:
        steps = max(abs(b[0] - a[0]), abs(b[1] - a[1]), 1)
        for step in range(steps + 1):
            x, y = (round(a[k] + (b[k] - a[k]) * step / steps) for k in (0, 1))
            if 0 <= x < 2 * self._columns and 0 <= y < 4 * self._rows:
                self._dots[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
                self._owner[y // 4][x // 2] = index

    def row(self, row: int) -> list[tuple[str, str]]:
        """Characters and their colours."""
        return [
            (chr(0x2800 + dots) if dots else " ", COLOURS[owner % len(COLOURS)])
            for dots, owner in zip(self._dots[row], self._owner[row], strict=True)
        ]


def _ticks(axis: Axis, rows: int) -> dict[int, str]:
    """Rows that carry a number: top, bottom, and some between."""
    count = max(2, min(5, rows // 3))
    found = {}
    for index in range(count):
        row = round(index * (rows - 1) / (count - 1))
        found[row] = number(_rounded(axis.at(1 - row / (rows - 1))))
    return found


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _ruler(columns: int) -> str:
    marks = {round(k * (columns - 1) / 4) for k in range(5)}
    return "".join("┬" if column in marks else "─" for column in range(columns))


def _below(axis: Axis, columns: int) -> str:
    """The numbers under the marks, those that do not touch."""
    line = [" "] * columns
    end = -2
    for k in range(5):
        text = scaled(_rounded(axis.at(k / 4)))
        start = min(max(0, round(k * (columns - 1) / 4) - len(text) // 2), columns - len(text))
        if start > end + 1:
            line[start : start + len(text)] = text
            end = start + len(text) - 1
    return "".join(line)


__all__ = ["COLOURS", "Axis", "Line", "chart"]
