"""The master's side of one worker: dial it, keep it supplied, take its results, dial again when it is lost."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass, field

import numpy as np

from fl_core.errors import FlspanError, InputError, UserCodeError
from fl_core.execution import wire
from fl_core.execution.cohort import CohortWork
from master import events
from master.cluster import Cluster, OpenRun
from master.dispatch_vocabulary import TaskId
from protocol import messages
from protocol.errors import ConnectionLostError, MessageError, ProtocolError
from protocol.fields import Report, Source
from protocol.link import Link
from protocol.settings import LinkSettings
from protocol.transport import dial

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 5.0
"""Between attempts to reach a worker: exponential with full jitter, for ever."""
_CLOSED_HERE = "closed by the master"


@dataclass
class _RunOnWorker:
    """What this incarnation of the worker holds of a run."""

    ready: asyncio.Event = field(default_factory=asyncio.Event)
    has_data: bool = False
    round: int = -1
    shards: set[int] = field(default_factory=set)


class RemoteExecutor:
    """One incarnation of a worker: an executor until its link ends."""

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
        self.busy: set[tuple[TaskId, int]] = set()

    # --- as the cluster sees it ----------------------------------------------------------------------------------

    def prepare(self, run: OpenRun) -> None:
        """Send the experiment, the user's files, and what the data's digest must be."""
        if run.name in self._runs:
            return
        self._runs[run.name] = _RunOnWorker()
        self.link.send_soon(setup_message(run))

    def assign(self, run: OpenRun, work: CohortWork, attempt: int) -> None:
        """Queue the task; what it needs and the worker lacks is sent before it."""
        self.prepare(run)
        self.busy.add((TaskId(run.name, work.round, work.index), attempt))
        self._outgoing.put_nowait((run, work, attempt))

    def cancel(self, run: str, cohort: int, attempt: int) -> None:
        """Tell the worker; it answers in any case."""
        self.link.send_soon(messages.Cancel(run, [(cohort, attempt)]))

    def forget(self, run: str) -> None:
        """The worker may free what it keeps for the run."""
        if self._runs.pop(run, None) is not None and self.link.over is None:
            self.link.send_soon(messages.Forget(run))

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
            state = self._runs.get(run.name)
            if state is not None:
                await state.ready.wait()
            if state is None or run.round is None or run.round.number != work.round:  # the round is over
                task = TaskId(run.name, work.round, work.index)
                self.busy.discard((task, attempt))
                self._cluster.returned(self, task, attempt)
                continue
            if state.round != work.round:
                await self.link.send(*await run.broadcast_message())
                state.round = work.round
            if not state.has_data:
                await self._send_shards(run, state, work)
            await self.link.send(*wire.task_message(run.name, work, attempt))

    async def _send_shards(self, run: OpenRun, state: _RunOnWorker, work: CohortWork) -> None:
        for i in work.clients:
            if i not in state.shards:
                await self.link.send(*wire.shard_message(run.name, i, run.session.problem.shard(i)))
                state.shards.add(i)

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
            raise SetupError(error_of(message.error, self.name))
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
        self.busy.discard((task, message.attempt))
        self._cluster.result(self, task, message.attempt, result)

    def _failure(self, message: messages.Failure) -> None:
        task = TaskId(message.run, message.round, message.task)
        self.busy.discard((task, message.attempt))
        if message.report.kind == RETURNED:
            self._cluster.returned(self, task, message.attempt)
        else:
            self._cluster.failed(self, task, message.attempt, error_of(message.report, self.name))


RETURNED = "returned"
"""Kind of a Failure that is none: the worker let go of a cancelled or drained task."""


class SetupError(ProtocolError):
    """The worker cannot take part in the run, and says why."""

    def __init__(self, cause: FlspanError) -> None:
        super().__init__(f"it cannot take part: {cause}")


def error_of(report: Report, worker: str) -> FlspanError:
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


class WorkerLink:
    """One address of `--workers`: dialled for ever, an executor of the cluster while it answers.

    Args:
        address: "host:port".
        secret: shared with the worker; None only on loopback.
    """

    def __init__(self, cluster: Cluster, address: str, secret: bytes | None, settings: LinkSettings) -> None:
        self.address = address
        self.host, self.port = parse_address(address)
        self.executor: RemoteExecutor | None = None
        self.sent_bytes = 0
        self.received_bytes = 0
        self._cluster = cluster
        self._secret = secret
        self._settings = settings
        self._incarnations = 0
        self._said: str | None = None

    async def run(self) -> None:
        """Serve the worker until cancelled; then say goodbye."""
        delay = FIRST_DELAY_S
        while True:
            try:
                link = await dial(self.host, self.port, secret=self._secret, settings=self._settings)
            except (OSError, TimeoutError, ProtocolError) as error:
                self._warn(f"worker {self.address} cannot be reached: {error or type(error).__name__}; trying on")
            else:
                delay = FIRST_DELAY_S
                await self._serve(link)
            await asyncio.sleep(random.uniform(0, delay))  # full jitter: workers that died together return apart
            delay = min(2 * delay, LONGEST_DELAY_S)

    async def _serve(self, link: Link) -> None:
        self._incarnations += 1
        executor = RemoteExecutor(self._cluster, link, self.address, self._incarnations)
        serving = asyncio.create_task(executor.serve())
        reason = _CLOSED_HERE
        try:
            for run in list(self._cluster.runs.values()):
                executor.prepare(run)
                ready = asyncio.create_task(executor.ready(run.name))
                await asyncio.wait((serving, ready), return_when=asyncio.FIRST_COMPLETED)
                ready.cancel()
            if not serving.done():
                self._join(executor)
            await serving
        except* ProtocolError as group:
            reason = str(group.exceptions[0])
        finally:
            serving.cancel()
            self._leave(executor, reason)
            await link.close(reason)

    def _join(self, executor: RemoteExecutor) -> None:
        self.executor = executor
        self._said = None
        kind = events.WorkerJoined if self._incarnations == 1 else events.WorkerReturned
        self._cluster.emit(
            kind(
                time_s=time.time(),
                name=self.address,
                address=self.address,
                slots=executor.slots,
                devices=tuple(executor.info.devices),
            )
        )
        self._cluster.join(executor)

    def _leave(self, executor: RemoteExecutor, reason: str) -> None:
        self.sent_bytes += executor.link.bytes_sent
        self.received_bytes += executor.link.bytes_received
        if self.executor is None:
            self._warn(f"worker {self.address}: {reason}")
            return
        self.executor = None
        self._cluster.lose(executor)
        if reason != _CLOSED_HERE:
            self._cluster.emit(events.WorkerLost(time_s=time.time(), name=self.address, reason=reason))

    def _warn(self, text: str) -> None:
        if text != self._said:  # once, not at every attempt
            self._said = text
            self._cluster.emit(events.Warned(time_s=time.time(), text=text))


def parse_address(address: str) -> tuple[str, int]:
    """ "host:port" or "[v6]:port" as its two parts. Raises InputError."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(f"--workers {address}: write host:port, as in gpu1:7000")
    return host.strip("[]"), int(port)
