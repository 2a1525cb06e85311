"""The shell around the dispatcher: scripted executors take tasks, and the test decides when and what they answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import torch

from fl_core.errors import RunError, UserCodeError
from fl_core.execution.cohort import CohortResult, CohortWork
from fl_core.server import Broadcast, Round
from fl_core.session import open_session
from master import events
from master.cluster import Cluster, OpenRun
from master.dispatch_vocabulary import TaskId
from tests.conftest import small_experiment

SESSION = open_session(small_experiment())


class Scripted:
    """An executor that notes what it is told."""

    def __init__(self, name: str, slots: int = 1) -> None:
        self.id = self.name = name
        self.slots = self.credit = slots
        self.tasks: list[tuple[TaskId, int]] = []
        self.cancelled: list[tuple[TaskId, int]] = []
        self.runs: list[str] = []
        self.forgotten: list[str] = []

    def prepare(self, run: OpenRun) -> None:
        self.runs.append(run.name)

    def assign(self, run: OpenRun, work: CohortWork, attempt: int) -> None:
        self.tasks.append((TaskId(run.name, work.round, work.index), attempt))

    def cancel(self, task: TaskId, attempt: int) -> None:
        self.cancelled.append((task, attempt))

    def forget(self, run: str) -> None:
        self.forgotten.append(run)


def result(task: TaskId, mark: float = 0.0) -> CohortResult:
    """Of a cohort of one client whose id is the task's."""
    return CohortResult((task.cohort,), {}, {}, {}, {"m": [mark], "seconds_s": [0.5]})


class Scene:
    """A cluster with one open run."""

    def __init__(self) -> None:
        self.told: list[events.Event] = []
        self.cluster = Cluster(self.told.append)
        self.cluster.open_run("r", SESSION)

    def join(self, *executors: Scripted) -> None:
        for executor in executors:
            self.cluster.join(executor)

    def begin(self, tasks: int, number: int = 1) -> asyncio.Task[list[CohortResult] | None]:
        """A round of so many cohorts, under way."""
        cohorts = tuple((k,) for k in range(tasks))
        round = Round(number, cohorts, Broadcast(number, torch.zeros(1), {}))
        works = [CohortWork(number, k, cohort, {}, {}) for k, cohort in enumerate(cohorts)]
        return asyncio.create_task(self.cluster.run_round("r", round, works))

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.told]


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    """Nobody has joined yet."""
    made = Scene()
    yield made
    await made.cluster.close()


async def turn() -> None:
    """Let whoever is ready go on."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_results_come_back_in_cohort_order(scene: Scene) -> None:
    """However they arrive: what is summed next must not depend on it."""
    a, b = Scripted("a", 2), Scripted("b", 2)
    scene.join(a, b)
    round = scene.begin(4)
    await turn()
    for executor in (b, a):
        for task, attempt in reversed(executor.tasks):
            scene.cluster.result(executor, task, attempt, result(task))
    assert [found.clients for found in await round or ()] == [(0,), (1,), (2,), (3,)]
    assert scene.kinds() == ["TaskFinished"] * 4


async def test_a_result_counts_once(scene: Scene) -> None:
    """Said twice, or by an incarnation that is gone, it changes nothing; the first that counts is the one kept."""
    a, b = Scripted("a"), Scripted("b")
    scene.join(a)
    round = scene.begin(2)
    await turn()
    (first, attempt), *_ = a.tasks
    scene.cluster.result(a, first, attempt, result(first, mark=1))
    scene.cluster.result(a, first, attempt, result(first, mark=2))
    second, attempt = a.tasks[1]
    scene.cluster.lose(a)
    scene.cluster.result(a, second, attempt, result(second, mark=3))
    assert not round.done()
    scene.join(b)
    ((again, later),) = b.tasks
    assert (again, later) == (second, attempt + 1)
    scene.cluster.result(b, again, later, result(again, mark=4))
    assert [found.m for found in await round or ()] == [(1,), (4,)]


async def test_a_failing_client_ends_the_round_with_its_error(scene: Scene) -> None:
    """The very error, with file and line; the others are told to stop, and a next round can begin."""
    a = Scripted("a", 2)
    scene.join(a)
    round = scene.begin(2)
    await turn()
    (first, attempt), (second, _) = a.tasks
    error = UserCodeError("ZeroDivisionError: division by zero", file="hers.py", line=3, client=0, worker="a")
    scene.cluster.failed(a, first, attempt, error)
    with pytest.raises(UserCodeError) as caught:
        await round
    assert caught.value is error
    assert a.cancelled == [(second, 1)]
    scene.cluster.returned(a, second, 1)
    following = scene.begin(1, number=2)
    await turn()
    task, attempt = a.tasks[-1]
    assert task.round == 2
    scene.cluster.result(a, task, attempt, result(task))
    await following


async def test_a_task_that_takes_three_workers_down_is_not_tried_again(scene: Scene) -> None:
    """The run fails and says which clients it was."""
    round = scene.begin(1)
    for name in "abc":
        executor = Scripted(name)
        scene.join(executor)
        while not executor.tasks:  # before the third it rests for two ticks of the cluster's clock
            await asyncio.sleep(0.01)
        scene.cluster.lose(executor)
    with pytest.raises(RunError, match=r"round 1, client 0 \(FedAvg\): 3 workers were lost"):
        await round


async def test_a_round_waits_for_someone_to_run_it(scene: Scene) -> None:
    """Said once, not at every event; the first to join takes the tasks."""
    round = scene.begin(2)
    await turn()
    assert scene.told == [events.WaitingForWorkers(time_s=scene.told[0].time_s, tasks=2)]
    late = Scripted("late", 2)
    scene.join(late)
    for task, attempt in late.tasks:
        scene.cluster.result(late, task, attempt, result(task))
    await round
    assert scene.kinds() == ["WaitingForWorkers", "TaskFinished", "TaskFinished"]


async def test_a_stopped_round_is_given_up(scene: Scene) -> None:
    """Cancelling it cancels its tasks where they run; closing the run lets go of it everywhere."""
    a = Scripted("a", 2)
    scene.join(a)
    round = scene.begin(3)
    await turn()
    round.cancel()
    with pytest.raises(asyncio.CancelledError):
        await round
    assert [task.cohort for task, _ in a.cancelled] == [0, 1]
    scene.cluster.close_run("r")
    scene.cluster.close_run("r")
    assert a.forgotten == ["r"]


async def test_closing_a_run_ends_its_round(scene: Scene) -> None:
    """Whoever waits for it is not left waiting."""
    a = Scripted("a")
    scene.join(a)
    round = scene.begin(1)
    await turn()
    scene.cluster.close_run("r")
    assert await round is None
    assert [task.cohort for task, _ in a.cancelled] == [0]


async def test_a_round_can_be_given_up_from_outside(scene: Scene) -> None:
    """Whoever waits for it gets nothing, its tasks are cancelled, the next round runs; without one it is no error."""
    a = Scripted("a")
    scene.join(a)
    scene.cluster.give_up_round("r")
    round = scene.begin(2)
    await turn()
    scene.cluster.give_up_round("r")
    scene.cluster.give_up_round("r")
    assert await round is None
    ((given_up, attempt),) = a.tasks
    assert [task for task, _ in a.cancelled] == [given_up]
    following = scene.begin(1, number=2)
    await turn()
    scene.cluster.result(a, given_up, attempt, result(given_up, mark=1))
    task, attempt = a.tasks[-1]
    scene.cluster.result(a, task, attempt, result(task, mark=2))
    assert [found.m for found in await following or ()] == [(2,)]


async def test_a_pause_holds_tasks_back(scene: Scene) -> None:
    """What runs goes on; nothing new is handed out until it is over."""
    a = Scripted("a")
    scene.join(a)
    round = scene.begin(2)
    await turn()
    scene.cluster.pause(True)
    scene.cluster.pause(True)
    task, attempt = a.tasks[0]
    scene.cluster.result(a, task, attempt, result(task))
    assert len(a.tasks) == 1
    scene.cluster.pause(False)
    task, attempt = a.tasks[1]
    scene.cluster.result(a, task, attempt, result(task))
    await round
    assert scene.kinds() == ["Paused", "TaskFinished", "Resumed", "TaskFinished"]


async def test_a_round_without_clients_is_done_at_once(scene: Scene) -> None:
    """Poisson sampling may draw nobody."""
    assert await scene.begin(0) == []


async def test_a_draining_executor_gets_nothing_new(scene: Scene) -> None:
    """What it holds it may finish; what it hands back goes to others."""
    a, b = Scripted("a", 2), Scripted("b", 1)
    scene.join(a)
    round = scene.begin(2)
    await turn()
    scene.cluster.drain(a)
    (first, attempt), (second, later) = a.tasks
    scene.cluster.returned(a, second, later)
    scene.join(b)
    assert [task for task, _ in b.tasks] == [second]
    scene.cluster.result(a, first, attempt, result(first))
    scene.cluster.result(b, *b.tasks[0], result(second))
    assert len(await round) == 2
    assert len(a.tasks) == 2


async def test_executors_hear_of_a_run_when_it_opens(scene: Scene) -> None:
    """So that they load their data while the master begins the first round."""
    a = Scripted("a")
    scene.join(a)
    scene.cluster.open_run("s", SESSION)
    assert a.runs == ["s"]
