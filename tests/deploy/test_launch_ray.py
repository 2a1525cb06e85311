"""`flctl launch --on ray`, on a Ray cluster of the test's own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Daemons, until
from tests.deploy.conftest import BIN, Launched, killed, parent_of, processes_with

pytest.importorskip("ray", reason="the extra 'ray' is not installed")
pytestmark = [pytest.mark.net, pytest.mark.chaos, pytest.mark.soak, pytest.mark.timeout(300)]


@pytest.fixture
def ray_cluster(daemons: Daemons, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address. Ray's sockets want a short path, and its processes are many: all are gone afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    folder = tmp_path_factory.mktemp("r")
    words = ["start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={address.rpartition(':')[2]}"]
    words += ["--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats", "--object-store-memory=80000000"]
    env = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "FLSPAN_TEST_RAY": str(folder)}
    process = daemons.start([str(BIN / "ray"), *words, f"--temp-dir={folder}"], tmp_path, env)
    process.until(lambda: "Ray runtime started" in process.said, "Ray")
    yield address
    process.signal(signal.SIGTERM)
    process.ended()
    for pid in processes_with(str(folder)):
        os.kill(pid, signal.SIGKILL)


def test_workers_beside_actors_hold_a_run(
    launched: Callable[..., Launched], ray_cluster: str, undisturbed: str
) -> None:
    """A worker is killed, then the actor of the other one: both come back, and the model's bytes are the same."""
    launch = launched("--on", "ray", "-n", "2", "--at", ray_cluster)
    launch.process.until(lambda: len(launch.addresses) == 2, "both workers")
    kills = iter([killed, lambda pid: killed(parent_of(pid))])
    first = launch.kill_all_one_by_one(lambda pid: next(kills)(pid))
    assert len(first) == 2
    assert launch.process.ended(120) == 0
    joined = {event["name"] for event in launch.run.events("WorkerJoined")}
    assert set(first) < joined
    assert launch.run.model_sha256 == undisturbed
    until(lambda: not processes_with("--spawned"), "the end of the workers")


def test_no_cluster_is_said(tmp_path: Path) -> None:
    """In a line, with exit code 2."""
    command = [sys.executable, "-c", "from master.flctl import main; main()", "launch", "--on", "ray"]
    done = subprocess.run(
        [*command, "--at", "127.0.0.1:1"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert "there is no Ray cluster at 127.0.0.1:1" in done.stderr
