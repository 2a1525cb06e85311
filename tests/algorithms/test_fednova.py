"""FedNova: FedAvg where all take the same steps, without objective inconsistency where they do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fl_core import Client


def test_equal_steps_make_it_fedavg(lab: Any) -> None:
    """To rounding."""
    changes: dict[str, Any] = {"local": {"steps": 3}, "rounds": 20}
    nova, fedavg = (lab.path(lab.session(name, **changes)) for name in ("fednova", "fedavg"))
    assert np.abs(nova - fedavg).max() < 1e-13


def uneven(lab: Any, **changes: Any) -> Any:
    """A session on three clients of 2, 4 and 8 samples, minibatches of 2: 1, 2 and 4 local steps."""
    source = torch.Generator().manual_seed(0)
    clients = []
    for m in (2, 4, 8):
        rows = torch.randn(m, 3, generator=source, dtype=torch.float64)
        clients.append((rows, rows.sum(dim=1) * m + torch.randn(m, generator=source, dtype=torch.float64)))
    local = {"epochs": 1, "gradient": "minibatch", "batch_size": 2, **changes.pop("local", {})}
    return lab.of_clients(lab.experiment("fednova", local=local, rounds=1, **changes), clients)


def alone(session: Any) -> list[tuple[Client, Tensor]]:
    """Each client, after its local steps from x^0, and where they ended."""
    problem = session.problem
    clients = [Client(i, 1, problem.shard(i), None, session.work, problem.oracle("cpu")) for i in range(3)]
    return [(client, client.run(session.algorithm, problem.x0, None)) for client in clients]


def test_directions_are_normalised_by_their_steps(lab: Any) -> None:
    """x^1 = x^0 + (Σ p_i τ_i) Σ p_i Δ_i/τ_i with τ = 1, 2, 4 and p = 1/7, 2/7, 4/7, from each client's Δ_i alone."""
    session = uneven(lab, lr=0.01)
    ran = alone(session)
    assert [client.steps for client, _ in ran] == [1, 2, 4]
    p, tau = np.array([1, 2, 4]) / 7, np.array([1, 2, 4])
    expected = (p * tau).sum() * sum(w / t * x.numpy() for w, t, (_, x) in zip(p, tau, ran, strict=True))
    assert np.abs(lab.path(session)[-1] - expected).max() < 1e-14


def test_momentum_counts_as_the_paper_says(lab: Any) -> None:
    """a = (τ - ρ(1-ρ^τ)/(1-ρ))/(1-ρ): the path of momentum on a constant gradient, in units of one plain step."""
    session = uneven(lab, local={"optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9}})
    x0 = session.problem.x0
    for client, x in alone(session):
        velocity = length = 0.0
        for _ in range(client.steps):
            velocity = 0.9 * velocity + 1.0
            length += velocity
        assert float(session.algorithm.local_state(client, x0, x, None).a) == pytest.approx(length, abs=1e-12)
