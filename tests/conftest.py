"""What all tests share: torch in one thread, and daemons as real processes that never outlive their test."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from fl_core.experiment.schema import Experiment

torch.set_num_threads(1)  # the daemons do the same; a test may run beside others on the same cores

PATIENCE_S = 60.0
"""How long a test waits for what must come; only a failing one ever waits so long."""


def until(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """What `condition` gives as soon as it is true of it; fails when it does not come true in time."""
    deadline = time.monotonic() + patience_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {patience_s:g} s in vain for {what}")
        time.sleep(0.01)  # between two looks
    return found


@dataclass
class Process:
    """A daemon under test. Its output is in files, so that it never waits for a reader."""

    popen: subprocess.Popen[bytes]
    out: Path
    err: Path
    port: int = 0

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def said(self) -> str:
        """What it wrote so far, stdout first."""
        return self.out.read_text(errors="replace") + self.err.read_text(errors="replace")

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """What `condition` gives as soon as it is true of it, which must come before this process ends."""
        return until(lambda: self._checked(condition, what), what)

    def _checked(self, condition: Callable[[], Any], what: str) -> Any:
        has_ended = self.popen.poll() is not None
        found = condition()
        if not found and has_ended:
            pytest.fail(f"process {self.pid} ended with {self.popen.returncode} before {what}: {self.said[-2000:]}")
        return found

    def has_begun(self) -> bool:
        """Whether it has said something on stdout, or ended."""
        return self.popen.poll() is not None or self.out.read_text().endswith("\n")

    def ended(self, patience_s: float = PATIENCE_S) -> int:
        """Its exit code, once it has one."""
        try:
            return self.popen.wait(patience_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"process {self.pid} did not end within {patience_s:g} s; it said last: {self.said[-2000:]}")

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def kill(self) -> None:
        """As the kernel kills, when memory is short."""
        self.popen.kill()
        self.popen.wait()


@dataclass
class Daemons:
    """Starts `flworker` and `flmaster` as they are installed; `close` leaves none behind."""

    logs: Path
    started: list[Process] = field(default_factory=list)

    def start(self, command: list[str], cwd: Path, env: dict[str, str] | None = None) -> Process:
        """Any process, in `cwd`, with `env` added to ours."""
        base = {key: value for key, value in os.environ.items() if not key.startswith(("FLMASTER_", "FLWORKER_"))}
        stem = self.logs / f"{len(self.started)}-{Path(command[0]).name}"
        out, err = stem.with_suffix(".out"), stem.with_suffix(".err")
        with out.open("wb") as stdout, err.open("wb") as stderr:
            popen = subprocess.Popen(
                command, cwd=cwd, env={**base, **(env or {})}, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
            )
        self.started.append(Process(popen, out, err))
        return self.started[-1]

    def worker(self, cwd: Path, *options: str, port: int = 0, env: dict[str, str] | None = None) -> Process:
        """An flworker with one slot on the CPU, started but perhaps not listening yet (`listening`)."""
        command = [_installed("flworker"), "--port", str(port), "--devices", "cpu", "--threads-per-device", "1"]
        started = self.start([*command, *options], cwd, env)
        started.port = port
        return started

    def listening(self, *workers: Process) -> None:
        """Wait until they say their ports."""
        for worker in workers:
            until(worker.has_begun, "a worker's first line")
            if worker.popen.poll() is not None:
                pytest.fail(f"a worker ended instead of listening: {worker.said}")
            worker.port = int(worker.out.read_text().strip().rpartition(":")[2])

    def master(self, experiment: Path, *options: str, cwd: Path, env: dict[str, str] | None = None) -> Process:
        """An flmaster without a dashboard."""
        return self.start([_installed("flmaster"), "--no-dashboard", *options, str(experiment)], cwd, env)

    def close(self) -> None:
        """Kill what still runs."""
        for process in self.started:
            process.popen.kill()
            process.popen.wait()


def _installed(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


@dataclass(frozen=True)
class Finished:
    """A run's folder, read."""

    path: Path

    @classmethod
    def all_in(cls, runs: Path) -> dict[str, Finished]:
        """Every run below `runs`, by the slug of its label."""
        folders = [path.parent for path in runs.glob("*/*/experiment.toml")]
        return {folder.name.rsplit("-s", 1)[0]: cls(folder) for folder in sorted(folders)}

    @property
    def model_sha256(self) -> str:
        return hashlib.sha256((self.path / "model.safetensors").read_bytes()).hexdigest()

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """Those of these kinds, so far; a line that is being written is not yet one."""
        path = self.path / "events.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in found if not kinds or event["event"] in kinds]

    @property
    def summary(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.path / "summary.json").read_text())
        return content


@pytest.fixture
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemons]:
    """Processes of one test."""
    made = Daemons(tmp_path_factory.mktemp("daemons"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def module_daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemons]:
    """Processes of all tests of a file."""
    made = Daemons(tmp_path_factory.mktemp("daemons"))
    yield made
    made.close()


def small_experiment(**tables: Any) -> Experiment:
    """Least squares in three parameters, four clients, a task a client: for tests of what is around it."""
    given: dict[str, Any] = {
        "name": "small",
        "rounds": 3,
        "data": {"name": "quadratic", "d": 3, "samples_per_client": 5},
        "model": {"name": "linear", "loss": "mse", "dtype": "float64"},
        "clients": {"total": 4},
        "local": {"steps": 2, "optimizer": {"name": "sgd", "lr": 0.1}},
        "algorithm": {"name": "fedavg"},
        "evaluate": {"every": 1, "metrics": ["f"]},
        "execution": {"cohort": 1, "fuse": "never"},
    }
    return Experiment.from_dict(given | tables)
