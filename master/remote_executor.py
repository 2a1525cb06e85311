"""One incarnation of a worker as an executor: it is kept supplied, and its results are taken in."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from fl_core.algorithm import Algorithm
from fl_core.errors import FlspanError, UserCodeError
from fl_core.execution import wire
from fl_core.execution.cohort import CohortResult, CohortWork
from fl_core.state import fields_of
from master.cluster import Cluster, OpenRun
from master.dispatch_vocabulary import TaskId
from protocol import messages
from protocol.errors import ConnectionLostError, MessageError, ProtocolError
from protocol.fields import Report, Source
from protocol.link import Link


@dataclass
class _RunOnWorker:
    """What this incarnation of the worker holds of a run."""

    ready: asyncio.Event = field(default_factory=asyncio.Event)
    has_data: bool = False
    round: int = -1
    shards: set[int] = field(default_factory=set)


class RemoteExecutor:
    """One incarnation of a worker: an executor until its link ends.

    Attributes:
        has_served: it has set up a run, so it did not just send us away.
    """

    def __init__(self, cluster: Cluster, link: Link, address: str, number: int) -> None:
        peer = link.peer
        assert peer is not None
        self.id = f"{address}#{number}"
        self.name = address
        self.info = peer
        self.slots = peer.slots
        self.credit = peer.slots + 1
        self.link = link
        self._cluster = cluster
        self._runs: dict[str, _RunOnWorker] = {}
        self._outgoing: asyncio.Queue[tuple[OpenRun, CohortWork, int]] = asyncio.Queue()
        self.has_served = False

    # --- as the cluster sees it ----------------------------------------------------------------------------------

    def prepare(self, run: OpenRun) -> None:
        """Send the experiment, the user's files, and what the data's digest must be."""
        if run.name in self._runs:
            return
        self._runs[run.name] = _RunOnWorker()
        self._tell(setup_message(run))

    def assign(self, run: OpenRun, work: CohortWork, attempt: int) -> None:
        """Queue the task; what it needs and the worker lacks is sent before it."""
        self.prepare(run)
        self._outgoing.put_nowait((run, work, attempt))

    def cancel(self, task: TaskId, attempt: int) -> None:
        """Tell the worker; it answers in any case."""
        self._tell(messages.Cancel(task.run, task.round, [(task.cohort, attempt)]))

    def forget(self, run: str) -> None:
        """The worker may free what it keeps for the run."""
        state = self._runs.pop(run, None)
        if state is not None:
            state.ready.set()  # a task of it that waits for the worker to be ready holds up those of the next run
            self._tell(messages.Forget(run))

    def _tell(self, message: messages.Message) -> None:
        with suppress(ConnectionLostError):  # `serve` notices, and all that this worker held goes elsewhere
            self.link.send_soon(message)

    # --- what moves ----------------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Send and receive until the link ends. Raises the ProtocolError that ended it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send())
            group.create_task(self._receive())

    async def ready(self, run: str) -> None:
        """Wait until the worker has set the run up."""
        await self._runs[run].ready.wait()

    async def _send(self) -> None:
        while True:
            run, work, attempt = await self._outgoing.get()
            if not await self._send_task(run, work, attempt):
                self._cluster.returned(self, TaskId(run.name, work.round, work.index), attempt)

    async def _send_task(self, run: OpenRun, work: CohortWork, attempt: int) -> bool:
        """Send a task, and before it what the worker lacks. False: its round or its run ended meanwhile."""
        state = self._runs.get(run.name)
        if state is None:
            return False
        await state.ready.wait()
        # Asked anew before each send: after a Forget nothing of the run may follow.
        if self._is_wanted(run, state, work) and state.round != work.round:
            broadcast = await run.broadcast_message()
            if self._is_wanted(run, state, work):
                await self.link.send(*broadcast)
                state.round = work.round
        lacking = [] if state.has_data else [i for i in work.clients if i not in state.shards]
        for i in lacking:
            if self._is_wanted(run, state, work):
                await self.link.send(*wire.shard_message(run.name, i, run.session.problem.shard(i)))
                state.shards.add(i)
        if not self._is_wanted(run, state, work):
            return False
        await self.link.send(*wire.task_message(run.name, work, attempt))
        return True

    def _is_wanted(self, run: OpenRun, state: _RunOnWorker, work: CohortWork) -> bool:
        present = run.round is not None and run.round.number == work.round
        return present and self._runs.get(run.name) is state

    async def _receive(self) -> None:
        while True:
            message, buffers = await self.link.receive()
            match message:
                case messages.Result():
                    self._result(message, buffers)
                case messages.Failure():
                    self._failure(message)
                case messages.Ready():
                    self._ready(message)
                case messages.Drain():
                    self._cluster.drain(self)
                case messages.Bye(reason):
                    raise ConnectionLostError(f"it said goodbye: {reason}")
                case _:
                    raise MessageError(f"a worker does not send {type(message).__name__}")

    def _ready(self, message: messages.Ready) -> None:
        state = self._runs.get(message.run)
        if state is None:
            return
        if message.error is not None:
            raise SetupError(error_of(message.error))
        self.has_served = True
        state.has_data = message.has_data
        state.ready.set()

    def _result(self, message: messages.Result, buffers: list[np.ndarray]) -> None:
        task = TaskId(message.run, message.round, message.task)
        result = wire.result_of(message, buffers)
        run = self._cluster.runs.get(message.run)
        if run is not None and run.round is not None and run.round.number == message.round:
            work = run.works.get(message.task)
            if work is None or work.clients != result.clients:
                raise MessageError(f"a Result of task {message.task} for other clients than the task's")
            _check_fields(result, run.session.algorithm)
        self._cluster.result(self, task, message.attempt, result)

    def _failure(self, message: messages.Failure) -> None:
        task = TaskId(message.run, message.round, message.task)
        if message.report.kind == RETURNED:
            self._cluster.returned(self, task, message.attempt)
        else:
            self._cluster.failed(self, task, message.attempt, error_of(message.report, self.name))


def _check_fields(result: CohortResult, algorithm: Algorithm) -> None:
    """What a cohort sends is what the algorithm declares. Raises MessageError."""
    replies, memories = {*result.coded, *result.dense}, set(result.memory)
    if replies != set(fields_of(algorithm.Reply)) or memories != set(fields_of(algorithm.Memory)):
        told = ", ".join(sorted(replies | memories)) or "nothing"
        raise MessageError(f"a Result with the fields {told}, which are not those {type(algorithm).__name__} declares")


RETURNED = "returned"
"""Kind of a Failure that is none: the worker let go of a cancelled or drained task."""


class SetupError(ProtocolError):
    """The worker cannot take part in the run, and says why."""

    def __init__(self, cause: FlspanError) -> None:
        super().__init__(f"it cannot take part: {cause}")


def error_of(report: Report, worker: str | None = None) -> FlspanError:
    """The error that a worker reported, with the worker's name."""
    return UserCodeError(
        report.message,
        file=report.file or "",
        line=report.line or 0,
        client=report.client,
        worker=worker,
        traceback_text=report.traceback,
    )


def setup_message(run: OpenRun) -> messages.Setup:
    """What a worker must know of a run: never a path, never code that is not text."""
    session = run.session
    experiment = session.experiment.to_dict()
    sources = [Source(s.role, s.name, s.sha256, s.text) for s in session.experiment.sources]
    experiment.pop("sources", None)
    shape = session.problem.shape
    body = {
        "experiment": experiment,
        "shape": {"inputs": shape.inputs, "outputs": shape.outputs, "classes": shape.classes},
        "clients": session.problem.n,
    }
    return messages.Setup(run.name, json.dumps(body).encode(), sources, session.data_sha256)
