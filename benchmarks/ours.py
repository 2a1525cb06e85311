"""A workload through the real flmaster, in its own processes: updates a second, time to first round, memory, bytes."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.workloads import Workload

ROOT = Path(__file__).resolve().parents[1]
_WARM = 11
"""Rounds left out at the start: the first and the tenth cohort are run both ways."""

WAYS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "one by one": (["--devices", "cpu", "--threads-per-device", "1"], {"fuse": "never"}),
    "1 thread": (["--devices", "cpu", "--threads-per-device", "1"], {}),
    "2 threads": (["--devices", "cpu", "--threads-per-device", "2"], {}),
    "2 workers": (["--spawn", "2", "--threads-per-device", "1"], {}),
}
"""Options of flmaster, and keys of [execution]."""
_ONE_SLOT = frozenset({"one by one", "1 thread"})


@dataclass(frozen=True)
class Measured:
    """What one run showed.

    Attributes:
        own_ms: of a median round, what is left when the time in which its tasks computed is taken off; known where they
            computed one after the other.
    """

    updates_per_s: float
    first_round_s: float
    round_ms: float
    own_ms: float | None
    peak_bytes: int
    wire_bytes: int


def measure(workload: Workload, way: str, rounds: int) -> Measured:
    """Run it. The rate is by the clock of the events, from the end of one round to the end of the last."""
    options, execution = WAYS[way]
    with tempfile.TemporaryDirectory(prefix="flspan-bench-") as name:
        folder = Path(name)
        path = workload.write(folder, rounds, **execution)
        command = [sys.executable, "-m", "master.cli", "--no-dashboard", "--runs-dir", str(folder / "runs")]
        started = time.time()
        process = subprocess.Popen(
            [*command, *options, str(path)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        watch = TreeMemory(process.pid)
        try:
            _, errors = process.communicate()
        finally:  # stopped from outside: nothing is left running
            process.kill()
            peak = watch.stop()
        if process.returncode:
            raise RuntimeError(f"flmaster ended with {process.returncode}: {errors[-2000:]}")
        events = _read(folder, "events.jsonl")
        metrics = _read(folder, "metrics.jsonl")
    ends = [e["time_s"] for e in events if e["event"] == "RoundFinished"]
    skip = min(_WARM, (len(ends) - 1) // 2)
    elapsed = ends[-1] - ends[skip]
    count = len(ends) - 1 - skip
    wire = max((int(m.get("wire_bytes_sent", 0)) + int(m.get("wire_bytes_received", 0)) for m in metrics), default=0)
    return Measured(
        updates_per_s=count * workload.per_round / elapsed,
        first_round_s=ends[0] - started,
        round_ms=1000 * elapsed / count,
        own_ms=1000 * statistics.median(own_s(events)[skip:]) if way in _ONE_SLOT else None,
        peak_bytes=peak,
        wire_bytes=wire // max(1, rounds),
    )


def own_s(events: Sequence[dict[str, Any]]) -> list[float]:
    """Of each round but the first: from the end of the one before to its own, without the time of its tasks."""
    own: list[float] = []
    end_s, tasks_s = None, 0.0
    for event in events:
        if event["event"] == "TaskFinished":
            tasks_s += event["seconds_s"]
        elif event["event"] == "RoundFinished":
            if end_s is not None:
                own.append(event["time_s"] - end_s - tasks_s)
            end_s, tasks_s = event["time_s"], 0.0
    return own


def _read(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for path in folder.glob(f"runs/*/*/{name}") for line in path.open()]


class TreeMemory:
    """Watches the proportional memory of a process and all its children; `stop` gives the largest sum seen."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """The peak, in bytes."""
        self._over.set()
        self._thread.join()
        return self.peak

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self.peak = max(self.peak, sum(_memory(pid) for pid in _tree(self._pid)))


def _tree(pid: int) -> list[int]:
    found = [pid]
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [each for child in path.read_text().split() for each in _tree(int(child))]
        except OSError:  # gone meanwhile
            continue
    return found


def _memory(pid: int) -> int:
    """Pages that are its own, and its share of those that several processes map."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
