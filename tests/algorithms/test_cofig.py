"""COFIG is DIANA with the shifts' mean kept under partial participation."""

from __future__ import annotations

from typing import Any

import numpy as np


def test_it_is_diana(lab: Any) -> None:
    """Bit for bit, with all clients and with some."""
    for participation in ({}, {"sampling": "uniform", "per_round": 2}):
        changes: dict[str, Any] = {"uplink": {"name": "randk", "k": 1}, "rounds": 8, **participation}
        assert np.array_equal(lab.path(lab.session("cofig", **changes)), lab.path(lab.session("diana", **changes)))


def test_h_moves_by_the_sum_over_n(lab: Any) -> None:
    """h += (α/n) Σ_S u_i, not α mean_S: with two of five clients and no compression, h^1 = (1/5) Σ_S ∇f_i."""
    session = lab.session("cofig", sampling="uniform", per_round=2, rounds=1)
    (played,) = lab.play(session)
    gradients = lab.quadratic(session).gradients(np.zeros(lab.d))[list(played.participants)]
    assert np.abs(played.server.state.h.numpy() - gradients.sum(0) / 5).max() < 1e-14
