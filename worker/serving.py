"""One authenticated master, served: runs are set up, tasks go to the pools, results go back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np

from fl_core.errors import FlspanError, UserCodeError
from fl_core.execution import wire
from fl_core.execution.broadcasts import ReceivedBroadcasts
from fl_core.execution.choice import Decision
from fl_core.execution.cohort import FOREIGN_DRAWS, FOREIGN_DRAWS_TEXT, CohortResult, CohortWork
from fl_core.execution.held_memories import HeldMemories, completed
from fl_core.execution.pool import DevicePool
from protocol import messages
from protocol.duplex import duplex
from protocol.errors import MessageError, ProtocolError, StateError
from protocol.fields import FusingChoice, Report
from protocol.link import Link
from worker.runs import Preparation, PreparedRun

logger = logging.getLogger("flworker")

_NO_RUN_BYTES = 64 << 10
"""The largest body before the first run is set up: none is due, but what comes too early can be named."""

_MOST_HELD = 65536
"""Clients that a Ready may name."""

Outgoing = tuple[messages.Message, Sequence[np.ndarray]]


class _Key(NamedTuple):
    """One attempt at a task. Task and attempt begin anew in each round, so the round is part of it."""

    run: str
    round: int
    task: int
    attempt: int


@dataclass
class _Held:
    """A task this worker holds, and the pool's future of it."""

    work: CohortWork
    future: Future[CohortResult]
    cancelled: bool = False


class Serving:
    """Serves one link until it ends. What runs for it is dropped with it: a master that returns starts anew.

    Args:
        prepare: makes a run ready (loads its data, imports the user's files); called in a thread.
    """

    def __init__(self, link: Link, pool: DevicePool, prepare: Callable[[messages.Setup], Preparation]) -> None:
        self._link = link
        link.allow_body(_NO_RUN_BYTES)  # until there is one, which says how much
        self._pool = pool
        self._prepare = prepare
        self._runs: dict[str, PreparedRun] = {}
        self._broadcasts: dict[str, ReceivedBroadcasts] = {}
        self._memories: dict[str, HeldMemories] = {}
        self._told: dict[str, Decision] = {}  # of fusing, by run
        self._held: dict[_Key, _Held] = {}
        self._cancelled: set[_Key] = set()  # before they came: a Cancel may overtake its Task
        self._outgoing: asyncio.Queue[Outgoing | None] = asyncio.Queue()
        self._is_sending = False
        self._loop = asyncio.get_running_loop()
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
        self._has_told_of_draws = False
        self.answered = 0
        """Tasks whose result was ready to send."""

    async def run(self) -> ProtocolError | None:
        """Send and receive until the link ends, or everything is handed back after `drain`. The error that ended it."""
        try:
            return await duplex(self._send(), self._receive())
        finally:
            for held in list(self._held.values()):
                held.future.cancel()
            for name in self._runs:
                self._pool.forget(name)

    async def drain(self) -> None:
        """Take no new tasks; hand back those that have not begun; wait for the rest and send it."""
        self._draining = True
        self._link.send_soon(messages.Drain())
        for held in list(self._held.values()):
            held.future.cancel()
        await self._idle.wait()
        self._outgoing.put_nowait(None)

    @property
    def busy(self) -> int:
        """Tasks held."""
        return len(self._held)

    @property
    def master(self) -> str:
        """Where the master is, as "host:port"."""
        return self._link.name.removeprefix("the master at ")

    @property
    def present_run(self) -> str:
        """The run set up last; "" when none is."""
        return next(reversed(self._runs), "")

    # --- in --------------------------------------------------------------------------------------------------------

    async def _receive(self) -> None:
        while True:
            message, buffers = await self._link.receive()
            match message:
                case messages.Task():
                    self._task(message, buffers)
                case messages.Broadcast():
                    self._broadcast(message, buffers)
                case messages.Shard():
                    self._shard(message, buffers)
                case messages.Setup():
                    await self._setup(message)
                case messages.Cancel():
                    self._cancel(message)
                case messages.Forget(run):
                    self._forget(run)
                case messages.Bye(reason):
                    logger.info("%s said goodbye: %s", self._link.name, reason)
                    self._outgoing.put_nowait(None)
                    return
                case _:
                    raise MessageError(f"a master does not send {type(message).__name__}")

    async def _setup(self, message: messages.Setup) -> None:
        ready = messages.Ready(message.run, False)
        try:
            prepared = await asyncio.to_thread(self._prepare, message)
            if prepared.run is not None:
                self._runs[message.run] = prepared.run
                self._link.allow_body(max(self._link.connection.body_limit, prepared.run.body_limit))
                held = [] if prepared.run.has_data else prepared.run.site.problem.shards.sent[:_MOST_HELD]
                ready = messages.Ready(message.run, prepared.run.has_data, held=held)
            else:
                ready = messages.Ready(message.run, False, prepared.error)
        except (Exception, SystemExit) as error:  # whatever her code does at its import, the worker lives on
            if not isinstance(error, FlspanError):
                logger.exception("the set-up of run %s failed", message.run)
            ready = messages.Ready(message.run, False, report_of(error))
        if ready.error is not None:
            logger.error("run %s cannot be set up: %s", message.run, ready.error.message)
        self._tell(ready)

    def _of(self, run: str) -> PreparedRun:
        if run not in self._runs:
            raise StateError(f"run {run!r} has not been set up on this link")
        return self._runs[run]

    def _broadcast(self, message: messages.Broadcast, buffers: list[np.ndarray]) -> None:
        run = self._of(message.run)
        run.site.receive(self._broadcasts.setdefault(message.run, ReceivedBroadcasts()).unpack(message, buffers))
        # What was cancelled in a round that is over can come no more.
        self._cancelled = {key for key in self._cancelled if key.run != message.run or key.round >= message.round}

    def _shard(self, message: messages.Shard, buffers: list[np.ndarray]) -> None:
        shards = self._of(message.run).site.problem.shards
        if message.client >= shards.n or self._of(message.run).has_data:
            raise MessageError(f"a Shard of client {message.client} that was not asked for")
        if shards.has(message.client):
            return  # two runs over the same data are served at once, and the other was quicker
        shards.add(message.client, wire.shard_of(message, buffers))

    def _task(self, message: messages.Task, buffers: list[np.ndarray]) -> None:
        site = self._of(message.run).site
        work = wire.work_of(message, buffers)
        found = self._memories.setdefault(message.run, HeldMemories()).find(work.clients, message.held)
        if not site.has_round(work.round):
            raise StateError(f"a Task of round {work.round} without its Broadcast")
        shards = site.problem.shards
        for i in work.clients:
            if i >= shards.n:
                raise MessageError(f"a Task for client {i} of {shards.n}")
            if not shards.has(i):
                raise StateError(f"a Task for client {i} without its Shard")
        key = _Key(message.run, message.round, message.task, message.attempt)
        if key in self._held:
            raise StateError(f"attempt {key.attempt} of task {key.task} of round {key.round} came twice")
        if self._draining or key in self._cancelled:
            self._cancelled.discard(key)
            self._tell(_returned(message.run, work, message.attempt))
            return
        if found is None:
            report = Report("lacking", "a client's memory is not kept here any more")
            self._tell(messages.Failure(*key, report))
            return
        self._idle.clear()
        future = self._pool.submit(lambda slot: site.execute(slot, completed(work, found)))
        self._held[key] = _Held(work, future)
        future.add_done_callback(lambda done: self._loop.call_soon_threadsafe(self._finished, key, done))

    def _cancel(self, message: messages.Cancel) -> None:
        for task, attempt in message.tasks:
            key = _Key(message.run, message.round, task, attempt)
            held = self._held.get(key)
            if held is not None:
                held.cancelled = True
                held.future.cancel()
            elif message.run in self._runs:
                self._cancelled.add(key)

    def _forget(self, run: str) -> None:
        """Free what is kept for it. What still runs is answered when it ends: the master counts on it."""
        self._runs.pop(run, None)
        self._broadcasts.pop(run, None)
        self._memories.pop(run, None)
        self._told.pop(run, None)
        self._cancelled = {key for key in self._cancelled if key.run != run}
        for key, held in list(self._held.items()):
            if key.run == run:
                held.cancelled = True
                held.future.cancel()
        self._pool.forget(run)

    # --- out -------------------------------------------------------------------------------------------------------

    def _finished(self, key: _Key, done: Future[CohortResult]) -> None:
        self._tell(*self._answer(key, self._held.pop(key), done))
        if not self._held:
            self._idle.set()

    def _answer(self, key: _Key, held: _Held, done: Future[CohortResult]) -> Outgoing:
        if held.cancelled or done.cancelled():
            return _returned(key.run, held.work, key.attempt), []
        error = done.exception()
        if error is None:
            self.answered += 1
            if FOREIGN_DRAWS.is_set() and not self._has_told_of_draws:
                self._has_told_of_draws = True
                logger.warning(FOREIGN_DRAWS_TEXT)
            if key.run in self._memories:
                self._memories[key.run].keep(done.result(), key.round)
            message, buffers = wire.result_message(key.run, held.work, key.attempt, done.result())
            return msgspec.structs.replace(message, fusing=self._news_of_fusing(key.run)), buffers
        report = report_of(error)
        logger.warning("a task failed: %s", report.message)
        return messages.Failure(key.run, key.round, key.task, key.attempt, report), []

    def _news_of_fusing(self, name: str) -> FusingChoice | None:
        """Whether the run's clients are fused here, when the master has not been told so yet."""
        run = self._runs.get(name)
        decision = None if run is None else run.site.fusing.decision()
        if decision is None or decision is self._told.get(name):
            return None
        self._told[name] = decision
        return FusingChoice(**decision)

    def _tell(self, message: messages.Message, buffers: Sequence[np.ndarray] = ()) -> None:
        """Send what waits for nothing now: a step of the event loop later counts where a task is short."""
        is_first = self._outgoing.empty() and not self._is_sending
        if not (is_first and self._link.send_at_once(message, buffers)):
            self._outgoing.put_nowait((message, buffers))

    async def _send(self) -> None:
        while True:
            self._is_sending = False
            outgoing = await self._outgoing.get()
            self._is_sending = True
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
