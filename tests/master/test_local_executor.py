"""The master's own pool as an executor: the same bytes as a runner of its own, errors as the run's errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from algorithms.fedavg import FedAvg
from fl_core.errors import UserCodeError
from fl_core.execution.cohort import CohortResult, CohortRunner, CohortWork
from fl_core.execution.pool import DevicePool, parse_devices
from fl_core.execution.site import Site
from fl_core.session import Session, open_session
from master.cluster import Cluster
from master.local_executor import LocalExecutor
from tests.conftest import small_experiment


@dataclass(frozen=True)
class Raising(FedAvg):
    """FedAvg that cannot be run for client 2."""

    def local_gradient(self, client: Any, x: torch.Tensor, s: Any) -> torch.Tensor:
        if client.id == 2:
            raise ZeroDivisionError("client 2 it is")
        return client.gradient(x)


@dataclass(frozen=True)
class Stepping(FedAvg):
    """FedAvg with one local step."""

    def local_steps(self, client: Any, s: Any) -> int:
        return 1


@dataclass(frozen=True)
class Doubling(Stepping):
    """The same with twice the gradient."""

    def local_gradient(self, client: Any, x: torch.Tensor, s: Any) -> torch.Tensor:
        return 2 * client.gradient(x)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """With a local pool of two threads."""
    pool = DevicePool(parse_devices("cpu"), 2)
    made = Cluster(lambda event: None)
    made.join(LocalExecutor(made, pool))
    yield made
    await made.close()
    await asyncio.to_thread(pool.close)


async def results_of(cluster: Cluster, session: Session) -> list[CohortResult]:
    """Of the first round."""
    round = session.server().begin_round(1)
    works = [CohortWork(1, k, cohort, {}, {}) for k, cohort in enumerate(round.cohorts)]
    cluster.open_run("r", session)
    try:
        results = await cluster.run_round("r", round, works)
        assert results is not None
        return results
    finally:
        cluster.close_run("r")


async def test_two_threads_give_what_one_runner_gives(cluster: Cluster) -> None:
    """Payload by payload, in cohort order."""
    session = open_session(small_experiment())
    found = await results_of(cluster, session)
    runner = CohortRunner(session.problem, session.algorithm, session.work, torch.device("cpu"))
    round = session.server().begin_round(1)
    for k, result in enumerate(found):
        expected = runner.run(round.broadcast, CohortWork(1, k, round.cohorts[k], {}, {}))
        assert result.clients == expected.clients == (k,)
        assert np.array_equal(result.coded["delta"].payload, expected.coded["delta"].payload)


async def test_a_client_s_error_is_the_round_s(cluster: Cluster) -> None:
    """With the client's number; afterwards the same executor runs another run."""
    session = open_session(small_experiment())
    with pytest.raises(UserCodeError, match="client 2 it is") as caught:
        await results_of(cluster, replace(session, algorithm=Raising()))
    assert caught.value.client == 2
    assert len(await results_of(cluster, session)) == 4


def test_a_replica_left_behind_is_not_used() -> None:
    """A run set up again under its name (a worker's master came back) computes with what it has now."""
    session = open_session(small_experiment())
    round = session.server().begin_round(1)
    pool = DevicePool(parse_devices("cpu"), 1)

    def payload(algorithm: FedAvg) -> bytes:
        site = Site("r", session.problem, algorithm, session.work)
        site.receive(round.broadcast)
        work = CohortWork(1, 0, (0,), {}, {})
        return pool.submit(lambda slot: site.execute(slot, work)).result().coded["delta"].payload.tobytes()

    plain, doubled = payload(Stepping()), payload(Doubling())
    pool.close()
    assert (np.frombuffer(doubled) == 2 * np.frombuffer(plain)).all()
