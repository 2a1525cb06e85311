"""A user's folder with her experiment, her files and her table: the material of the whole runs."""

from __future__ import annotations

import asyncio
import io
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fl_core.experiment.reading import read_experiments
from master.daemon import Master
from master.options import MasterOptions
from tests.conftest import PATIENCE_S, Finished

HERS = Path(__file__).parent / "hers"
EXACT = (
    "round",
    "clients",
    "oracle_calls",
    "bits_up",
    "bits_down",
    "direction_norm",
    "loss_train",
    "loss",
    "grad_norm",
)
"""The metrics of a round that no interruption may change."""


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
        for path in self._folder.glob(f"{name}-{round}.*"):
            path.unlink()
        (self._folder / f"{name}-{round}").touch()

    def open(self, name: str, round: int) -> None:
        """Let them go on."""
        (self._folder / f"{name}-{round}").unlink()

    def is_holding(self, pid: int, name: str, round: int) -> bool:
        """Whether somebody waits there, or has waited, in that process."""
        return any(self._folder.glob(f"{name}-{round}.held-by-{pid}.*"))


@pytest.fixture(scope="module")
def gates(tmp_path_factory: pytest.TempPathFactory) -> Gates:
    """All open at first."""
    return Gates(tmp_path_factory.mktemp("gates"))


def master_options(runs: Path, **changed: Any) -> MasterOptions:
    """Those of a master with neither local threads nor workers, but for what is changed."""
    given: dict[str, Any] = {
        "workers": (),
        "devices": "none",
        "threads_per_device": 1,
        "reference": False,
        "data_root": None,
        "runs_dir": runs,
        "resume": True,
        "dashboard": False,
        "secret": None,
        "lz4": False,
        "command_line": (),
    }
    return MasterOptions(**(given | changed))


@dataclass
class MasterHere:
    """A master in this process, which saves the test the time to import torch; its workers are real processes."""

    experiment: Path
    runs: Path
    out: io.StringIO = field(default_factory=io.StringIO)
    master: Master | None = None
    task: asyncio.Task[int] | None = None

    def start(self, label: str, *overrides: str, **options: Any) -> MasterHere:
        """Begin one run of the experiment file, the one with that label."""
        self.master = Master(master_options(self.runs, **options), self.out)
        chosen = [found for found in read_experiments(self.experiment, overrides) if found.label == label]
        self.task = asyncio.create_task(self.master.run(chosen))
        return self

    async def until(self, condition: Callable[[], Any], what: str) -> Any:
        """What the condition gives once it is true of it, while the master goes on."""
        assert self.task is not None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_S
        while not (found := condition()):
            if self.task.done() or loop.time() > deadline:
                pytest.fail(f"in vain waited for {what}; the master said: {self.out.getvalue()[-2000:]}")
            await asyncio.sleep(0.01)  # between two looks
        return found

    async def until_event(self, kind: str, count: int = 1, **fields: Any) -> dict[str, Any]:
        """The count-th event of that kind with these fields."""

        def seen() -> list[dict[str, Any]]:
            found = (
                [event for event in self.run.events(kind) if fields.items() <= event.items()] if self.is_open else []
            )
            return found[count - 1 :]

        event: dict[str, Any] = (await self.until(seen, f"{kind} {fields}"))[0]
        return event

    async def ended(self, patience_s: float = PATIENCE_S) -> int:
        """Its exit code."""
        assert self.task is not None
        async with asyncio.timeout(patience_s):
            return await self.task

    async def stop(self) -> int:
        """Its exit code after a stop."""
        assert self.master is not None
        self.master.stop("the test has seen enough", 15)
        return await self.ended()

    def has_warned(self) -> bool:
        """Whether a warning is in its log."""
        return "warning: " in self.out.getvalue()

    @property
    def is_open(self) -> bool:
        return bool(Finished.all_in(self.runs))

    @property
    def run(self) -> Finished:
        (run,) = Finished.all_in(self.runs).values()
        return run


@pytest.fixture
def master_here(make_her_folder: Callable[[], Path], tmp_path: Path) -> Callable[[], MasterHere]:
    """Makes one, with a runs folder of its own."""
    hers = make_her_folder()
    made: list[MasterHere] = []

    def make() -> MasterHere:
        made.append(MasterHere(hers / "matrix.toml", tmp_path / f"runs-{len(made)}"))
        return made[-1]

    return make
