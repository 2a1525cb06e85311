"""Logs that rotate."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from deploy import log_file
from deploy.log_file import KEPT, rotating
from protocol.errors import InputError


def test_a_log_rotates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file outgrows its limit, and the oldest go."""
    monkeypatch.setattr(log_file, "LOG_BYTES", 1000)
    handler = rotating(tmp_path / "log.txt")
    for number in range(300):
        handler.handle(logging.makeLogRecord({"msg": f"line {number} of a daemon that runs for months"}))
    handler.close()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["log.txt", *(f"log.txt.{k}" for k in range(1, KEPT + 1))]
    assert all(file.stat().st_size <= 1000 for file in files)
    assert "line 299" in files[0].read_text()


def test_a_log_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """Before anything starts."""
    with pytest.raises(InputError, match=r"--log-file .* cannot be written"):
        rotating(tmp_path / "nowhere" / "log.txt")
