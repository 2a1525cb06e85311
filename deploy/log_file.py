"""`--log-file`: a log that rotates, so that a daemon of months fills no disk."""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

from protocol.errors import InputError

LOG_BYTES = 10 << 20
"""Of one file; then it becomes FILE.1, and so on."""
KEPT = 5
FORMAT = "%(asctime)s %(levelname)s %(message)s"


def log_to(file: Path | None, level: str) -> None:
    """Send what the daemon logs to `file`, or to stderr. Raises InputError: the file cannot be written."""
    handler = logging.StreamHandler() if file is None else rotating(file)
    logging.basicConfig(handlers=[handler], level=level.upper(), format=FORMAT)


def rotating(file: Path) -> logging.Handler:
    """Writes to a file that is put aside when it is full. Raises InputError: it cannot be written."""
    try:
        return RotatingFileHandler(file, maxBytes=LOG_BYTES, backupCount=KEPT, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--log-file {file} cannot be written: {error.strerror}") from None
