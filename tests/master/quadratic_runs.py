"""Runs of a real flmaster on a small quadratic, for tests that read what runs leave."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

QUADRATIC = """
name = "quad"
rounds = 8
[data]
name = "quadratic"
d = 6
samples_per_client = 6
spectrum = "each"
[model]
name = "linear"
bias = false
loss = "mse"
dtype = "float64"
[clients]
total = 4
[local]
steps = 1
gradient = "full"
optimizer = { name = "sgd", lr = 1.0 }
[server]
optimizer = { name = "sgd", lr = 0.3 }
[algorithm]
name = "diana"
"""
"""DIANA on four clients; a test adds what is evaluated and swept."""


def flmaster(folder: Path, *arguments: str) -> None:
    """Run flmaster in a folder, as a user does; it must succeed."""
    command = [sys.executable, "-m", "master.cli", "--no-dashboard", "--devices", "cpu", "--threads-per-device", "1"]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
