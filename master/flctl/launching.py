"""What `flctl launch` does once it has a launcher: hold workers, tell a master where they are, end both."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from deploy.launchers import Launcher
from protocol.secret import write_secret

LOOK_S = 0.5
"""Between two looks at the workers."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Launch:
    """Workers of one launcher, and perhaps a master on them.

    Args:
        folder: the file of addresses goes there.
        secret_file: where the secret is written, for the master; it is removed at the end.
    """

    def __init__(self, launcher: Launcher, folder: Path, secret_file: Path, secret: bytes) -> None:
        self._launcher = launcher
        self._file = folder / "workers"
        self._secret_file = secret_file
        self._secret = secret
        self._addresses: list[str] | None = None
        self._signal = 0
        self._master: subprocess.Popen[bytes] | None = None

    def run(self, master_words: Sequence[str]) -> int:
        """Returns flmaster's exit code, or 128 + the signal that ended the launch.

        Raises:
            InputError, RunError: the engine cannot be used, or workers do not start.
        """
        write_secret(self._secret_file, self._secret)
        with self._signals():
            try:
                self._launcher.start()
                self._wait_for_a_worker()
                if self._signal:
                    return 128 + self._signal
                line = [*_flmaster(), "--workers", f"@{self._file}", "--secret-file", str(self._secret_file)]
                line += ["--devices", "none"]
                if master_words:
                    return self._follow_master([*line, *master_words])
                click.echo(f"{shlex.join(['flmaster', *line[len(_flmaster()) :]])} EXPERIMENT.toml")
                self._follow()
                return 128 + self._signal
            finally:
                self._launcher.stop()
                self._secret_file.unlink(missing_ok=True)
                self._file.unlink(missing_ok=True)

    def _wait_for_a_worker(self) -> None:
        """The engine may keep them waiting; the first one is enough, since the master takes others as they come."""
        while not self._look() and not self._signal:
            time.sleep(LOOK_S)

    def _follow(self) -> None:
        while not self._signal:
            self._look()
            time.sleep(LOOK_S)

    def _follow_master(self, line: Sequence[str]) -> int:
        """The master has the terminal, and says itself which workers come and go."""
        self._master = master = subprocess.Popen(line)
        try:
            while True:
                try:
                    code = master.wait(LOOK_S)
                    return code if code >= 0 else 128 - code
                except subprocess.TimeoutExpired:
                    self._look()
        finally:
            if master.poll() is None:  # the launcher failed: the run is saved, and can go on
                master.send_signal(signal.SIGTERM)
                master.wait()

    def _look(self) -> list[str]:
        found = self._launcher.addresses()
        if found != self._addresses:
            partial = self._file.with_name("workers.partial")
            partial.write_text("".join(f"{address}\n" for address in found), encoding="ascii")
            partial.replace(self._file)
            if self._master is None and found:
                click.echo(f"{len(found)} workers listen: {', '.join(found)}", err=True)
            self._addresses = found
        return found

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """A signal ends the launch in order; how Python takes them is as before afterwards."""
        before = {number: signal.signal(number, self._take) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        if self._master is not None and not (number == signal.SIGINT and _has_terminal()):
            # The terminal's Ctrl-C has reached the master too, which takes a second one as "at once".
            self._master.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)


def _has_terminal() -> bool:
    """Whether this process is in the foreground of a terminal."""
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False


def _flmaster() -> list[str]:
    """The flmaster of this installation."""
    installed = Path(sys.executable).with_name("flmaster")
    return [str(installed)] if installed.is_file() else [sys.executable, "-P", "-m", "master.cli"]
