"""Workers placed by real engines on this machine, and the run that must end with the same bytes on all of them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from master.flctl.visiting import Credentials, Visit, visit_all
from protocol.secret import new_secret, write_secret
from tests.conftest import Daemons, Finished, Process

ROOT = Path(__file__).parents[2]
EXPERIMENT = ROOT / "examples" / "digits.toml"
ROUNDS = ("--set", "rounds=40", "--set", "evaluate.every=20")
FLCTL = (sys.executable, "-c", "import sys; sys.argv[0] = 'flctl'; from master.flctl import main; main()")
BIN = Path(sys.executable).parent


def tool(name: str) -> str:
    """The program's path, from this environment or the PATH; skips the test where there is none."""
    found = shutil.which(name, path=os.pathsep.join((str(BIN), os.environ.get("PATH", ""), "/usr/sbin")))
    if found is None:
        pytest.skip(f"{name} is not installed here")
    return found


def processes_with(mark: str) -> list[int]:
    """The processes whose command line or environment has this text; of this machine, so not this one's own."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            text = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
        except OSError:
            continue  # it ended, or is none of ours
        if mark.encode() in text and int(path.name) != os.getpid():
            found.append(int(path.name))
    return found


def parent_of(pid: int) -> int:
    """Of a process that lives."""
    return int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])


@dataclass
class Launched:
    """An `flctl launch` that runs the experiment."""

    process: Process
    folder: Path
    secret_file: Path
    runs: Path

    @property
    def addresses(self) -> list[str]:
        """Where its workers listen now."""
        path = self.folder / "workers"
        return path.read_text().split() if path.exists() else []

    def visit(self, address: str) -> Visit:
        """What the worker there says of itself."""
        return visit_all([address], Credentials(self.secret_file, (), None))[0]

    def worker_pid(self, address: str) -> int:
        visit = self.visit(address)
        assert visit.info is not None, visit.error
        return visit.info.pid

    @property
    def run(self) -> Finished:
        (run,) = Finished.all_in(self.runs).values()
        return run

    def until_round(self, number: int) -> None:
        """Wait until that round is over, and the run is not."""
        self.process.until(lambda: f"\nround {number}/" in self.process.said, f"round {number}")

    def until_lost(self, count: int) -> None:
        """Wait until the master has noticed so many losses."""
        self.process.until(lambda: len(self.run.events("WorkerLost")) >= count, "the loss of a worker")

    def kill_all_one_by_one(self, kill: Callable[[int], None]) -> list[str]:
        """In the midst of the run, each worker there is; so the run cannot end without others. Their addresses."""
        self.until_round(5)
        addresses = self.addresses
        for number, address in enumerate(addresses, start=1):
            kill(self.worker_pid(address))
            self.until_lost(number)
        return addresses


@pytest.fixture
def launched(daemons: Daemons, tmp_path: Path) -> Callable[..., Launched]:
    """`launched("--on", "local", …)`: with a folder of its own, a secret in a file, and the experiment."""

    def launch(*words: str, env: dict[str, str] | None = None) -> Launched:
        folder, secret_file, runs = tmp_path / "launch", tmp_path / "secret", tmp_path / "runs"
        write_secret(secret_file, new_secret())
        own = ["--folder", str(folder), "--secret-file", str(secret_file)]
        own += ["--devices", "cpu", "--threads-per-device", "1"]
        master = ["--", "--no-dashboard", "--runs-dir", str(runs), *ROUNDS, str(EXPERIMENT)]
        mark = {"FLSPAN_TEST_LAUNCH": str(folder)}
        process = daemons.start([*FLCTL, "launch", *words, *own, *master], tmp_path, {**mark, **(env or {})})
        return Launched(process, folder, secret_file, runs)

    return launch


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The sha256 of the model that the experiment ends with, on one thread of this machine."""
    runs = tmp_path_factory.mktemp("undisturbed")
    command = [sys.executable, "-P", "-m", "master.cli", "--no-dashboard", "--devices", "cpu"]
    command += ["--threads-per-device", "1", "--runs-dir", str(runs), *ROUNDS, str(EXPERIMENT)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=runs, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (run,) = Finished.all_in(runs).values()
    return run.model_sha256


def killed(pid: int) -> None:
    """As the kernel kills, when memory is short."""
    os.kill(pid, signal.SIGKILL)
