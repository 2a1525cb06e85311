"""A curve as block characters. Each column shows one measured value; none is averaged or made up."""

from __future__ import annotations

import math
from collections.abc import Sequence

_BLOCKS = " ▁▂▃▄▅▆▇█"
_DECADES = 1.5  # positive values that span more are drawn on a log axis


def sparkline(values: Sequence[float], width: int, rows: int = 1) -> list[str]:
    """`rows` lines of `width` characters, top first, the values evenly over them; nan and inf show as ×.

    More values than columns: a column shows the last value that falls in it. Fewer: a value holds several
    columns. No values: empty lines.
    """
    shown = _columns(values, width)
    heights = _heights(shown, rows)
    lines: list[str] = []
    for row in reversed(range(rows)):
        lines.append("".join("×" if h is None else _BLOCKS[max(0, min(8, h - 8 * row))] for h in heights))
    return lines


_BRAILLE = 0x2800
_DOTS = ((0x40, 0x04, 0x02, 0x01), (0x80, 0x20, 0x10, 0x08))  # of a character's left and right column, from below


def chart(values: Sequence[float], width: int, rows: int) -> list[str]:
    """The curve as a line of dots, two columns and four heights a character; nan and inf show as × at the bottom.

    Steps are joined upright. The same columns as `sparkline`, twice as many.
    """
    shown = _columns(values, 2 * width)
    levels = [None if h is None else (h - 1) // 2 for h in _heights(shown, rows)] if rows > 1 else []
    if not levels:
        return sparkline(values, width, rows)
    cells = [[0] * width for _ in range(rows)]
    crosses = set()
    before: int | None = None
    for column, level in enumerate(levels):
        if level is None:
            crosses.add(column // 2)
        else:
            low, high = (level, level) if before is None else (min(level, before + 1), max(level, before - 1))
            for dot in range(low, high + 1):
                cells[rows - 1 - dot // 4][column // 2] |= _DOTS[column % 2][dot % 4]
        before = level
    lines = ["".join(chr(_BRAILLE + dots) if dots else " " for dots in row) for row in cells]
    bottom = "".join("×" if i in crosses else character for i, character in enumerate(lines[-1]))
    return [*lines[:-1], bottom]


def is_logarithmic(values: Sequence[float]) -> bool:
    """Whether the curve of these values has a log axis: all positive, and more than 1.5 decades."""
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and math.log10(max(finite)) - math.log10(min(finite)) > _DECADES


def _columns(values: Sequence[float], width: int) -> list[float]:
    """One value for each of `width` columns."""
    count = len(values)
    if count > width:
        return [values[(column + 1) * count // width - 1] for column in range(width)]
    return [values[column * count // width] for column in range(width)] if count else []


def _heights(values: Sequence[float], rows: int) -> list[int | None]:
    """Eighths of a row, from 1 to 8 x rows; None where there is no finite value."""
    scaled = list(values)
    if is_logarithmic(values):
        scaled = [math.log10(value) if math.isfinite(value) else value for value in values]
    finite = [value for value in scaled if math.isfinite(value)]
    if not finite:
        return [None] * len(scaled)
    low, high = min(finite), max(finite)
    top = 8 * rows
    if high == low:
        return [4 if math.isfinite(value) else None for value in scaled]  # flat: half a row
    # halves first: high - low alone may overflow
    span = high / 2 - low / 2
    return [1 + round((value / 2 - low / 2) / span * (top - 1)) if math.isfinite(value) else None for value in scaled]
