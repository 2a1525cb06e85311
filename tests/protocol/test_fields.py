"""protocol.fields: the records inside messages."""

from __future__ import annotations

import pytest

from protocol import messages as m
from protocol.fields import DTYPE_BYTES, Report, TensorSpec
from protocol.headers import decode_header, encode_header


@pytest.mark.parametrize(
    "text", ["é" * 10_000_000, "\ud800" * 100, "line\n" * 50_000], ids=["long", "surrogates", "lines"]
)
def test_any_error_text_can_travel(text: str) -> None:
    """A report of ten million characters, or of lone surrogates, is cut, cleaned, and decodes."""
    failure = m.Failure("r", 0, 0, 0, Report(text, text, text, 1, 2, text))
    assert decode_header(encode_header(failure, []))[0] == failure


def test_a_traceback_keeps_its_end() -> None:
    """What is cut of a traceback is its start: the last lines are those that say what happened."""
    report = Report("E", "first " + "x" * 5000, traceback="y" * 100_000 + "the error")
    assert report.traceback.endswith("the error")
    assert report.traceback.startswith("… y")
    assert report.message.startswith("first ")
    assert (len(report.traceback), len(report.message)) == (64 << 10, 4096)


def test_bytes_of_a_tensor() -> None:
    """The bytes a tensor implies, for a scalar, an empty one, and every dtype."""
    assert TensorSpec("x", "float64", []).nbytes == 8
    assert TensorSpec("x", "float64", [3, 0]).nbytes == 0
    for dtype, size in DTYPE_BYTES.items():
        assert TensorSpec("x", dtype, [2, 3]).nbytes == 6 * size  # type: ignore[arg-type]
