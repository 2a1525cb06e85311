"""Large populations and long runs through the real flmaster: `python -m benchmarks.scale [--full]`.

A population costs the memory of its data and nothing a round; a long run costs no memory at all. Both are measured in
a process of its own: the largest memory of its tree, time a client and round, and memory by round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from benchmarks.ours import ROOT, TreeMemory

_DATA = '''"""Logistic regression's data, made up: d numbers a sample, labels from a plane and noise."""

import torch

from fl_core.datasets import Samples


def load(clients, d=20, samples=4):
    source = torch.Generator().manual_seed(1)
    x = torch.randn(clients * samples, d, generator=source)
    noise = torch.randn(clients * samples, generator=source)
    return Samples((x, ((x @ torch.randn(d, generator=source) + noise) > 0).long()), classes=2)
'''


@dataclass(frozen=True)
class Population:
    """What a run of many clients showed."""

    clients: int
    per_round: int
    peak_bytes: int
    client_us: float


@dataclass(frozen=True)
class Soak:
    """What a run of many rounds showed: (rounds done, bytes held) at moments of it."""

    points: tuple[tuple[int, int], ...]

    def growth_bytes(self, warm: int, last: int) -> float:
        """Bytes a round, the slope of the least-squares line through the points from round `warm` to `last`.

        Rounds are counted in what has been written down: those shortly before the end are seen while the run is being
        put away, which takes memory of its own.
        """
        rounds, held = zip(*[(r, b) for r, b in self.points if warm <= r <= last], strict=True)
        return float(statistics.linear_regression(rounds, held).slope)


def experiment(total: int, per_round: int, rounds: int) -> dict[str, Any]:
    """FedAvg on the data above, one full step a client."""
    return {
        "name": "scale",
        "rounds": rounds,
        "seed": 1,
        "data": {"name": "many.py", "partition": {"name": "iid"}},
        "model": {"name": "logistic"},
        "clients": {"total": total, "per_round": per_round},
        "local": {"steps": 1, "gradient": "full", "optimizer": {"name": "sgd", "lr": 0.1}},
        "algorithm": {"name": "fedavg"},
        "evaluate": {"metrics": []},
    }


def population(total: int, per_round: int, rounds: int = 12) -> Population:
    """Run it. The time is the median over rounds, by the master's own clock."""
    with tempfile.TemporaryDirectory(prefix="flspan-scale-") as name:
        peak = _run(Path(name), experiment(total, per_round, rounds), lambda pid: None)
        seconds = statistics.median(line["round_s"] / line["clients"] for line in _metrics(Path(name)))
    return Population(total, per_round, peak, 1e6 * seconds)


def soak(rounds: int, tables: dict[str, Any]) -> Soak:
    """Run the experiment for so many rounds and look at its memory all the while."""
    points: list[tuple[int, int]] = []
    with tempfile.TemporaryDirectory(prefix="flspan-soak-") as name:
        folder = Path(name)

        def look(pid: int) -> None:
            done, held = _rounds_done(folder), _anonymous(pid)
            if done and held:
                points.append((done, held))

        _run(folder, tables | {"rounds": rounds}, look)
        if (lines := len(list(_metrics(folder)))) != rounds:
            raise RuntimeError(f"{lines} of {rounds} rounds were run")
    return Soak(tuple(points))


def _run(folder: Path, tables: dict[str, Any], look: Callable[[int], None]) -> int:
    """The peak of the tree's memory in bytes; `look` is called with the master's pid a few times a second."""
    (folder / "many.py").write_text(_DATA)
    (folder / "scale.toml").write_text(tomli_w.dumps(tables))
    command = [sys.executable, "-m", "master.cli", "--no-dashboard", "--runs-dir", str(folder / "runs")]
    options = ["--devices", "cpu", "--threads-per-device", "2", str(folder / "scale.toml")]
    with (folder / "errors").open("w") as errors:
        process = subprocess.Popen([*command, *options], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)
        watch, over = TreeMemory(process.pid), threading.Event()

        def watch_rounds() -> None:
            while not over.wait(0.2):
                look(process.pid)

        looking = threading.Thread(target=watch_rounds, daemon=True)
        looking.start()
        code = process.wait()
        over.set()
        looking.join()
        peak = watch.stop()
    if code:
        raise RuntimeError(f"flmaster ended with {code}: {(folder / 'errors').read_text()[-2000:]}")
    return peak


def _metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [
        json.loads(line) for path in folder.glob("runs/*/*/metrics.jsonl") for line in path.read_text().splitlines()
    ]
    return [line for line in lines if line.get("round_s")]


def _anonymous(pid: int) -> int:
    """Memory of the process's own: its share of libraries' pages changes with what else runs on the machine."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


def _rounds_done(folder: Path) -> int:
    for path in folder.glob("runs/*/*/metrics.jsonl"):
        text = path.read_bytes()[-2048:].decode(errors="ignore").strip().splitlines()
        if len(text) > 1 and text[-2].startswith("{"):
            return int(json.loads(text[-2])["round"])
    return 0


def main() -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="a million clients and 10,000 rounds")
    full = parser.parse_args().full
    started = time.perf_counter()
    for total, per_round in [(1_000, 1_000), (100_000, 10_000), *([(1_000_000, 10_000)] if full else [])]:
        found = population(total, per_round)
        print(
            f"{total:,} clients, {per_round:,} a round: {found.peak_bytes / 2**20:,.0f} MB at most, "
            f"{found.client_us:.2f} µs a client",
            flush=True,
        )
    rounds = 10_000 if full else 2_000
    growth = soak(rounds, experiment(100, 100, rounds)).growth_bytes(rounds // 4, rounds * 8 // 10)
    print(f"{rounds:,} rounds of 100 clients: {growth * 1000 / 2**20:+.2f} MB per 1,000 rounds after {rounds // 4:,}")
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
