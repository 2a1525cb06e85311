"""Keys from bytes in any pieces."""

from __future__ import annotations

import pytest

from master.observers.keys import KeyReader


@pytest.mark.parametrize("pieces", [[b"q\x1b[Cp\x1bOD"], [bytes([b]) for b in b"q\x1b[Cp\x1bOD"]])
def test_characters_and_arrows_in_any_pieces(pieces: list[bytes]) -> None:
    """Whole, or byte by byte, the keys are the same."""
    reader = KeyReader()
    assert [key for piece in pieces for key in reader.feed(piece)] == ["q", "right", "p", "left"]


def test_unknown_sequences_are_dropped_whole() -> None:
    """Delete, F5 and a lone escape press nothing, and what follows is read."""
    assert KeyReader().feed(b"\x1b[3~\x1b[15~\x1bqp") == ["q", "p"]
