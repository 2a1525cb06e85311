"""Sparklines show measured values only, in the width they are given."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from master.observers.sparkline import chart, is_logarithmic, sparkline


def test_a_ramp_uses_every_level() -> None:
    """Eight values, eight heights."""
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == ["▁▂▃▄▅▆▇█"]


def test_many_values_show_the_last_of_each_column() -> None:
    """A spike between two columns' ends is not averaged into them."""
    assert sparkline([9, 0, 9, 1], 2) == ["▁█"]
    assert sparkline([0, 9, 0, 0, 0, 9], 3) == ["█▁█"]


def test_few_values_hold_their_columns() -> None:
    """Two values fill six columns as a step."""
    assert sparkline([0, 1], 6) == ["▁▁▁███"]


def test_two_rows_stack() -> None:
    """The upper row continues the lower one."""
    assert sparkline([0, 8, 15], 3, rows=2) == [" ▁█", "▁██"]


def test_decades_are_logarithmic_and_what_diverged_is_marked() -> None:
    """1, 10, 100 are evenly spaced; inf and nan are a cross, not a height."""
    assert is_logarithmic([1, 10, 100])
    assert not is_logarithmic([0, 10, 100])
    assert not is_logarithmic([1, 10])
    assert sparkline([1, 10, 100], 3) == ["▁▅█"]
    assert sparkline([1, math.inf, math.nan], 3) == ["▄××"]
    assert sparkline([math.nan], 2) == ["××"]


@given(st.lists(st.floats()), st.integers(1, 30), st.integers(1, 4))
def test_any_values_fit(values: list[float], width: int, rows: int) -> None:
    """No float breaks it, and each line is as wide as asked (or empty without values)."""
    lines = sparkline(values, width, rows)
    assert [len(line) for line in lines] == [width if values else 0] * rows


def test_a_chart_is_a_line_of_dots() -> None:
    """Two columns and four heights a character; a step is joined upright; what diverged is a cross."""
    assert chart([0, 7], 1, rows=2) == ["⢸", "⡸"]
    assert chart([0, 1, 2, 3, 4, 5, 6, 7], 4, rows=2) == ["  ⡠⠊", "⡠⠊  "]
    assert chart([1, 1, math.nan, math.nan], 2, rows=2) == ["  ", "⠤×"]
    assert chart([0, 1], 2, rows=1) == sparkline([0, 1], 2)


@given(st.lists(st.floats()), st.integers(1, 30), st.integers(1, 5))
def test_any_values_make_a_chart(values: list[float], width: int, rows: int) -> None:
    """No float breaks it, and each line is as wide as asked (or empty without values)."""
    lines = chart(values, width, rows)
    assert [len(line) for line in lines] == [width if values else 0] * rows
