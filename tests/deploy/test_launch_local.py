"""`flctl launch --on local`: what all launchers share, with the engine that is always there."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Daemons, until
from tests.deploy.conftest import FLCTL, Launched, killed, processes_with

pytestmark = [pytest.mark.net, pytest.mark.chaos, pytest.mark.soak, pytest.mark.timeout(240)]


def test_workers_that_are_killed_are_replaced_and_nothing_changes(
    launched: Callable[..., Launched], undisturbed: str
) -> None:
    """Each worker dies once in the run; others take over at new addresses, and the model's bytes are the same."""
    launch = launched("--on", "local", "-n", "2")
    first = launch.kill_all_one_by_one(killed)
    assert launch.process.ended(120) == 0
    joined = {event["name"] for event in launch.run.events("WorkerJoined")}
    assert set(first) < joined
    assert launch.run.model_sha256 == undisturbed
    assert processes_with(str(launch.folder)) == []
    assert not (launch.folder / "workers").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_run_and_leaves_nothing_behind(
    launched: Callable[..., Launched], number: signal.Signals, code: int
) -> None:
    """Also Ctrl-C: the master saves, the workers leave, the exit code says which signal it was."""
    launch = launched("--on", "local", "-n", "1")
    launch.until_round(3)
    launch.process.signal(number)
    assert launch.process.ended() == code
    assert launch.run.summary["reason"] == "stopped"
    assert processes_with(str(launch.folder)) == []


def test_workers_leave_when_the_launch_is_killed(launched: Callable[..., Launched]) -> None:
    """Nobody can clean up after a SIGKILL: their input ends, and they go by themselves."""
    launch = launched("--on", "local", "-n", "1")
    launch.until_round(3)
    worker = launch.worker_pid(launch.addresses[0])
    launch.process.kill()
    until(lambda: worker not in processes_with(str(launch.folder)), "the end of the worker")
    for master in processes_with(str(launch.folder)):
        killed(master)  # flmaster goes on in the hope of workers: it is the user's to stop


def test_without_an_experiment_it_prints_the_line_to_run(daemons: Daemons, tmp_path: Path) -> None:
    """The line names a file of addresses and one with the secret, which nobody else can read, and which goes."""
    words = ["launch", "--on", "local", "-n", "1", "--devices", "cpu"]
    process = daemons.start([*FLCTL, *words], tmp_path)
    process.until(lambda: "EXPERIMENT.toml" in process.out.read_text(), "the line to run")
    line = process.out.read_text().split()
    assert line[0] == "flmaster"
    addresses = Path(line[line.index("--workers") + 1].removeprefix("@"))
    secret = Path(line[line.index("--secret-file") + 1])
    assert addresses.read_text().startswith("127.0.0.1:")
    assert secret.stat().st_mode & 0o777 == 0o600
    words_of_all = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes_with("--spawned"))
    assert secret.read_bytes().strip() not in words_of_all
    process.signal(signal.SIGTERM)
    assert process.ended() == 143
    assert not addresses.exists()
    assert not secret.exists()


def test_workers_that_cannot_start_end_the_launch(daemons: Daemons, tmp_path: Path) -> None:
    """A wrong option is said with the worker's own words, and not tried for ever."""
    words = ["launch", "--on", "local", "-n", "1", "--devices", "abacus"]
    process = daemons.start([*FLCTL, *words], tmp_path)
    assert process.ended() == 1
    assert "abacus" in process.said
    assert "3 times" in process.said
