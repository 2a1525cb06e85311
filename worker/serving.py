"""One authenticated master, served: runs are set up, tasks go to the pools, results go back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from fl_core.errors import FlspanError, UserCodeError
from fl_core.execution import wire
from fl_core.execution.cohort import CohortResult, CohortWork
from fl_core.execution.pool import DevicePool
from protocol import messages
from protocol.errors import MessageError, StateError
from protocol.fields import Report
from protocol.link import Link
from worker.runs import Preparation, PreparedRun

logger = logging.getLogger("flworker")

Outgoing = tuple[messages.Message, list[np.ndarray]]


@dataclass
class _Held:
    """A task this worker holds: its attempt, and the pool's future."""

    work: CohortWork
    future: Future[CohortResult]
    cancelled: bool = False


@dataclass
class _Running:
    """A run of this master."""

    prepared: PreparedRun
    held: dict[tuple[int, int], _Held] = field(default_factory=dict)
    cancelled: set[tuple[int, int]] = field(default_factory=set)  # before they came: a Cancel may overtake its Task


class Serving:
    """Serves one link until it ends. What runs for it is dropped with it: a master that returns starts anew.

    Args:
        prepare: makes a run ready (loads its data, imports the user's files); called in a thread.
    """

    def __init__(self, link: Link, pool: DevicePool, prepare: Callable[[messages.Setup], Preparation]) -> None:
        self._link = link
        self._pool = pool
        self._prepare = prepare
        self._runs: dict[str, _Running] = {}
        self._outgoing: asyncio.Queue[Outgoing | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False

    async def run(self) -> None:
        """Send and receive until the link ends, or everything is handed back after `drain`.

        Raises:
            ExceptionGroup: of the ProtocolError that ended the link.
        """
        try:
            async with asyncio.TaskGroup() as group:
                receiving = group.create_task(self._receive())
                await self._send()
                receiving.cancel()
        finally:
            for run in self._runs.values():
                for held in run.held.values():
                    held.future.cancel()
            for name in self._runs:
                self._pool.forget(name)

    async def drain(self) -> None:
        """Take no new tasks; hand back those that have not begun; wait for the rest and send it."""
        self._draining = True
        self._link.send_soon(messages.Drain())
        for run in self._runs.values():
            for held in list(run.held.values()):
                held.future.cancel()
        await self._idle.wait()
        self._outgoing.put_nowait(None)

    @property
    def busy(self) -> int:
        """Tasks held."""
        return sum(len(run.held) for run in self._runs.values())

    # --- in --------------------------------------------------------------------------------------------------------

    async def _receive(self) -> None:
        while True:
            message, buffers = await self._link.receive()
            match message:
                case messages.Task():
                    self._task(message, buffers)
                case messages.Broadcast():
                    self._of(message.run).prepared.site.receive(wire.broadcast_of(message, buffers))
                case messages.Shard():
                    shards = self._of(message.run).prepared.site.problem.shards
                    shards.add(message.client, wire.shard_of(message, buffers))
                case messages.Setup():
                    await self._setup(message)
                case messages.Cancel():
                    self._cancel(message)
                case messages.Forget(run):
                    self._runs.pop(run, None)
                    self._pool.forget(run)
                case messages.Bye(reason):
                    logger.info("the master %s said goodbye: %s", self._link.name, reason)
                    self._outgoing.put_nowait(None)
                    return
                case _:
                    raise MessageError(f"a master does not send {type(message).__name__}")

    async def _setup(self, message: messages.Setup) -> None:
        ready = messages.Ready(message.run, False)
        try:
            prepared = await asyncio.to_thread(self._prepare, message)
            if prepared.run is not None:
                self._runs[message.run] = _Running(prepared.run)
                ready = messages.Ready(message.run, prepared.run.has_data)
            else:
                ready = messages.Ready(message.run, False, prepared.error)
        except FlspanError as error:
            ready = messages.Ready(message.run, False, report_of(error))
        if ready.error is not None:
            logger.error("run %s cannot be set up: %s", message.run, ready.error.message)
        self._outgoing.put_nowait((ready, []))

    def _of(self, run: str) -> _Running:
        if run not in self._runs:
            raise StateError(f"run {run!r} has not been set up on this link")
        return self._runs[run]

    def _task(self, message: messages.Task, buffers: list[np.ndarray]) -> None:
        run = self._of(message.run)
        work = wire.work_of(message, buffers)
        site = run.prepared.site
        if not site.has_round(work.round):
            raise StateError(f"a Task of round {work.round} without its Broadcast")
        missing = [i for i in work.clients if not site.problem.shards.has(i)]
        if missing:
            raise StateError(f"a Task for client {missing[0]} without its Shard")
        key = (message.task, message.attempt)
        if self._draining or key in run.cancelled:
            run.cancelled.discard(key)
            self._outgoing.put_nowait((_returned(message.run, work, message.attempt), []))
            return
        self._idle.clear()
        future = self._pool.submit(lambda slot: site.execute(slot, work))
        run.held[key] = _Held(work, future)
        future.add_done_callback(lambda done: self._loop.call_soon_threadsafe(self._finished, message.run, key, done))

    def _cancel(self, message: messages.Cancel) -> None:
        run = self._runs.get(message.run)
        if run is None:
            return
        for task, attempt in message.tasks:
            held = run.held.get((task, attempt))
            if held is None:
                run.cancelled.add((task, attempt))
            else:
                held.cancelled = True
                held.future.cancel()

    # --- out -------------------------------------------------------------------------------------------------------

    def _finished(self, name: str, key: tuple[int, int], done: Future[CohortResult]) -> None:
        run = self._runs.get(name)
        held = None if run is None else run.held.pop(key, None)
        if held is not None:
            self._outgoing.put_nowait(self._answer(name, key[1], held, done))
        if self.busy == 0:
            self._idle.set()

    def _answer(self, name: str, attempt: int, held: _Held, done: Future[CohortResult]) -> Outgoing:
        if held.cancelled or done.cancelled():
            return _returned(name, held.work, attempt), []
        error = done.exception()
        if error is None:
            return wire.result_message(name, held.work, attempt, done.result())
        report = report_of(error)
        logger.warning("a task failed: %s", report.message)
        return messages.Failure(name, held.work.round, held.work.index, attempt, report), []

    async def _send(self) -> None:
        while True:
            outgoing = await self._outgoing.get()
            if outgoing is None:
                return
            await self._link.send(*outgoing)


def _returned(run: str, work: CohortWork, attempt: int) -> messages.Failure:
    report = Report("returned", "not run: cancelled, or the worker is leaving")
    return messages.Failure(run, work.round, work.index, attempt, report)


def report_of(error: BaseException) -> Report:
    """An error as text: what the master shows, with the user's file and line."""
    if isinstance(error, UserCodeError):
        return Report("user", error.message, error.file, error.line, error.client, error.traceback_text)
    return Report(type(error).__name__, str(error) or type(error).__name__)
