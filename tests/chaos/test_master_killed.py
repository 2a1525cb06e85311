"""The master is killed at every twentieth of a round and started again: the same bytes, at most one round run again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from master import checkpoint
from tests.chaos.conftest import CLIENTS_A_TASK, TASKS, Undisturbed, exact
from tests.conftest import Daemons, Finished
from tests.system.conftest import MasterHere

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


@pytest.mark.soak
async def test_killed_at_every_5_percent_of_a_round(
    daemons: Daemons, folder: Path, tmp_path: Path, master: Callable[[], MasterHere]
) -> None:
    """SIGKILL after 0, 1, … 19 of the 20 tasks of a round, in one run of 50; each start repeats at most one round."""
    rounds = ("rounds=50", "algorithm.step_s=0.005")
    plain = master().start("", *rounds, devices="cpu", threads_per_device=4)
    assert await plain.ended() == 0
    options = ("--devices", "cpu", "--threads-per-device", "2", "--runs-dir", str(tmp_path / "disturbed"))
    settings = [word for text in rounds for word in ("--set", text)]

    def started_rounds() -> list[int]:
        runs = Finished.all_in(tmp_path / "disturbed")
        return [event["round"] for run in runs.values() for event in run.events("RoundStarted")]

    marks = tmp_path / "marks"
    marks.mkdir()

    def has_come_to(pid: int, tasks: int) -> bool:
        """Whether clients of so many tasks are at work, or done, in the second round of this start."""
        seen = [int(path.name.split("-")[1]) for path in marks.glob(f"{pid}-*")]
        return bool(seen) and seen.count(min(seen) + 1) > CLIENTS_A_TASK * tasks

    for tasks in range(TASKS):
        env = {"FLSPAN_TEST_MARKS": str(marks)}
        process = daemons.master(folder / "chaos.toml", *options, *settings, cwd=folder, env=env)
        process.until(partial(has_come_to, process.pid, tasks), f"{tasks} tasks of a round")
        process.signal(signal.SIGKILL)
        assert process.ended() == -signal.SIGKILL
    last = daemons.master(folder / "chaos.toml", *options, *settings, cwd=folder)
    assert last.ended() == 0, last.said[-2000:]
    (run,) = Finished.all_in(tmp_path / "disturbed").values()
    assert run.model_sha256 == plain.run.model_sha256
    assert exact(run) == exact(plain.run)
    assert len(run.events("RunStarted")) == TASKS + 1
    seen = started_rounds()
    assert len(seen) - len(set(seen)) <= 2 * TASKS  # the round that was under way, and the next where that had begun


_FULL_DISK = """
mount -t tmpfs -o size=20m none runs || exit 99
{command} >first.out 2>&1 &
master=$!
until grep -qs '"round": *4' runs/*/*/metrics.jsonl; do sleep 0.02; done
dd if=/dev/zero of=runs/ballast bs=1M count=30 2>dd.out
wait $master
echo $? >first.code
cp -r runs kept; rm -f kept/ballast
rm runs/ballast
{command} >second.out 2>&1
echo $? >second.code
cp -r runs after
"""


@pytest.mark.soak
def test_a_full_disk_costs_checkpoints_and_not_the_run(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """A tmpfs of 20 MB fills up in mid-run: the run ends, the exit code is 3, the last good checkpoint stays whole;
    with room again the same command goes on from it and ends with the same bytes."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("needs root and unshare: a mount namespace")
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody make a mount namespace")
    for name in ("chaos.toml", "busy.py"):
        shutil.copy(undisturbed.folder / name, tmp_path)
    (tmp_path / "runs").mkdir()
    command = f"{sys.executable} -m master.cli --no-dashboard --devices cpu --threads-per-device 2 chaos.toml"
    script = _FULL_DISK.format(command=command)
    subprocess.run(["unshare", "-m", "sh", "-c", script], cwd=tmp_path, timeout=120, check=True)
    said = (tmp_path / "first.out").read_text()
    assert (tmp_path / "first.code").read_text().strip() == "3", said[-2000:]
    assert "No space left on device" in said
    (kept,) = Finished.all_in(tmp_path / "kept").values()
    good, _ = checkpoint.latest(kept.path / "checkpoints")
    assert good is not None
    assert good.round >= 3
    assert (tmp_path / "second.code").read_text().strip() == "0", (tmp_path / "second.out").read_text()[-2000:]
    (after,) = Finished.all_in(tmp_path / "after").values()
    assert after.model_sha256 == undisturbed.model_sha256
    assert exact(after) == undisturbed.metrics
