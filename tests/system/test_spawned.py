"""`flmaster --spawn`: its workers are processes of their own and yet never outlive it; neither does their secret."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import Daemons, Finished, Process, until
from tests.system.conftest import Gates

pytestmark = [pytest.mark.net, pytest.mark.chaos, pytest.mark.timeout(300)]


class Scene:
    """Her experiment, run with two spawned workers whose clients print a lot and wait in round 2."""

    def __init__(self, hers: Path, daemons: Daemons, gates: Gates) -> None:
        self.gates = gates
        self._hers, self._daemons = hers, daemons
        self.temporary = hers / "tmp"
        self.temporary.mkdir()
        gated = (hers / "gated.py").read_text(encoding="utf-8")
        chatty = gated.replace("        return client", "        print('said ' * 20_000)\n        return client")
        assert chatty != gated
        (hers / "gated.py").write_text(chatty, encoding="utf-8")

    def start(self, *more: str) -> Process:
        options = ("--spawn", "2", "--set", "run=[{label='plain'}]", "--runs-dir", str(self._hers / "runs"), *more)
        env = {**self.gates.env, "TMPDIR": str(self.temporary)}
        return self._daemons.master(self._hers / "matrix.toml", *options, cwd=self._hers, env=env)

    def worker_pids(self) -> list[int]:
        """Of all workers ever spawned, as their logs say."""
        logs = (self._hers / "runs" / "worker-logs").glob("worker-*.txt")
        return [int(pid) for log in logs for pid in re.findall(r"slots? on cpu, pid (\d+)", log.read_text())]

    def held_workers(self) -> list[int]:
        return [pid for pid in self.worker_pids() if self.gates.is_holding(pid, "plain", 2)]

    @property
    def run(self) -> Finished:
        return Finished.all_in(self._hers / "runs")["plain"]

    def files_left(self) -> list[Path]:
        return [path for path in self.temporary.rglob("*") if path.is_file()]

    def log(self, number: int) -> str:
        return (self._hers / "runs" / "worker-logs" / f"worker-{number}.txt").read_text(encoding="utf-8")


@pytest.fixture
def scene(make_her_folder: Callable[[], Path], daemons: Daemons, gates: Gates) -> Scene:
    """Not started yet."""
    return Scene(make_her_folder(), daemons, gates)


def is_gone(pid: int) -> bool:
    """No such process, or one that nobody has reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_workers_leave_with_their_master(scene: Scene) -> None:
    """Stopped or killed, in mid-round: nobody stays behind, no secret either, and a worker that dies is replaced."""
    scene.gates.close("plain", 2)
    stopped = scene.start()
    # Whoever waits in round 2 has got rid of what round 1 printed.
    stopped.until(lambda: len(scene.held_workers()) == 2, "two workers that wait in round 2")
    assert scene.log(0).count("said said") + scene.log(1).count("said said") > 0
    stopped.signal(signal.SIGINT)
    stopped.until(partial(scene.run.events, "RunFinished"), "the end of the run")
    scene.gates.open("plain", 2)
    assert stopped.ended() == 130
    first = scene.worker_pids()
    assert all(is_gone(pid) for pid in first)
    assert scene.files_left() == []
    assert scene.run.summary["rounds"] == 1

    scene.gates.close("plain", 2)
    killed = scene.start()
    killed.until(lambda: len(scene.held_workers()) == 2, "two new workers that wait in round 2")
    victim, other = scene.held_workers()
    os.kill(victim, signal.SIGKILL)
    killed.until(lambda: scene.run.events("WorkerReturned"), "the return of the one that died")
    (newcomer,) = set(scene.worker_pids()) - {*first, victim, other}
    killed.kill()
    until(lambda: is_gone(other) and is_gone(newcomer), "the workers' leaving")
    for path in scene.files_left():
        assert not re.search(rb"[0-9a-f]{64}", path.read_bytes()), path
    for row in (scene.log(0) + scene.log(1)).splitlines():
        for digits in re.finditer(r"[0-9a-f]{64}", row):  # of her files the logs name the hash
            assert row[: digits.start()].endswith("sha256 "), row


def test_a_wrong_experiment_ends_before_it_begins(scene: Scene) -> None:
    """Exit code 2 and one line, whatever was spawned already; of that nothing stays."""
    master = scene.start("--set", "clients.per_round=many")
    assert master.ended() == 2
    assert master.out.read_text(encoding="utf-8") == ""
    (line,) = master.err.read_text(encoding="utf-8").splitlines()
    assert line.startswith("flmaster: --set clients.per_round=many: [clients] per_round: must be")
    assert all(is_gone(pid) for pid in scene.worker_pids())
    assert scene.files_left() == []
