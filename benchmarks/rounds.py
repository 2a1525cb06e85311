"""What a round costs on this machine: an experiment run with no worker, and with workers on loopback.

    python benchmarks/rounds.py [EXPERIMENT.toml]

Every run is a process of its own, in a new runs folder; nothing is warmed up but the disk's cache.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WAYS = {
    "reference": ["--reference"],
    "1 local thread": ["--devices", "cpu", "--threads-per-device", "1"],
    "2 local threads": ["--devices", "cpu", "--threads-per-device", "2"],
    "2 workers, 1 thread each": ["--spawn", "2", "--threads-per-device", "1"],
}


def measure(experiment: Path, options: list[str], runs: Path) -> tuple[float, list[dict[str, Any]]]:
    """Seconds from the start of the process to the end of round 1, and the metrics of every round."""
    command = [sys.executable, "-m", "master.cli", "--no-dashboard", "--runs-dir", str(runs), *options, str(experiment)]
    started = time.monotonic()
    first = 0.0
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("round 1/") and not first:
                first = time.monotonic() - started
    if process.returncode:
        raise SystemExit(f"flmaster ended with {process.returncode}")
    rounds = [json.loads(line) for path in runs.glob("*/*/metrics.jsonl") for line in path.open()]
    return first, [values for values in rounds if values.get("round", 0) > 0]


def main() -> None:
    """Print one line for each way to run it."""
    experiment = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "examples" / "digits.toml").resolve()
    print(f"{experiment.name}\n{'':26}{'first round':>12}{'median round':>14}{'clients/s':>11}")
    for name, options in WAYS.items():
        with tempfile.TemporaryDirectory(prefix="flspan-bench-") as folder:
            first, rounds = measure(experiment, options, Path(folder))
        round_s = statistics.median(values["round_s"] for values in rounds)
        clients = sum(values["clients"] for values in rounds) / sum(values["round_s"] for values in rounds)
        print(f"{name:26}{first:10.2f} s{1000 * round_s:11.1f} ms{clients:11.0f}", flush=True)


if __name__ == "__main__":
    main()
