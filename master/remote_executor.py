"""One incarnation of a worker as an executor: it is kept supplied, and its results are taken in."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec
import numpy as np

from fl_core.algorithm import Algorithm
from fl_core.errors import FlspanError, UserCodeError
from fl_core.execution import wire
from fl_core.execution.body_limits import body_limit, largest_shard_bytes, result_bytes
from fl_core.execution.broadcasts import SentBroadcasts
from fl_core.execution.choice import Decision
from fl_core.execution.cohort import CohortResult, CohortWork
from fl_core.state import fields_of
from master.cluster import Cluster, OpenRun
from master.dispatch_vocabulary import TaskId
from master.runs import machine_of
from protocol import messages
from protocol.duplex import duplex
from protocol.errors import ConnectionLostError, MessageError, ProtocolError
from protocol.fields import FusingChoice, Report, Source
from protocol.link import Link


@dataclass
class _RunOnWorker:
    """What this incarnation of the worker holds of a run."""

    ready: asyncio.Event = field(default_factory=asyncio.Event)
    has_data: bool = False
    round: int = -1
    shards: set[int] = field(default_factory=set)
    broadcasts: SentBroadcasts = field(default_factory=SentBroadcasts)
    memories: dict[int, int] = field(default_factory=dict)

    def held_by_worker(self, work: CohortWork) -> list[int]:
        """Positions of the clients whose memory is the one that this worker itself has made."""
        if not work.memory:
            return []
        pairs = zip(work.clients, work.versions, strict=True)
        return [row for row, (i, version) in enumerate(pairs) if version and self.memories.get(i) == version]


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
        link.allow_body(0)  # until there is a run, which says how much
        self._cluster = cluster
        self._runs: dict[str, _RunOnWorker] = {}
        self._outgoing: asyncio.Queue[tuple[OpenRun, CohortWork, int]] = asyncio.Queue()
        self.has_served = self._is_sending = False
        self._task_s = 1.0  # of the worker's recent tasks; as if they were long, until it is known

    # --- as the cluster sees it ----------------------------------------------------------------------------------

    def prepare(self, run: OpenRun) -> None:
        """Send the experiment, the user's files, and what the data's digest must be."""
        if run.name in self._runs:
            return
        self._runs[run.name] = _RunOnWorker()
        self.link.allow_body(max(self.link.connection.body_limit, body_limit(run.session, 0)))
        if self.link.budget is not None:
            self.link.budget.at_least(2 * result_bytes(run.session))
        self._tell(setup_message(run, run.decided.get(machine_of(self.name))))

    def assign(self, run: OpenRun, work: CohortWork, attempt: int) -> None:
        """Queue the task; what it needs and the worker lacks is sent before it."""
        self.prepare(run)
        is_first = self._outgoing.empty() and not self._is_sending
        if not (is_first and self._send_at_once(run, work, attempt)):
            self._outgoing.put_nowait((run, work, attempt))

    def _send_at_once(self, run: OpenRun, work: CohortWork, attempt: int) -> bool:
        """Whether the task went out now: it and what the worker lacks for it are small, and wait for nothing."""
        state = self._runs[run.name]
        if not state.has_data or work.memory or work.own:
            return False
        if state.round != work.round:
            broadcast = run.small_broadcast()
            if broadcast is None or not self.link.send_at_once(*state.broadcasts.lacking(broadcast)):
                return False
            state.broadcasts.sent(broadcast)
            state.round = work.round
        return self.link.send_at_once(*wire.task_message(run.name, work, attempt))

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

    async def serve(self) -> ProtocolError | None:
        """Send and receive until the link ends. The error that ended it."""
        return await duplex(self._send(), self._receive())

    async def ready(self, run: str) -> None:
        """Wait until the worker has set the run up."""
        await self._runs[run].ready.wait()

    async def _send(self) -> None:
        while True:
            self._is_sending = False
            run, work, attempt = await self._outgoing.get()
            self._is_sending = True
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
                sent = state.broadcasts.lacking(broadcast)
                state.broadcasts.sent(broadcast)
                await self.link.send(*sent)
                state.round = work.round
        lacking = [] if state.has_data else [i for i in work.clients if i not in state.shards]
        for i in lacking:
            if self._is_wanted(run, state, work):
                await self.link.send(*wire.shard_message(run.name, i, run.session.problem.shard(i)))
                state.shards.add(i)
        if not self._is_wanted(run, state, work):
            return False
        await self.link.send(*wire.task_message(run.name, work, attempt, state.held_by_worker(work)))
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
        state.shards.update(message.held)
        state.ready.set()

    def _result(self, message: messages.Result, buffers: list[np.ndarray]) -> None:
        task = TaskId(message.run, message.round, message.task)
        result = wire.result_of(message, buffers)
        run = self._cluster.runs.get(message.run)
        if run is not None and run.round is not None and run.round.number == message.round:
            work = run.works.get(message.task)
            if work is not None:  # else of a task that was given up, and is run again under another number
                if not _accounts_for(result, work):
                    raise MessageError(f"a Result of task {message.task} for other clients than the task's")
                _check_fields(result, work, run.session.algorithm)
        if message.fusing is not None:
            self._cluster.decided(self, message.run, msgspec.convert(msgspec.structs.asdict(message.fusing), Decision))
        self._adapt_credit(sum(result.metrics["seconds_s"]))
        if self._cluster.result(self, task, message.attempt, result) and result.memory:
            state = self._runs.get(message.run)
            if state is not None:
                state.memories.update(dict.fromkeys(result.clients, message.round))

    def _adapt_credit(self, task_s: float) -> None:
        """Prefetch more of tasks that take less time than a message to the worker and back."""
        self._task_s += 0.1 * (task_s - self._task_s)
        ahead = _AHEAD if self._task_s < _SHORT_S else 1
        if self.credit != self.slots + ahead:
            self.credit = self.slots + ahead
            self._cluster.allow(self, self.credit)

    def _failure(self, message: messages.Failure) -> None:
        task = TaskId(message.run, message.round, message.task)
        if message.report.kind == LACKING and message.run in self._runs:
            self._runs[message.run].memories.clear()  # it says so of one; the others may be gone as well
        if message.report.kind in (RETURNED, LACKING):
            self._cluster.returned(self, task, message.attempt)
        else:
            self._cluster.failed(self, task, message.attempt, error_of(message.report, self.name))


def _accounts_for(result: CohortResult, work: CohortWork) -> bool:
    """Whether the result says of each of the task's clients, in their order, that it has finished or was skipped."""
    skipped = {each.client for each in result.skipped}
    return result.clients == tuple(i for i in work.clients if i not in skipped) and skipped <= set(work.clients)


def _check_fields(result: CohortResult, work: CohortWork, algorithm: Algorithm) -> None:
    """What a cohort sends is what the algorithm declares, and sums are those asked for. Raises MessageError."""
    replies, memories = {*result.coded, *result.dense, *result.sums}, set(result.memory)
    if len(replies) != len(result.coded) + len(result.dense) + len(result.sums):
        raise MessageError("a Result with a field that comes in two ways")
    for name, kept in result.sums.items():
        if set(kept.totals) != set(work.asked.get(name, ())):
            raise MessageError(f"a Result with sums of {name} that nobody asked for")
    if replies != set(fields_of(algorithm.Reply)) or memories != set(fields_of(algorithm.Memory)):
        told = ", ".join(sorted(replies | memories)) or "nothing"
        raise MessageError(f"a Result with the fields {told}, which are not those {type(algorithm).__name__} declares")


_SHORT_S, _AHEAD = 0.001, 8
"""A task shorter than this is over before the next one comes: so many wait at the worker then."""

RETURNED, LACKING = "returned", "lacking"
"""Kinds of a Failure that is none: the worker let go of a cancelled or drained task, or of a memory that it needs."""


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


def setup_message(run: OpenRun, decided: Decision | None = None) -> messages.Setup:
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
        "shard_bytes": largest_shard_bytes(session.problem.shards),
    }
    fusing = None if decided is None else FusingChoice(**decided)
    return messages.Setup(run.name, json.dumps(body).encode(), sources, session.data_sha256, fusing)
