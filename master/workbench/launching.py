"""flmaster as a process of the workbench's: its command line, its output, its end.

It is flmaster and nothing else, in a session of its own with its output in a file: closing the workbench need not end
it, and `flctl watch` finds it.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from master.workbench.draft import Draft

SHOWN = (
    *("devices", "threads_per_device", "spawn", "workers", "secret_file", "parallel_runs"),
    *("data_root", "track", "reference", "resume", "lz4"),
)
"""The options of flmaster that a launch may choose."""


def options() -> list[click.Option]:
    """flmaster's own options, in that order: their help and defaults are the form's."""
    from master.cli import main

    found = {parameter.name: parameter for parameter in main.params if isinstance(parameter, click.Option)}
    return [found[name] for name in SHOWN if name in found]


def words(draft: Draft, chosen: Mapping[str, Any], runs_dir: Path) -> list[str]:
    """The command line that runs the draft: its file, and what was changed since as `--set`."""
    found = ["flmaster"]
    for option in options():
        value = chosen.get(option.name or "")
        if value in (None, "") or value == _default(option):
            continue
        if option.is_flag:
            found.append(option.opts[0] if value else option.secondary_opts[0])
        else:
            found += [option.opts[0], str(value)]
    if runs_dir != Path("runs"):
        found += ["--runs-dir", str(runs_dir)]
    if draft.path is None or not draft.is_carried:
        return [*found, "EXPERIMENT.toml"]  # once it is saved
    for override in draft.overrides():
        found += ["--set", override]
    return [*found, str(draft.path)]


def _default(option: click.Option) -> Any:
    return option.default if isinstance(option.default, str | int | bool) else None


def spelled(command: Sequence[str]) -> str:
    """As a shell takes it."""
    return shlex.join(command)


class Launched:
    """One flmaster that was started from here.

    Attributes:
        command: its words, as typed.
        output: the file that has all it says.
        is_told: somebody has said how it ended.
    """

    def __init__(self, command: Sequence[str], process: subprocess.Popen[bytes], output: Path) -> None:
        self.command, self.output = list(command), output
        self._process = process
        self._offset_bytes = 0
        self.is_told = False

    @classmethod
    def start(cls, command: Sequence[str], runs_dir: Path) -> Launched:
        """Start it. OSError: the folder of runs cannot be written."""
        folder = runs_dir / "workbench-logs"
        folder.mkdir(parents=True, exist_ok=True)
        output = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
        home = str(Path(__file__).resolve().parents[2])
        path = os.environ.get("PYTHONPATH")
        with output.open("ab") as file:
            process = subprocess.Popen(  # not asyncio's: that one dies with the event loop
                [sys.executable, "-m", "master.cli", "--no-dashboard", *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": home if not path else os.pathsep.join((home, path))},
                start_new_session=True,  # Ctrl-C here is not for it
            )
        return cls(command, process, output)

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """flmaster's: 0 finished, 1 failed, 2 the input was wrong, 130 or 143 stopped and saved."""
        return self._process.poll()

    def stop(self) -> None:
        """End after the round, with everything saved."""
        if self.is_running:
            self._process.send_signal(signal.SIGTERM)

    async def wait(self) -> int:
        """Its exit code, once it has one."""
        return await asyncio.to_thread(self._process.wait)

    def new_lines(self) -> list[str]:
        """The lines that it has said since the last call."""
        with self.output.open("rb") as file:
            file.seek(self._offset_bytes)
            content = file.read()
        whole = content.rfind(b"\n") + 1
        if not self.is_running:
            whole = len(content)
        self._offset_bytes += whole
        return content[:whole].decode(errors="replace").splitlines()


__all__ = ["SHOWN", "Launched", "options", "spelled", "words"]
