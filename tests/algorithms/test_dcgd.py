"""DCGD: where it converges, and the known example on which a biased operator makes it diverge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

TOP1 = {"name": "topk", "k": 1}


def counterexample() -> list[tuple[Tensor, Tensor]]:
    """f_i(y) = <a_i, y>² + |y|²/4 with y = x + (1,1,1), so that x^0 = 0 is the example's start (arXiv 2002.12410)."""
    clients = []
    for a in ([-3.0, 2.0, 2.0], [2.0, -3.0, 2.0], [2.0, 2.0, -3.0]):
        rows = torch.cat([2.0 * torch.tensor([a]), torch.eye(3)]).double()
        clients.append((rows, -rows.sum(dim=1)))
    return clients


@pytest.mark.parametrize("gamma", [0.01, 0.1])
def test_top_1_without_error_feedback_diverges_by_the_exact_factor(lab: Any, gamma: float) -> None:
    """x^t = (1 + 11γ/6)^t (1,1,1) for every γ > 0, to 1e-10."""
    session = lab.of_clients(lab.experiment("dcgd", uplink=TOP1, lr=gamma, rounds=40), counterexample())
    points = 1.0 + lab.path(session)
    expected = np.outer((1.0 + 11.0 * gamma / 6.0) ** np.arange(41), np.ones(3))
    assert np.abs(points / expected - 1.0).max() < 1e-10


def test_with_a_shared_minimiser_it_goes_there(lab: Any) -> None:
    """All ∇f_i(x*) = 0: no floor."""
    data = {"shared_minimizer": True}
    x, quadratic = lab.final("dcgd", uplink={"name": "randk", "k": 2}, data=data, rounds=200)
    assert np.linalg.norm(x - quadratic.x_star) < 1e-7


def test_with_distinct_minimisers_it_stops_in_a_neighbourhood(lab: Any) -> None:
    """The compression noise of ∇f_i(x*) != 0 stays; DIANA (see test_diana) learns it away."""
    x, quadratic = lab.final("dcgd", uplink={"name": "randk", "k": 2}, rounds=60)
    assert 1e-3 < np.linalg.norm(x - quadratic.x_star) < np.linalg.norm(quadratic.x_star)
