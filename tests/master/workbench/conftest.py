"""Runs of a real flmaster, once for all tests of this folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOML = """
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
[evaluate]
every = 2
metrics = ["f", "grad_norm"]
[sweep]
seed = [1, 2]
uplink = ["identity", { name = "randk", k = "50%" }]
"""


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with quad.toml and runs/: DIANA with and without Rand-K, two seeds each. Tests only read it."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "quad.toml").write_text(TOML)
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-m", "master.cli", "--no-dashboard", "--devices", "cpu", "--threads-per-device", "1"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [*command, "quad.toml"], cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder
