"""Curves in cells: what is drawn where, by looking at the dots."""

from __future__ import annotations

import math

import pytest
from rich.text import Text

from master.workbench.terminal_chart import COLOURS, Axis, Line, chart


def rows(text: Text) -> list[str]:
    """The lines."""
    return text.plain.split("\n")


def dots(text: Text) -> list[tuple[int, int]]:
    """(row, column) of every cell with a dot."""
    return [
        (r, c)
        for r, row in enumerate(rows(text))
        for c, character in enumerate(row)
        if 0x2801 <= ord(character) <= 0x28FF
    ]


@pytest.mark.parametrize("width", [20, 44, 100])
@pytest.mark.parametrize("height", [5, 12, 30])
def test_it_fits(width: int, height: int) -> None:
    """No line is wider, and there are as many as there is room for."""
    drawn = chart([Line("a", range(50), [math.exp(-i / 9) for i in range(50)])], width, height)
    assert len(rows(drawn)) == max(5, height)
    assert max(len(row) for row in rows(drawn)) <= width


def test_a_rising_curve_goes_from_the_lower_left_to_the_upper_right() -> None:
    """The first point is in the last row, the last in the first."""
    found = dots(chart([Line("a", [0, 1], [0, 1])], 40, 12))
    assert min(found, key=lambda cell: cell[1])[0] == 9
    assert max(found, key=lambda cell: cell[1])[0] == 0


def test_points_are_joined_but_not_over_what_cannot_be_drawn() -> None:
    """NaN leaves a gap: nothing is interpolated over what was not measured."""
    whole = chart([Line("a", [0, 1, 2, 3], [1, 1, 1, 1])], 40, 8)
    torn = chart([Line("a", [0, 1, 2, 3], [1, math.nan, 1, 1])], 40, 8)
    assert len({column for _, column in dots(torn)}) < len({column for _, column in dots(whole)})


def test_a_log_axis_makes_a_geometric_series_a_line() -> None:
    """And leaves out what is not positive, without an error."""
    axis = Axis.of([1e-6, 1e-3, 1.0, 0.0, -1.0, math.inf], log=True)
    assert [axis.share(value) for value in (1e-6, 1e-3, 1.0)] == pytest.approx([0, 0.5, 1])
    assert axis.share(0.0) is None
    assert axis.share(-1.0) is None
    assert axis.at(0.5) == pytest.approx(1e-3)


def test_constant_and_empty_curves_are_drawn_or_said() -> None:
    """One point, one value, or nothing at all."""
    assert dots(chart([Line("a", [1], [2])], 30, 8))
    assert dots(chart([Line("a", [0, 1], [0, 0])], 30, 8))
    assert dots(chart([Line("a", [1, 2], [3, 3])], 30, 8, logx=True, logy=True))
    assert chart([], 30, 8).plain == "nothing that could be drawn was measured"
    assert chart([Line("a", [1], [math.nan])], 30, 8).plain.startswith("nothing")
    assert chart([Line("a", [1], [-1.0])], 30, 8, logy=True).plain.startswith("nothing")


def test_each_curve_has_its_colour_and_the_last_lies_on_top() -> None:
    """Where two pass through one cell the later one is seen."""
    drawn = chart([Line("a", [0, 1], [0, 1]), Line("b", [0, 1], [0, 1])], 30, 8)
    styles = {str(span.style) for span in drawn.spans if 0x2801 <= ord(drawn.plain[span.start]) <= 0x28FF}
    assert styles == {COLOURS[1]}


def test_ticks_say_the_ends() -> None:
    """The least and the largest value, up and across."""
    lines = rows(chart([Line("a", [0, 200], [0.25, 0.75])], 60, 12))
    assert lines[0].strip().startswith("0.75")
    assert lines[9].strip().startswith("0.25")
    assert lines[11].split()[0] == "0"
    assert lines[11].split()[-1] == "200"
