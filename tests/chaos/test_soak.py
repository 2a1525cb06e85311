"""Half an hour under the killer: memory and open files of the master stay flat, and the bytes are the undisturbed ones.

Run by hand: `pytest -m soak -s tests/chaos/test_soak.py`; FLSPAN_SOAK_S says another length in seconds.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest

from tests.chaos.conftest import resident_bytes
from tests.conftest import Daemons, Finished, Process, until

LENGTH_S = float(os.environ.get("FLSPAN_SOAK_S", "1800"))
MEAN_LIFE_S = 2.0
pytestmark = [pytest.mark.net, pytest.mark.chaos, pytest.mark.soak, pytest.mark.timeout(round(2 * LENGTH_S) + 300)]


@dataclass
class Life:
    """One worker's: it ends a random time after it has taken part, and then the next one begins."""

    process: Process
    takes_part: int = 0  # how many of its forerunners did
    ends_s: float | None = None


class Killer:
    """SIGKILLs workers (exponential life from when they take part) and starts them again on their ports."""

    def __init__(self, daemons: Daemons, cwd: Path) -> None:
        self._daemons, self._cwd = daemons, cwd
        self._source = random.Random(1)
        self.kills = 0
        self.lives = [Life(daemons.worker(cwd)) for _ in range(4)]
        daemons.listening(*(life.process for life in self.lives))

    def look(self, came: Counter[str], now_s: float) -> None:
        """Kill whose time has come; `came` counts how often each address has taken part."""
        for life in self.lives:
            if life.ends_s is None and came[life.process.address] > life.takes_part:
                life.takes_part = came[life.process.address]
                life.ends_s = now_s + self._source.expovariate(1 / MEAN_LIFE_S)
            elif life.ends_s is not None and now_s >= life.ends_s:
                life.process.kill()
                self.kills += 1
                self._daemons.started.remove(life.process)
                life.process, life.ends_s = self._daemons.worker(self._cwd, port=life.process.port), None


def arrivals(events: Path) -> Iterator[Counter[str]]:
    """How often each worker has taken part so far; reads on in the file each time it is asked."""
    came: Counter[str] = Counter()
    with events.open("rb") as file:
        while True:
            start = file.tell()
            for line in iter(file.readline, b""):
                if not line.endswith(b"\n"):  # it is being written
                    file.seek(start)
                    break
                start = file.tell()
                if b"WorkerJoined" in line or b"WorkerReturned" in line:
                    came[json.loads(line)["name"]] += 1
            yield came


def test_half_an_hour_under_the_killer(daemons: Daemons, folder: Path, tmp_path: Path) -> None:
    """Four workers of mean life 2 s: after a sixth of the time less than 2 MiB of growth, same bytes."""
    killer = Killer(daemons, tmp_path)
    workers = ",".join(life.process.address for life in killer.lives)
    options = ("--set", "rounds=1000000", "--set", "algorithm.step_s=0.01", "--runs-dir")
    master = daemons.master(folder / "chaos.toml", *options, str(tmp_path / "runs"), "--workers", workers, cwd=tmp_path)
    run = until(lambda: list(Finished.all_in(tmp_path / "runs").values()), "the run's folder")[0]
    until((run.path / "events.jsonl").exists, "its events")
    resident: list[int] = []
    opened: list[int] = []
    began_s = time.monotonic()
    came = arrivals(run.path / "events.jsonl")
    for look in itertools.count():
        now_s = time.monotonic() - began_s
        if now_s > LENGTH_S:
            break
        assert master.popen.poll() is None, master.said[-2000:]
        killer.look(next(came), now_s)
        if look % 20 == 0:
            resident.append(resident_bytes(master.pid))
            opened.append(len(list(Path(f"/proc/{master.pid}/fd").iterdir())))
        time.sleep(0.05)  # between two looks
    master.signal(signal.SIGTERM)
    assert master.ended() == 128 + signal.SIGTERM
    rounds = run.metrics[-1]["round"]
    sixth = len(resident) // 6
    parts = [slice(k * sixth, (k + 1) * sixth) for k in range(6)]
    mib = [round(median(resident[part]) / 2**20, 1) for part in parts]
    files = [max(opened[part]) for part in parts]
    print(
        f"\n{LENGTH_S:g} s, {rounds} rounds, {killer.kills} workers killed; by sixths of the time: resident {mib} MiB"
        f" (medians), open files at most {files}"
    )
    assert killer.kills > LENGTH_S / 10
    assert mib[-1] - mib[1] < 2
    assert files[-1] <= files[1] + 4  # one more or less is being connected
    quiet = daemons.master(
        folder / "chaos.toml", "--set", f"rounds={rounds}", "--threads-per-device", "8", "--runs-dir",
        str(tmp_path / "quiet"), "--devices", "cpu", cwd=tmp_path,
    )  # fmt: skip
    assert quiet.ended(LENGTH_S) == 0
    undisturbed = Finished.all_in(tmp_path / "quiet")
    assert [each.model_sha256 for each in undisturbed.values()] == [run.model_sha256]
