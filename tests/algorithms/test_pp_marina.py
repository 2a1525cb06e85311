"""PP-MARINA: its probability and who takes part."""

from __future__ import annotations

from typing import Any

import numpy as np

RANDK = {"name": "randk", "k": 2}


def test_p_counts_participants(lab: Any) -> None:
    """(r/n)/(1+ω) = (2/5)(1/2) = 0.2, within 5 standard deviations of 400 coins; p of the file goes first."""
    session = lab.session("pp-marina", uplink=RANDK, sampling="uniform", per_round=2)
    server, coins = session.server(), 0
    for t in range(2, 402):
        coins += len(server.begin_round(t).participants) == 5
    assert abs(coins - 80) < 5 * (400 * 0.2 * 0.8) ** 0.5
    forced = lab.session({"name": "pp-marina", "p": 0.9}, uplink=RANDK)
    assert forced.algorithm.probability(forced.server()) == 0.9


def test_it_goes_to_the_minimiser(lab: Any) -> None:
    """Distinct minimisers, Rand-K, two of five clients, uniform or Poisson."""
    for sampling in ("uniform", "poisson"):
        changes: dict[str, Any] = {"sampling": sampling, "per_round": 2, "server_lr": 0.5, "rounds": 250}
        x, quadratic = lab.final("pp-marina", uplink=RANDK, **changes)
        assert np.linalg.norm(x - quadratic.x_star) < 1e-5


def test_with_everyone_it_is_marina(lab: Any) -> None:
    """r = n: the same p, the same bytes."""
    pp, marina = (lab.path(lab.session(name, uplink=RANDK, rounds=10)) for name in ("pp-marina", "marina"))
    assert np.array_equal(pp, marina)
