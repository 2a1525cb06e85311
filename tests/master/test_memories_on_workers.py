"""A memory goes down to a worker unless it is that worker who has made it; and whole once it says that it is gone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fl_core.execution import wire
from fl_core.execution.broadcasts import ReceivedBroadcasts
from fl_core.execution.cohort import CohortRunner, CohortWork
from fl_core.session import open_session
from protocol import messages
from protocol.fields import Report
from tests.conftest import small_experiment
from tests.master.test_worker_link import Bench

pytestmark = [pytest.mark.net, pytest.mark.timeout(60)]


async def test_only_what_the_worker_lacks_is_sent(scripted_worker: Any) -> None:
    """Round 2: of two clients one has run elsewhere since. The worker has lost the other: then both are sent."""
    bench = Bench()
    bench.session = open_session(small_experiment(algorithm={"name": "scaffold"}, execution={"cohort": 2}))
    cpu = torch.device("cpu")
    runner = CohortRunner(bench.session.problem, bench.session.algorithm, bench.session.work, cpu)
    tasks: list[tuple[int, list[tuple[int, int]], int]] = []

    async def behaviour(end: Any) -> None:
        setup = await end.hear(messages.Setup)
        await end.say(messages.Ready(setup.run, True))
        broadcasts = ReceivedBroadcasts()
        while True:
            message, buffers = await end.link.receive()
            if isinstance(message, messages.Broadcast):
                received = broadcasts.unpack(message, buffers)
                continue
            assert isinstance(message, messages.Task)
            tasks.append((message.attempt, message.held, sum(buffer.nbytes for buffer in buffers)))
            if message.held:
                report = Report("lacking", "gone")
                await end.say(messages.Failure("r", message.round, message.task, message.attempt, report))
                continue
            work = wire.work_of(message, buffers)
            await end.say(*wire.result_message("r", work, message.attempt, runner.run(received, work)))

    try:
        async with scripted_worker(behaviour) as address:
            bench.open()
            bench.dial(address)
            server = bench.session.server()
            begun = [CohortWork(1, 0, (0, 1), {}, {})]
            (first,) = await bench.cluster.run_round("r", server.begin_round(1), begun) or []
            round = server.begin_round(2)
            work = CohortWork(2, 0, (0, 1), first.memory, {}, {}, (1, 7))
            (second,) = await bench.cluster.run_round("r", round, [work]) or []
    finally:
        await bench.close()
    row = first.memory["c_i"][0].nbytes
    assert tasks == [(1, [], 0), (1, [(0, 1)], row), (2, [], 2 * row)]
    expected = runner.run(round.broadcast, work)
    assert torch.equal(second.memory["c_i"], expected.memory["c_i"])
