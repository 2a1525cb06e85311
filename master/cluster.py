"""The shell around the dispatcher: executors on one side, rounds on the other. Everything here is on the event loop.

A round is opened with its cohorts' work; the dispatcher says who runs what; results come back in any order, and each is
counted once. Whoever began the round is called when the last one is here, in the same step of the loop: between two
short rounds every step counts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from fl_core.errors import FlspanError, RunError
from fl_core.execution import wire
from fl_core.execution.choice import Decision
from fl_core.execution.cohort import CohortResult, CohortWork, Skipped
from fl_core.server import Broadcast, Round
from fl_core.session import Session
from master import dispatch_vocabulary as say
from master import events
from master.dispatch_vocabulary import TaskId
from master.dispatcher import Dispatcher
from master.runs import machine_of

Emit = Callable[[events.Event], None]
Take = Callable[[int, CohortResult], None]


class Lane(NamedTuple):
    """A local slot, for whoever runs the local work of a round in its thread.

    Attributes:
        executor: its executor's name.
        execute: runs the only task of a round that sends this.
    """

    executor: str
    execute: Callable[[Broadcast, CohortWork], CohortResult]


Conclude = Callable[[int, CohortResult, Lane], None]
SMALL_BROADCAST_BYTES = 64 << 10
"""A Broadcast of at most this much is packed on the event loop, in less time than it takes to ask a thread."""

Ending = Literal["complete", "given up"] | Exception
Over = Callable[[Ending], None]


class Executor(Protocol):
    """What runs cohorts: a local pool, or one incarnation of a worker. Calls never block; answers come later."""

    id: str
    name: str
    slots: int
    credit: int

    def prepare(self, run: OpenRun) -> None:
        """A run begins: get ready for its tasks."""

    def assign(self, run: OpenRun, work: CohortWork, attempt: int) -> None:
        """Run a cohort of the run's present round."""

    def cancel(self, task: TaskId, attempt: int) -> None:
        """The result is no longer wanted."""

    def forget(self, run: str) -> None:
        """The run is over."""


@dataclass
class OpenRun:
    """A run whose rounds this cluster executes.

    Attributes:
        round: the one being executed; works: its cohorts' tasks, by index.
        take: who takes their results as they come; over: who is told, once, how the round has ended.
        conclude: who is given the result of the round's only task before the event loop, in the thread of a local slot.
    """

    name: str
    session: Session
    decided: dict[str, Decision] = field(default_factory=dict)
    round: Round | None = None
    works: dict[int, CohortWork] = field(default_factory=dict)
    take: Take | None = None
    over: Over | None = None
    conclude: Conclude | None = None
    _packed: tuple[int, asyncio.Future[wire.Packed]] | None = None
    _small: tuple[int, wire.Packed] | None = None

    def small_broadcast(self) -> wire.Packed | None:
        """The present round's Broadcast, packed once for all workers; None: a large one is for a thread."""
        assert self.round is not None
        if self._small is None or self._small[0] != self.round.number:
            if wire.tensor_bytes(self.round.broadcast) > SMALL_BROADCAST_BYTES:
                return None
            self._small = (self.round.number, wire.broadcast_message(self.name, self.round.broadcast))
        return self._small[1]

    async def broadcast_message(self) -> wire.Packed:
        """The present round's Broadcast, packed once for all workers, a large one off the event loop."""
        assert self.round is not None
        if (small := self.small_broadcast()) is not None:
            return small
        if self._packed is None or self._packed[0] != self.round.number:
            packing = asyncio.to_thread(wire.broadcast_message, self.name, self.round.broadcast)
            self._packed = (self.round.number, asyncio.ensure_future(packing))
        return await asyncio.shield(self._packed[1])


class Cluster:
    """Executors and open runs, held together by one dispatcher.

    Args:
        emit: takes the events that observers see.
    """

    def __init__(self, emit: Emit) -> None:
        self.emit = emit
        self.runs: dict[str, OpenRun] = {}
        self.executors: dict[str, Executor] = {}
        self._dispatcher = Dispatcher()
        self._arrived: dict[tuple[str, TaskId, int], CohortResult] = {}
        self._errors: dict[tuple[str, TaskId], FlspanError] = {}
        self._ticker: asyncio.Task[None] | None = None
        self._paused = False

    # --- runs and rounds -----------------------------------------------------------------------------------------

    def open_run(self, name: str, session: Session, decided: Mapping[str, Decision] | None = None) -> None:
        """Make a run known to all executors, present and future.

        Args:
            decided: by machine, whether clients were fused there when the run was last executed.
        """
        self.runs[name] = run = OpenRun(name, session, dict(decided or {}))
        for executor in self.executors.values():
            executor.prepare(run)

    def close_run(self, name: str) -> None:
        """Let go of a run on all executors."""
        run = self.runs.pop(name, None)
        if run is None:
            return
        self._end(run, "given up")
        for executor in self.executors.values():
            executor.forget(name)

    def start_round(
        self,
        name: str,
        round: Round,
        works: Sequence[CohortWork],
        take: Take,
        over: Over,
        conclude: Conclude | None = None,
    ) -> None:
        """Execute a round's cohorts wherever there is room.

        Args:
            take: is given each result with its task's index when it arrives, in any order.
            over: is told how the round has ended: it has all its results, it was given up, or it has failed (a
                UserCodeError or RunError: a client's code raised, or a task was lost with three workers).
            conclude: of a round of one task, may be given its result, in the thread of a local slot that has computed
                it, before `take` is. A copy of such a task is never handed out, so nobody else can have it too.
        """
        run = self.runs[name]
        run.round, run.works = round, {work.index: work for work in works}
        run.take, run.over, run.conclude = take, over, conclude if len(works) == 1 else None
        self._handle(say.RoundOpened(name, round.number, tuple(TaskId(name, round.number, w.index) for w in works)))

    async def run_round(self, name: str, round: Round, works: Sequence[CohortWork]) -> list[CohortResult] | None:
        """`start_round`, and wait: the results, in cohort order. None: it was given up. Raises what it failed with."""
        results: dict[int, CohortResult] = {}
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def over(ending: Ending) -> None:
            if isinstance(ending, Exception):
                done.set_exception(ending)
            else:
                done.set_result(ending == "complete")

        self.start_round(name, round, works, results.__setitem__, over)
        try:
            return [results[work.index] for work in works] if await done else None
        except asyncio.CancelledError:
            self.runs[name].over = None
            self._handle(say.RoundAborted(name, round.number))
            raise

    def give_up_round(self, name: str) -> None:
        """End the run's round under way, if there is one, without what is missing."""
        if name in self.runs:
            self._end(self.runs[name], "given up")

    def _end(self, run: OpenRun, ending: Ending) -> None:
        """The round under way is over: nothing more comes of it. Without one, nothing happens."""
        over, run.over = run.over, None
        if over is None:
            return
        if ending != "complete" and run.round is not None:
            self._handle(say.RoundAborted(run.name, run.round.number))
        run.take = run.conclude = None  # they hold the round's results
        over(ending)

    def pause(self, paused: bool) -> None:
        """Stop handing out tasks, or go on; what runs is not touched."""
        if paused is not self._paused:
            self._paused = paused
            self._handle(say.DispatchPaused() if paused else say.DispatchResumed())
            self.emit(events.Paused(time_s=time.time()) if paused else events.Resumed(time_s=time.time()))

    @property
    def paused(self) -> bool:
        """Whether tasks are being held back."""
        return self._paused

    # --- executors -----------------------------------------------------------------------------------------------

    def join(self, executor: Executor) -> None:
        """A new executor may take tasks."""
        if self._ticker is None:
            self._ticker = asyncio.get_running_loop().create_task(self._tick())
        self.executors[executor.id] = executor
        self._handle(say.ExecutorJoined(executor.id, executor.slots, executor.credit))

    def lose(self, executor: Executor) -> None:
        """An executor is gone; its tasks go elsewhere, and whatever it still sends is late."""
        if self.executors.pop(executor.id, None) is not None:
            self._handle(say.ExecutorLost(executor.id))
            self._arrived = {key: result for key, result in self._arrived.items() if key[0] != executor.id}

    def drain(self, executor: Executor) -> None:
        """An executor takes no new tasks."""
        self._handle(say.ExecutorDraining(executor.id))

    def allow(self, executor: Executor, credit: int) -> None:
        """An executor may hold so many tasks from now on."""
        self._handle(say.CreditChanged(executor.id, credit))

    def result(self, executor: Executor, task: TaskId, attempt: int, result: CohortResult) -> bool:
        """A whole result arrived. Whether it is the one that counts."""
        self._arrived[executor.id, task, attempt] = result
        self._handle(say.ResultReceived(executor.id, task, attempt))
        return self._arrived.pop((executor.id, task, attempt), None) is None

    def decided(self, executor: Executor, name: str, decision: Decision) -> None:
        """An executor has found out whether to fuse a run's clients. It is told, and recorded with the run."""
        if name in self.runs:
            self.runs[name].decided[machine_of(executor.name)] = decision  # for workers that join later
            self.emit(events.FusingDecided(time_s=time.time(), run=name, executor=executor.name, **decision))

    def failed(self, executor: Executor, task: TaskId, attempt: int, error: FlspanError) -> None:
        """A task's code raised."""
        self._errors[executor.id, task] = error
        self._handle(say.TaskFailed(executor.id, task, attempt, str(error)))
        self._errors.pop((executor.id, task), None)

    def returned(self, executor: Executor, task: TaskId, attempt: int) -> None:
        """An executor let go of a task without a result."""
        self._handle(say.TaskReturned(executor.id, task, attempt))

    def tell_counted(self, task: TaskId, executor: str, task_s: float, time_s: float) -> None:
        """The executor of this name has run a task in so much time, and its result counts; by the time of day."""
        run, round, cohort = task
        self.emit(
            events.TaskFinished(time_s=time_s, run=run, round=round, task=cohort, executor=executor, seconds_s=task_s)
        )

    def held(self, executor: str) -> int:
        """Tasks an executor holds: running, or waiting at it."""
        return self._dispatcher.held(executor)

    async def close(self) -> None:
        """Stop the clock. Executors are closed by whoever made them."""
        if self._ticker is not None:
            self._ticker.cancel()

    # --- what the dispatcher decides -----------------------------------------------------------------------------

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self._handle(say.Tick(time.monotonic()))

    def _handle(self, event: say.Event) -> None:
        for command in self._dispatcher.handle(event):
            self._carry_out(command)

    def _carry_out(self, command: say.Command) -> None:
        match command:
            case say.Assign(executor, task, attempt):
                run = self.runs[task.run]
                self.executors[executor].assign(run, run.works[task.cohort], attempt)
            case say.Accept(executor, task, attempt):
                self._accept(executor, task, self._arrived.pop((executor, task, attempt)))
            case say.Cancel(executor, task, attempt):
                if executor in self.executors:
                    self.executors[executor].cancel(task, attempt)
            case say.RoundComplete(run=name):
                self._end(self.runs[name], "complete")
            case say.Fail(executor, task, report):
                self._end(self.runs[task.run], self._errors.get((executor, task)) or RunError(report))
            case say.Poisoned(task, executors):
                self._poisoned(task, len(executors))
            case say.Waiting(tasks):
                self.emit(events.WaitingForWorkers(time_s=time.time(), tasks=tasks))
            case say.Discard():
                pass

    def _poisoned(self, task: TaskId, losses: int) -> None:
        """A task that kills workers: its clients are skipped, or the run ends."""
        run = self.runs[task.run]
        clients = run.works[task.cohort].clients
        named = f"client {clients[0]}" if len(clients) == 1 else f"clients {clients[0]}…{clients[-1]}"
        method = type(run.session.algorithm).__name__
        lost = f"round {task.round}, {named} ({method}): {losses} workers were lost while running this task"
        if run.session.experiment.on_error == "stop":
            self._end(run, RunError(f"{lost}; it is not tried again. What they said last is in their logs"))
            return
        if run.take is not None:
            run.take(task.cohort, CohortResult.of_nobody(Skipped(i, lost) for i in clients))
        self._handle(say.TaskSkipped(task))

    def _accept(self, executor: str, task: TaskId, result: CohortResult) -> None:
        take = self.runs[task.run].take
        if take is not None:
            take(task.cohort, result)
        took_s = sum(result.metrics.get("seconds_s", ()))
        self.tell_counted(task, self.executors[executor].name, took_s, time.time())
