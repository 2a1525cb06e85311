"""Runs of a real flmaster, once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.master.quadratic_runs import QUADRATIC, flmaster

TOML = (
    QUADRATIC
    + """[evaluate]
every = 2
metrics = ["f", "grad_norm"]
[sweep]
seed = [1, 2]
uplink = ["identity", { name = "randk", k = "50%" }]
"""
)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with quad.toml and runs/: DIANA with and without Rand-K, two seeds each. Tests only read it."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "quad.toml").write_text(TOML)
    flmaster(folder, "quad.toml")
    return folder
