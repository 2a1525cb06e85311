"""One experiment, disturbed in every way we can think of: its folder, its undisturbed end, and masters to run it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Daemons, Finished, Process
from tests.system.conftest import EXACT, MasterHere

HERE = Path(__file__).parent
ROUNDS, TASKS, CLIENTS_A_TASK = 10, 20, 2
ALL_TASKS = [(round, task) for round in range(1, ROUNDS + 1) for task in range(TASKS)]


@dataclass(frozen=True)
class Undisturbed:
    """What a run must end with, whatever happens to it."""

    folder: Path
    model_sha256: str
    metrics: list[dict[str, float]]

    def must_be(self, found: Finished) -> None:
        """The same bytes, each round measured once with the same numbers, each task counted once."""
        assert found.model_sha256 == self.model_sha256
        assert exact(found) == self.metrics
        done = [(event["round"], event["task"]) for event in found.events("TaskFinished")]
        assert sorted(done) == ALL_TASKS


def resident_bytes(pid: int) -> int:
    """The process's resident memory that is its own: not the pages of libraries, which come as they are first used."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def exact(run: Finished) -> list[dict[str, float]]:
    """The metrics that no cluster may change."""
    return [{name: line[name] for name in EXACT if name in line} for line in run.metrics]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment file and its method."""
    at = tmp_path_factory.mktemp("chaos") / "experiment"
    at.mkdir()
    for name in ("chaos.toml", "busy.py"):
        shutil.copy(HERE / name, at)
    return at


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Undisturbed:
    """The run by eight local threads of this process, which nobody disturbs."""

    async def run() -> Finished:
        master = MasterHere(folder / "chaos.toml", folder / "undisturbed")
        assert await master.start("", devices="cpu", threads_per_device=8).ended() == 0
        return master.run

    found = asyncio.run(run())
    return Undisturbed(folder, found.model_sha256, exact(found))


@pytest.fixture
async def master(folder: Path, tmp_path: Path) -> AsyncIterator[Callable[[], MasterHere]]:
    """Makes masters in this process, each with a runs folder of its own; none outlives its test."""
    made: list[MasterHere] = []

    def make() -> MasterHere:
        made.append(MasterHere(folder / "chaos.toml", tmp_path / f"runs-{len(made)}"))
        return made[-1]

    yield make
    for each in made:
        if each.task is not None and not each.task.done():
            await each.stop()


@pytest.fixture(scope="module")
def workers(module_daemons: Daemons, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Process]]:
    """Four workers that outlive every test of their file: after each, they must still be there."""
    folder = tmp_path_factory.mktemp("elsewhere")
    started = [module_daemons.worker(folder) for _ in range(4)]
    module_daemons.listening(*started)
    yield started
    for worker in started:
        assert worker.popen.poll() is None, worker.said[-2000:]
