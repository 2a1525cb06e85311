"""EF14: nothing is lost, and where it stops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch


@pytest.mark.parametrize("how", [{}, {"sampling": "uniform", "per_round": 2}])
def test_what_was_not_sent_is_kept(lab: Any, how: dict[str, Any]) -> None:
    """e_i + η ∇f_i(x) = v_i + e_i^+, where v_i has one coordinate (Top-1) and x moves by the mean of the v_i."""
    session = lab.session("ef14", uplink={"name": "topk", "k": 1}, rounds=20, **how)
    quadratic, x = lab.quadratic(session), np.zeros(lab.d)
    for played in lab.play(session):
        S = list(played.participants)
        due = played.before["e_i"].numpy()[S] + 0.25 * quadratic.gradients(x)[S]
        v = due - played.after["e_i"].numpy()[S]
        assert (np.count_nonzero(np.abs(v) > 1e-14, axis=1) == 1).all()
        assert np.abs(x - v.mean(0) - played.server.x.numpy()).max() < 1e-13
        x = played.server.x.numpy().copy()
    assert float(played.after["e_i"].abs().max()) > 1e-3


def test_it_converges_where_clients_share_the_minimiser(lab: Any) -> None:
    """No floor then; with distinct minimisers there is one, which EF21 does not have."""
    changes: dict[str, Any] = {"uplink": {"name": "topk", "k": 1}, "server_lr": 0.5, "rounds": 250}
    x, quadratic = lab.final("ef14", data={"shared_minimizer": True}, **changes)
    assert np.linalg.norm(x - quadratic.x_star) < 1e-6
    x, quadratic = lab.final("ef14", **changes)
    assert np.linalg.norm(x - quadratic.x_star) > 1e-4


def test_without_loss_it_is_fedavg_with_equal_weights(lab: Any) -> None:
    """Identity: e_i stays 0."""
    session = lab.session("ef14", local={"steps": 3}, rounds=5)
    fedavg = lab.path(lab.session({"name": "fedavg", "weights": "uniform"}, local={"steps": 3}, rounds=5))
    assert np.abs(lab.path(session) - fedavg).max() < 1e-14
    *_, played = lab.play(session)
    assert torch.equal(played.after["e_i"], torch.zeros(lab.n, lab.d).double())
