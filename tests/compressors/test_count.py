"""K as a count and as a percentage."""

from __future__ import annotations

import pytest

from compressors.compressor import CompressorOptionError
from compressors.count import check_count, resolve_count


def test_percentages_are_exact() -> None:
    """7 % of 100 is 7 (floats give 8), parts round up, and nothing rounds to 0."""
    assert resolve_count("randk", "7%", 100) == 7
    assert resolve_count("randk", "10%", 101) == 11
    assert resolve_count("randk", "0.1 %", 11_173_962) == 11_174
    assert resolve_count("randk", "0.0001%", 100) == 1
    assert resolve_count("randk", "100%", 17) == 17


def test_counts_are_clipped_to_all() -> None:
    """An integer beyond d keeps everything."""
    assert resolve_count("randk", 5, 100) == 5
    assert resolve_count("randk", 500, 100) == 100


@pytest.mark.parametrize(
    "bad", [0, -1, 0.4, 2.5, 3.0, True, None, "", "%", "10", "ten%", "0%", "-5%", "101%", "1/0%", "nan%"]
)
def test_what_is_no_count_is_refused(bad: object) -> None:
    """A fraction without %, zero, and words."""
    with pytest.raises(CompressorOptionError, match="randk: k = "):
        check_count("randk", bad)


def test_a_fraction_gets_a_suggestion() -> None:
    """0.4 could mean 40 % or be a slip for 4: the message offers the first."""
    with pytest.raises(CompressorOptionError, match='did you mean "40%"'):
        check_count("topk", 0.4)
