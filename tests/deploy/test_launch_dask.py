"""`flctl launch --on dask`, on a Dask cluster of the test's own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Daemons, until
from tests.deploy.conftest import Launched, killed, parent_of, processes_with

pytest.importorskip("distributed", reason="the extra 'dask' is not installed")
pytestmark = [pytest.mark.net, pytest.mark.chaos, pytest.mark.soak, pytest.mark.timeout(300)]


@pytest.fixture
def dask_cluster(daemons: Daemons, tmp_path: Path) -> Iterator[Path]:
    """Its scheduler file; two workers, each kept alive by a nanny."""
    file = tmp_path / "scheduler.json"
    common = ["--scheduler-file", str(file), "--no-dashboard", "--host", "127.0.0.1"]
    scheduler = daemons.start(
        [sys.executable, "-m", "distributed.cli.dask_scheduler", *common, "--port", "0"], tmp_path
    )
    scheduler.until(file.exists, "the scheduler")
    words = ["--nworkers", "2", "--nthreads", "1", "--local-directory", str(tmp_path)]
    workers = daemons.start([sys.executable, "-m", "distributed.cli.dask_worker", *common, *words], tmp_path)
    yield file
    for process in (workers, scheduler):
        process.signal(signal.SIGTERM)
    for process in (workers, scheduler):
        process.ended()


def test_workers_beside_dask_workers_hold_a_run(
    launched: Callable[..., Launched], dask_cluster: Path, undisturbed: str
) -> None:
    """A worker is killed, then the Dask worker of the other one: both come back, and the bytes are the same."""
    launch = launched("--on", "dask", "--at", str(dask_cluster), "-n", "2")
    launch.process.until(lambda: len(launch.addresses) == 2, "both workers")
    kills = iter([killed, lambda pid: killed(parent_of(pid))])
    first = launch.kill_all_one_by_one(lambda pid: next(kills)(pid))
    assert len(first) == 2
    assert launch.process.ended(120) == 0
    joined = {event["name"] for event in launch.run.events("WorkerJoined")}
    assert set(first) < joined
    assert launch.run.model_sha256 == undisturbed
    until(lambda: not processes_with("--spawned"), "the end of the workers")


def test_no_scheduler_is_said(tmp_path: Path) -> None:
    """In a line, with exit code 2."""
    command = [sys.executable, "-c", "from master.flctl import main; main()", "launch", "--on", "dask"]
    done = subprocess.run(
        [*command, "--at", "tcp://127.0.0.1:1"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert "there is no Dask scheduler at tcp://127.0.0.1:1" in done.stderr
