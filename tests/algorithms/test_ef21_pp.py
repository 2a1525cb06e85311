"""EF21-PP: G is the mean over all n, whoever took part."""

from __future__ import annotations

from typing import Any

import numpy as np

TOP1 = {"name": "topk", "k": 1}


def test_the_direction_is_the_mean_over_all_clients(lab: Any) -> None:
    """G = (1/n) Σ g_i; over the participants alone (the original's bug) it would be another vector."""
    session = lab.session("ef21-pp", uplink=TOP1, sampling="uniform", per_round=2, rounds=12)
    x, differs = session.problem.x0, 0
    for played in lab.play(session):
        g = (x - played.server.x) / 0.25
        assert float((g - played.mean("g_i")).abs().max()) < 1e-12
        differs += float((g - played.after["g_i"][list(played.participants)].mean(0)).abs().max()) > 1e-3
        x = played.server.x.clone()
    assert differs == 11  # all but the first round, in which everyone takes part


def test_it_goes_to_the_minimiser(lab: Any) -> None:
    """Distinct minimisers, Top-1, Poisson sampling with its empty rounds, both starts."""
    for g0 in ("gradient", "compressed"):
        table = {"name": "ef21-pp", "g0": g0}
        changes: dict[str, Any] = {"sampling": "poisson", "per_round": 2, "server_lr": 0.5, "rounds": 350}
        x, quadratic = lab.final(table, uplink=TOP1, **changes)
        assert np.linalg.norm(x - quadratic.x_star) < 1e-4
