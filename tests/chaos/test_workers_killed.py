"""Workers that are killed, again and again or all together, or frozen: the run ends with the undisturbed bytes."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.conftest import TASKS, Undisturbed
from tests.conftest import Daemons, Process
from tests.system.conftest import MasterHere

pytestmark = [pytest.mark.net, pytest.mark.chaos, pytest.mark.timeout(300)]

Make = Callable[[], MasterHere]


class Crew:
    """Four workers that are started again on their ports when they are killed."""

    def __init__(self, daemons: Daemons, folder: Path) -> None:
        self._daemons = daemons
        self._folder = folder
        self.members = [daemons.worker(folder) for _ in range(4)]
        self.kills = 0
        daemons.listening(*self.members)

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(worker.address for worker in self.members)

    def kill(self, which: int) -> None:
        self.members[which].kill()
        self.kills += 1

    def start(self, which: int) -> Process:
        """Begin it again; it listens when it says so (`is_up`)."""
        self.members[which] = self._daemons.worker(self._folder, port=self.members[which].port)
        return self.members[which]

    def is_up(self, which: int) -> bool:
        return self.members[which].popen.poll() is None and self.members[which].has_begun()


@pytest.fixture(scope="module")
def crew(module_daemons: Daemons, tmp_path_factory: pytest.TempPathFactory) -> Crew:
    """Shared by the tests of this file, each of which leaves all four up or starting."""
    return Crew(module_daemons, tmp_path_factory.mktemp("elsewhere"))


async def all_up(crew: Crew) -> None:
    """Wait for all four."""
    while not all(crew.is_up(which) for which in range(4)):
        await asyncio.sleep(0.02)  # between two looks


async def test_one_of_four_dies_at_a_third_of_a_round(crew: Crew, undisturbed: Undisturbed, master: Make) -> None:
    """SIGKILL when 30 % of the tasks of round 2 are done: its tasks run elsewhere, each is counted once."""
    await all_up(crew)
    run = master().start("", workers=crew.addresses)
    await run.until_event("TaskFinished", count=round(0.3 * TASKS), round=2)
    crew.kill(1)
    assert (await run.until_event("WorkerLost"))["name"] == crew.addresses[1]
    assert await run.ended() == 0
    undisturbed.must_be(run.run)
    crew.start(1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(20))
async def test_a_killer_with_a_mean_life_of_2_s(seed: int, crew: Crew, undisturbed: Undisturbed, master: Make) -> None:
    """Every worker dies at a random time (exponential, mean 2 s from when it takes part) and is started again."""
    await all_up(crew)
    run = master().start("", "algorithm.step_s=0.01", workers=crew.addresses)
    source = random.Random(seed)

    async def haunt(which: int) -> None:
        for lives in itertools.count(1):
            await run.until(partial(has_come, run, crew.addresses[which], lives), "a worker to take part")
            await asyncio.sleep(source.expovariate(1 / 2.0))  # its life
            crew.kill(which)
            crew.start(which)

    killers = [asyncio.create_task(haunt(which)) for which in range(4)]
    try:
        assert await run.ended(200) == 0  # a worker lives hardly longer than it takes to start one
    finally:
        for killer in killers:
            killer.cancel()
    undisturbed.must_be(run.run)
    assert run.run.events("WorkerLost")


@pytest.mark.soak
async def test_all_workers_are_gone_for_10_s(crew: Crew, undisturbed: Undisturbed, master: Make) -> None:
    """The run says that it waits, waits, and goes on where it was."""
    await all_up(crew)
    run = master().start("", workers=crew.addresses)
    await run.until_event("TaskFinished", count=3, round=3)
    for which in range(4):
        crew.kill(which)
    waiting = await run.until_event("WaitingForWorkers")
    await asyncio.sleep(10)  # how long they are gone
    for which in range(4):
        crew.start(which)
    returned = await run.until_event("WorkerReturned")
    assert returned["time_s"] - waiting["time_s"] >= 10
    assert await run.ended() == 0
    undisturbed.must_be(run.run)


@pytest.mark.soak
async def test_one_is_frozen_for_20_s(crew: Crew, undisturbed: Undisturbed, master: Make) -> None:
    """SIGSTOP: given up within 6 s; thawed, it is taken back and what it had is void."""
    await all_up(crew)
    run = master().start("", "algorithm.step_s=0.1", workers=crew.addresses)
    stopped = await run.until_event("TaskFinished", count=3, round=1)
    crew.members[2].signal(signal.SIGSTOP)
    try:
        lost = await run.until_event("WorkerLost")
        assert lost["name"] == crew.addresses[2]
        assert lost["time_s"] - stopped["time_s"] < 6.5
        await asyncio.sleep(20 - (lost["time_s"] - stopped["time_s"]))  # how long it is frozen
    finally:
        crew.members[2].signal(signal.SIGCONT)
    assert (await run.until_event("WorkerReturned"))["name"] == crew.addresses[2]
    assert await run.ended() == 0
    undisturbed.must_be(run.run)


async def test_nothing_is_left_behind(crew: Crew, undisturbed: Undisturbed, master: Make) -> None:
    """After a run with a loss no task of the event loop and no descriptor of the master is left."""
    await all_up(crew)
    loop_tasks, descriptors = len(asyncio.all_tasks()), _descriptors()
    run = master().start("", workers=crew.addresses)
    await run.until_event("TaskFinished", count=5, round=1)
    crew.kill(0)
    assert await run.ended() == 0
    crew.start(0)
    assert len(asyncio.all_tasks()) <= loop_tasks
    assert _descriptors() <= descriptors


def has_come(run: MasterHere, address: str, times: int) -> bool:
    """Whether that worker took part so often, in one life after another."""
    came = run.run.events("WorkerJoined", "WorkerReturned") if run.is_open else []
    return sum(event["name"] == address for event in came) >= times


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
