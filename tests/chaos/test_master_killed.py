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
from tests.chaos.conftest import TASKS, Undisturbed, exact
from tests.conftest import Daemons, Finished
from tests.system.conftest import MasterHere

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


@pytest.mark.slow
async def test_killed_at_every_5_percent_of_a_round(
    daemons: Daemons, folder: Path, tmp_path: Path, master: Callable[[], MasterHere]
) -> None:
    """SIGKILL after 0, 1, … 19 of the 20 tasks of a round, in one run of 22 rounds; each start repeats at most one."""
    rounds = ("rounds=22", "algorithm.step_s=0.002")
    plain = master().start("", *rounds, devices="cpu", threads_per_device=4)
    assert await plain.ended() == 0
    options = ("--devices", "cpu", "--threads-per-device", "2", "--runs-dir", str(tmp_path / "disturbed"))
    settings = [word for text in rounds for word in ("--set", text)]

    def started_rounds() -> list[int]:
        runs = Finished.all_in(tmp_path / "disturbed")
        return [event["round"] for run in runs.values() for event in run.events("RoundStarted")]

    def has_done(tasks: int, since: int) -> bool:
        """Whether so many tasks of the second round since the start, of that many events, are done."""
        (run,) = Finished.all_in(tmp_path / "disturbed").values() or [None]
        if run is None:
            return False
        begun = run.events("RunStarted", "RoundStarted", "TaskFinished")[since:]
        starts = [k for k, event in enumerate(begun) if event["event"] == "RoundStarted"]
        return len(starts) >= 2 and len(begun) - starts[1] - 1 >= tasks

    before = 0
    for tasks in range(TASKS):
        process = daemons.master(folder / "chaos.toml", *options, *settings, cwd=folder)
        process.until(partial(has_done, tasks, before), f"{tasks} tasks of a round")
        process.signal(signal.SIGKILL)
        assert process.ended() == -signal.SIGKILL
        (run,) = Finished.all_in(tmp_path / "disturbed").values()
        before = len(run.events("RunStarted", "RoundStarted", "TaskFinished"))
    last = daemons.master(folder / "chaos.toml", *options, *settings, cwd=folder)
    assert last.ended() == 0, last.said[-2000:]
    (run,) = Finished.all_in(tmp_path / "disturbed").values()
    assert run.model_sha256 == plain.run.model_sha256
    assert exact(run) == exact(plain.run)
    begun = [event["first_round"] for event in run.events("RunStarted")]
    assert len(begun) == TASKS + 1
    seen = started_rounds()
    again = len(seen) - len(set(seen))
    assert again <= 2 * TASKS, f"{again} rounds were run again in {TASKS} kills"


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


@pytest.mark.slow
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
