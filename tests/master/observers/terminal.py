"""A terminal for tests: a pty read by pyte, and a process that believes a person sits at it. Not a test."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyte
import pytest

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_S = 30.0


class Terminal:
    """A pty with a process on it, and the screen that a person would see."""

    def __init__(self, columns: int, lines: int, command: Sequence[str], cwd: Path = ROOT) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.received = b""
        self.ours, self.theirs = pty.openpty()
        self.resize(columns, lines)
        self.modes = termios.tcgetattr(self.theirs)
        self.process = subprocess.Popen(
            command,
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            cwd=cwd,
            env={**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )

    def resize(self, columns: int, lines: int) -> None:
        self.screen.resize(lines, columns)
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    def until(self, seen: Callable[[str], object]) -> str:
        """Read until the text on the screen satisfies `seen`."""
        deadline = time.monotonic() + PATIENCE_S
        while not seen("\n".join(self.screen.display)):
            ready, _, _ = select.select([self.ours], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                pytest.fail("the screen never came to that:\n" + "\n".join(self.screen.display))
            received = os.read(self.ours, 65536)
            self.received += received
            self._stream.feed(received)
        return "\n".join(self.screen.display)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.ours)
        os.close(self.theirs)
