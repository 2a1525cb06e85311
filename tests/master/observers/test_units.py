"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest

from master.observers.units import duration, number, printable, scaled


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.41234, "0.4123"), (97, "97"), (99_999.0, "99999"), (1_234_567, "1.235e+06"), (math.nan, "nan"), (0.0, "0")],
)
def test_number(value: float, text: str) -> None:
    """Four digits, and small counts in full."""
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "", "0"),
        (950, "B", "950 B"),
        (999.7, "", "1.00k"),
        (1250, "", "1.25k"),
        (12_500_000, "B", "12.5 MB"),
        (125e9, "", "125G"),
        (2e21, "", "2000000P"),
        (1.8, "", "1.80"),
        (math.nan, "", "nan"),
    ],
)
def test_scaled(value: float, unit: str, text: str) -> None:
    """Three digits and a prefix."""
    assert scaled(value, unit) == text


@pytest.mark.parametrize(
    ("seconds_s", "text"),
    [(0.031, "31 ms"), (4.2, "4.2 s"), (59, "59 s"), (65, "1:05"), (7800, "2:10:00"), (273_600, "3d 04:00")],
)
def test_duration(seconds_s: float, text: str) -> None:
    """The two largest units."""
    assert duration(seconds_s) == text


def test_printable_has_no_way_to_move_the_cursor() -> None:
    """Escape codes, tabs and line ends become blanks; letters of any script stay."""
    assert printable("a\x1b[2J\tβ\r\n\x07") == "a [2J β   "
