"""FedProx: its fixed point, and its limits."""

from __future__ import annotations

from typing import Any

import numpy as np


def test_it_stops_at_the_biased_fixed_point(lab: Any) -> None:
    """As FedAvg with R_i = η Σ (I - η(H_i + μI))^k, to 1e-9: nearer to x*, and not there."""
    x, quadratic = lab.final({"name": "fedprox", "mu": 0.5}, local={"steps": 5}, lr=0.3, rounds=80)
    expected = quadratic.fixed_point(0.3, 5, mu=0.5)
    assert np.abs(x - expected).max() < 1e-9
    star = quadratic.x_star
    assert 1e-3 < np.linalg.norm(x - star) < np.linalg.norm(quadratic.fixed_point(0.3, 5) - star)


def test_mu_0_is_fedavg(lab: Any) -> None:
    """Bit for bit."""
    changes: dict[str, Any] = {"local": {"steps": 3}, "rounds": 5}
    prox = lab.path(lab.session({"name": "fedprox", "mu": 0.0}, **changes))
    assert np.array_equal(prox, lab.path(lab.session("fedavg", **changes)))


def test_a_large_mu_holds_clients_at_x(lab: Any) -> None:
    """The centre is x^t for the whole round: as μ grows, R_i tends to a multiple of I, and the bias vanishes."""
    table = {"name": "fedprox", "mu": 50.0}
    x, quadratic = lab.final(table, local={"steps": 5}, lr=0.01, server_lr=30.0, rounds=60)
    bias = np.linalg.norm(quadratic.fixed_point(0.3, 5) - quadratic.x_star)
    assert np.linalg.norm(x - quadratic.x_star) < 0.1 * bias
