"""Keeps what others print from tearing the screen: file descriptors 1 and 2 lead into a pipe meanwhile.

C libraries, warnings and print() of user code all end there. A thread reads the pipe, so that a full pipe
can never block the event loop.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque

_LINES = 1000
_LINE_BYTES = 4096


class StrayOutput:
    """Between `start` and `stop` nothing reaches descriptors 1 and 2; `lines()` gives what was printed."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._saved: dict[int, int] = {}
        self._reader: threading.Thread | None = None

    def start(self) -> None:
        """Catch descriptors 1 and 2. Whoever wants to reach the terminal duplicates its own before."""
        _flush()
        self._saved = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
        receiving, sending = os.pipe()
        for descriptor in self._saved:
            os.dup2(sending, descriptor)
        os.close(sending)
        self._reader = threading.Thread(target=self._read, args=(receiving,), name="stray-output", daemon=True)
        self._reader.start()

    def lines(self) -> list[str]:
        """What was printed since the last call; of a flood, the last 1000 lines."""
        taken: list[str] = []
        while self._lines:
            taken.append(self._lines.popleft())
        return taken

    def stop(self) -> None:
        """Give 1 and 2 back. A child that still holds the pipe is not waited for beyond a second."""
        _flush()
        for descriptor, saved in self._saved.items():
            os.dup2(saved, descriptor)
            os.close(saved)
        self._saved = {}
        if self._reader is not None:
            self._reader.join(timeout=1.0)
            self._reader = None

    def _read(self, receiving: int) -> None:
        rest = b""
        with open(receiving, "rb", buffering=0) as pipe:
            while received := pipe.read(65536):
                *whole, rest = (rest + received).split(b"\n")
                for line in whole:
                    self._lines.append(line[:_LINE_BYTES].decode(errors="replace"))
                rest = rest[-_LINE_BYTES:]
        if rest:
            self._lines.append(rest.decode(errors="replace"))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
