"""Runs made by a real flmaster, once for all tests of this folder, and flctl called as from a shell."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from master.flctl import main
from tests.master.quadratic_runs import QUADRATIC, flmaster

TOML = (
    QUADRATIC
    + """[evaluate]
every = 2
metrics = ["f", "grad_norm", "distance"]
[sweep]
seed = [1, 2]
[[run]]
[[run]]
uplink = { name = "randk", k = "50%" }
"""
)

Flctl = Callable[..., Result]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with quad.toml and runs/: DIANA with and without Rand-K, two seeds each."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "quad.toml").write_text(TOML)
    flmaster(folder, "quad.toml")
    return folder


@pytest.fixture
def runs_dir(made: Path, tmp_path: Path) -> Path:
    """A copy of the runs that a test may do with as it likes."""
    return Path(shutil.copytree(made / "runs", tmp_path / "runs"))


@pytest.fixture
def flctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flctl:
    """`flctl("runs", "--sort", "f")` in `tmp_path`, with its output, errors and exit code."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object, **more: object) -> Result:
        return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False, **more)  # type: ignore[arg-type]

    return call


@pytest.fixture
def rerun() -> Callable[..., None]:
    """`rerun(folder, *words)`: flmaster with these words."""
    return flmaster
