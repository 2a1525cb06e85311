"""FedAvg's weights and its bias."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch


def test_it_stops_at_the_biased_fixed_point(lab: Any) -> None:
    """Σ R_i (H_i x - c_i) = 0 with R_i = η Σ_{k<τ} (I - ηH_i)^k, to 1e-9; that is not x*; η_g does not matter."""
    for server_lr in (1.0, 0.6):
        x, quadratic = lab.final("fedavg", local={"steps": 5}, lr=0.4, server_lr=server_lr, rounds=60)
        assert np.abs(x - quadratic.fixed_point(0.4, 5)).max() < 1e-9
        assert np.abs(x - quadratic.x_star).max() > 1e-3


@pytest.mark.parametrize("weights", ["size", "uniform"])
def test_weights(lab: Any, weights: str) -> None:
    """Clients count by their numbers of samples, or equally: two clients that want 1 and 3, with 1 and 3 samples."""
    ones, threes = torch.ones(1, 1).double(), torch.ones(3, 1).double()
    clients = [(ones, ones[:, 0]), (threes, 3 * threes[:, 0])]
    session = lab.of_clients(lab.experiment({"name": "fedavg", "weights": weights}, lr=0.5, rounds=1), clients)
    expected = 2.5 if weights == "size" else 2.0  # one step of 1/L takes each client to its own minimiser
    assert lab.path(session)[-1] == pytest.approx([expected], abs=1e-14)


def test_a_partial_sum_is_divided_by_the_weights_of_those_who_took_part(lab: Any) -> None:
    """With homogeneous clients it does not matter who takes part: two of five give the step of all."""
    changes: dict[str, Any] = {"data": {"homogeneous": True}, "rounds": 10}
    some = lab.path(lab.session("fedavg", sampling="uniform", per_round=2, **changes))
    everyone = lab.path(lab.session("fedavg", **changes))
    assert np.abs(some - everyone).max() < 1e-14


@pytest.mark.parametrize("name", ["adam", "yogi", "adagrad"])
def test_adaptive_server_optimizers(lab: Any, name: str) -> None:
    """FedAdam, FedYogi, FedAdagrad: -G is the mean change, the server's optimizer does the rest; they get near x*."""
    lr = 1.0 if name == "adagrad" else 0.1
    x, quadratic = lab.final("fedavg", server={"name": name, "lr": lr}, rounds=150)
    assert np.linalg.norm(x - quadratic.x_star) < 0.02 * np.linalg.norm(quadratic.x_star)


@pytest.mark.parametrize("weights", ["size", "uniform"])
def test_a_round_without_participants_moves_nothing(lab: Any, weights: str) -> None:
    """Under Poisson sampling nobody may come: x stays where it is, and is not NaN."""
    table = {"name": "fedavg", "weights": weights}
    path = lab.path(lab.session(table, sampling="poisson", per_round=1, rounds=40))
    resting = [bool((a == b).all()) for a, b in itertools.pairwise(path)]
    assert 5 < sum(resting) < 25  # each of 40 rounds is empty with probability 0.8^5 = 1/3
    assert np.isfinite(path).all()
