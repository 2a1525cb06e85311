"""Methods that read sums get sums, methods that read rows get rows, and nobody's numbers show which it was."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from algorithms.fedavg import FedAvg
from fl_core.execution.cohort import CohortResult
from fl_core.execution.pool import DevicePool, parse_devices
from fl_core.reference import run_reference
from fl_core.replies import Replies
from fl_core.server import Server
from fl_core.session import Session, open_session
from fl_core.state import State, zeros
from master import events
from master.cluster import Cluster
from master.local_executor import LocalExecutor
from master.round_loop import RoundLoop
from tests.conftest import small_experiment

pytestmark = pytest.mark.timeout(60)


@dataclass(frozen=True)
class Median(FedAvg):
    """The coordinatewise median: it needs every row."""

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        return -torch.stack([reply.delta for reply in replies]).median(dim=0).values


@dataclass(frozen=True)
class OwnWeights(FedAvg):
    """Weights that only the server knows."""

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        return -replies.weighted_mean("delta", [1.0 + i % 3 for i in replies.clients])


@dataclass(frozen=True)
class ChangesItsMind(FedAvg):
    """Weighted means, then plain ones, then rows; it counts in place how often it is asked, and hides errors."""

    class ServerState(State):
        """How often."""

        asked: Tensor = zeros()

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        server.state.asked += 1
        if server.round == 1:
            return -replies.weighted_mean("delta")
        return -replies.mean("delta")

    def server_global_state(self, server: Server, replies: Replies, g: Tensor) -> Any:
        """After the server's optimizer has moved."""
        if server.round < 3:
            return server.state
        try:
            rows = [reply.delta for reply in replies]
        except Exception:  # a method may catch what it does not know
            rows = []
        return self.ServerState(asked=server.state.asked + torch.stack(rows).amax(0) if rows else server.state.asked)


async def run(session: Session) -> tuple[Any, list[events.Event], list[CohortResult]]:
    """The outcome, what was told, and every result, of a run on a local pool of two threads."""
    told: list[events.Event] = []
    results: list[CohortResult] = []
    cluster, pool = Cluster(told.append), DevicePool(parse_devices("cpu"), 2)
    accept = cluster.result

    def result(executor: Any, task: Any, attempt: int, found: CohortResult) -> None:
        results.append(found)
        accept(executor, task, attempt, found)

    cluster.result = result  # type: ignore[method-assign, assignment]  # a look at what passes
    try:
        cluster.join(LocalExecutor(cluster, pool))
        cluster.open_run("r", session)
        loop = RoundLoop("r", session, cluster, lambda checkpoint: None)
        outcome = await loop.run()
        return (outcome, loop._server.state), told, results
    finally:
        await cluster.close()
        await asyncio.to_thread(pool.close)


def session_of(method: Any) -> Session:
    """Cohorts of three clients, a server optimizer with a state of its own."""
    experiment = small_experiment(
        clients={"total": 9, "per_round": 8}, execution={"cohort": 3}, server={"optimizer": {"name": "adam", "lr": 0.1}}
    )
    return replace(open_session(experiment), algorithm=method)


@pytest.mark.parametrize(
    ("method", "again"), [(FedAvg(), []), (Median(), [1]), (OwnWeights(), [1]), (ChangesItsMind(), [2, 3])], ids=repr
)
async def test_ends_with_the_bytes_of_the_reference(method: Any, again: list[int]) -> None:
    """A round in which something else is read is run again, once, and nothing of the first try is left."""
    (outcome, state), told, _ = await run(session_of(method))
    *_, (server, metrics) = run_reference(session_of(method))
    assert (outcome.reason, outcome.rounds) == ("finished", 3)
    assert torch.equal(outcome.x, server.x)
    for name, value in vars(server.state).items():
        assert torch.equal(getattr(state, name), value)
    assert outcome.metrics["bits_up"] == 3 * metrics["bits_up"]
    notes = [event.text for event in told if isinstance(event, events.Noted)]
    assert [int(text.split()[1]) for text in notes] == again
    assert [event.round for event in told if isinstance(event, events.RoundFinished)] == [0, 1, 2, 3]


async def test_a_method_that_reads_sums_gets_one_vector_a_cohort() -> None:
    """From round 2 on only the sum that is read; where rows are read, rows."""
    _, _, results = await run(session_of(FedAvg()))
    kinds = [{name: tuple(kept.totals) for name, kept in result.sums.items()} for result in results]
    assert len(results) == 9
    assert all(not result.coded and not result.dense for result in results[3:] if len(result.clients) == 3)
    # A cohort of two sends its two rows while two kinds are asked for.
    assert sorted(map(str, kinds[:3])) == ["{'delta': ('one', 'size')}"] * 2 + ["{}"]
    assert kinds[3:] == [{"delta": ("size",)}] * 6
    _, _, results = await run(session_of(Median()))
    assert all("delta" in result.coded for result in results[3:])
