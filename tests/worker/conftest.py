"""A worker's serving half on a real loopback link, with a master's end of it in the test's hands."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from algorithms.fedavg import FedAvg
from fl_core.execution import wire
from fl_core.execution.cohort import CohortResult, CohortWork
from fl_core.execution.pool import DevicePool, parse_devices
from fl_core.execution.site import Site
from fl_core.problem import Problem
from fl_core.server import Broadcast
from fl_core.session import Session, open_session
from fl_core.shards import Shards
from protocol import messages
from protocol.fields import WorkerInfo
from protocol.link import Link
from protocol.transport import dial, listen
from tests.conftest import small_experiment
from worker.runs import Preparation, PreparedRun
from worker.serving import Serving


@dataclass(frozen=True)
class Held(FedAvg):
    """FedAvg whose clients wait, in the rounds that have an event, until it is set."""

    def local_gradient(self, client: Any, x: Any, s: Any) -> Any:
        BEGUN.append((client.round, client.id))
        if client.round in GATES:
            GATES[client.round].wait(30)
        RAN.append((client.round, client.id))
        return client.gradient(x)


GATES: dict[int, threading.Event] = {}
BEGUN: list[tuple[int, int]] = []
RAN: list[tuple[int, int]] = []


class MasterEnd:
    """Says what a master says, one message at a time."""

    def __init__(self, link: Link, session: Session) -> None:
        self.link = link
        self.session = session
        self.gates = GATES
        self.begun, self.ran = BEGUN, RAN
        self._step = session.server()
        self.broadcasts: dict[int, Broadcast] = {}

    async def setup(self, run: str = "r") -> messages.Message:
        """Set a run up; the answer."""
        await self.link.send(messages.Setup(run, b"{}", [], "0"))
        return (await self.link.receive())[0]

    async def broadcast(self, round: int) -> None:
        """Send a round's model: x0, shifted by the round's number, so that rounds differ."""
        self._step.x = self.session.problem.x0 + round
        self.broadcasts[round] = self._step.begin_round(round).broadcast
        await self.link.send(*wire.broadcast_message("r", self.broadcasts[round]))

    async def shard(self, client: int) -> None:
        """Send a client's data."""
        await self.link.send(*wire.shard_message("r", client, self.session.problem.shard(client % 4)))

    def work(self, round: int, task: int) -> CohortWork:
        """Task k is client k's."""
        return CohortWork(round, task, (task,), {}, {})

    async def task(self, round: int, task: int, attempt: int = 1) -> None:
        """Send a task."""
        await self.link.send(*wire.task_message("r", self.work(round, task), attempt))

    async def receive(self) -> messages.Message:
        """The next message of the worker; a Result's payload is kept in `payload`."""
        message, buffers = await self.link.receive()
        self.payload = b"".join(buffer.tobytes() for buffer in buffers)
        return message

    def expected(self, round: int, task: int) -> bytes:
        """What a Result of this task carries: computed here, by a site of its own."""
        open_gates = dict(GATES)
        GATES.clear()
        site = Site("r", self.session.problem, Held(), self.session.work)
        site.receive(self.broadcasts[round])
        pool = DevicePool(parse_devices("cpu"), 1)
        try:
            result: CohortResult = pool.submit(lambda slot: site.execute(slot, self.work(round, task))).result()
        finally:
            pool.close()
            GATES.update(open_gates)
        _, buffers = wire.result_message("r", self.work(round, task), 1, result)
        return b"".join(np.asarray(buffer).tobytes() for buffer in buffers)


Serve = Callable[..., Any]


@pytest.fixture
def serve() -> Serve:
    """`async with serve(slots) as master`: a Serving with a pool, and the other end of its link."""
    GATES.clear()
    BEGUN.clear()
    RAN.clear()
    session = open_session(small_experiment())
    whole = session.problem

    def prepared(setup: messages.Setup) -> Preparation:
        return Preparation(PreparedRun(Site(setup.run, whole, Held(), session.work), has_data=True))

    def prepared_without_data(setup: messages.Setup) -> Preparation:
        problem = Problem(session.experiment, whole.shape, Shards(whole.n), None, None)
        return Preparation(PreparedRun(Site(setup.run, problem, Held(), session.work), has_data=False))

    @asynccontextmanager
    async def serving(
        slots: int = 1, prepare: Callable[[messages.Setup], Preparation] = prepared, has_data: bool = True
    ) -> AsyncIterator[MasterEnd]:
        prepare = prepare if has_data else prepared_without_data
        pool = DevicePool(parse_devices("cpu"), slots)
        made: list[Serving] = []

        async def on_link(link: Link) -> None:
            made.append(Serving(link, pool, prepare))
            if (error := await made[0].run()) is not None:
                await link.close(str(error))

        info = WorkerInfo("i", "w", 1, slots, ["cpu"], "2", "3", True)
        server = await listen("127.0.0.1", 0, info=lambda: info, on_link=on_link)
        link = await dial("127.0.0.1", server.port)
        master = MasterEnd(link, session)
        master.serving = made  # type: ignore[attr-defined]  # for a test that drains it
        try:
            yield master
        finally:
            for gate in GATES.values():
                gate.set()
            await link.close("the test is over")
            await server.close()
            pool.close()

    return serving
