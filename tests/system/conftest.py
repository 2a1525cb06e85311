"""A user's folder with her experiment, her files and her table: the material of the whole runs."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

HERS = Path(__file__).parent / "hers"


def her_folder(at: Path) -> Path:
    """Her experiment and her files, in a folder that no worker is started in."""
    shutil.copytree(HERS, at, ignore=shutil.ignore_patterns("__pycache__"))
    source = random.Random(3)
    rows = [[str(i % 2), *(f"{source.gauss(0, 1):.3f}" for _ in range(5))] for i in range(14)]
    (at / "numbers.csv").write_text("".join(",".join(row) + "\n" for row in rows), encoding="utf-8")
    return at


@pytest.fixture(scope="module")
def make_her_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Makes such a folder."""
    return lambda: her_folder(tmp_path_factory.mktemp("hers") / "experiment")


class Gates:
    """Rounds that clients of gated.py and scaffold_sketch.py wait in, in processes that know of this folder."""

    def __init__(self, folder: Path) -> None:
        self.env = {"FLSPAN_TEST_GATES": str(folder)}
        self._folder = folder

    def close(self, name: str, round: int) -> None:
        """From now on whoever comes to this round waits."""
        (self._folder / f"{name}-{round}").touch()

    def open(self, name: str, round: int) -> None:
        """Let them go on."""
        (self._folder / f"{name}-{round}").unlink()

    def held_by(self, name: str, round: int) -> set[int]:
        """Processes in which somebody waits or has waited there."""
        return {int(path.name.split("held-by-")[1].split(".")[0]) for path in self._folder.glob(f"{name}-{round}.*")}

    def is_holding(self, pid: int, name: str, round: int) -> bool:
        """Whether somebody waits there in that process."""
        return pid in self.held_by(name, round)


@pytest.fixture(scope="module")
def gates(tmp_path_factory: pytest.TempPathFactory) -> Gates:
    """All open at first."""
    return Gates(tmp_path_factory.mktemp("gates"))
