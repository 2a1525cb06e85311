"""EF14: nothing is lost, and where it stops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch


@pytest.mark.parametrize("how", [{}, {"sampling": "uniform", "per_round": 2}])
def test_what_was_not_sent_is_kept(lab: Any, how: dict[str, Any]) -> None:
    """x^0 - x^T + η_g mean e_i = η_g Σ_t mean of the local changes, to 1e-12: sums are kept. Partial: each client's
    are."""
    session = lab.session("ef14", uplink={"name": "topk", "k": 1}, rounds=20, **how)
    quadratic, n = lab.quadratic(session), lab.n
    due = np.zeros((n, lab.d))
    sent = np.zeros((n, lab.d))
    x = np.zeros(lab.d)
    for played in lab.play(session):
        S = list(played.participants)
        change = 0.25 * quadratic.gradients(x)
        due[S] += change[S]
        before, after = played.before["e_i"].numpy(), played.after["e_i"].numpy()
        sent[S] += before[S] + change[S] - after[S]
        assert np.abs(sent + after - due).max() < 1e-12
        step = (before[S] + change[S] - after[S]).mean(0)
        assert np.abs(x - step - played.server.x.numpy()).max() < 1e-13
        assert (np.count_nonzero(before[S] + change[S] - after[S], axis=1) <= 1).all()  # Top-1 sent one coordinate
        x = played.server.x.numpy().copy()
    assert np.abs(after).max() > 1e-3


def test_it_converges_where_clients_share_the_minimiser(lab: Any) -> None:
    """No floor then; with distinct minimisers there is one, which EF21 does not have."""
    changes: dict[str, Any] = {"uplink": {"name": "topk", "k": 1}, "server_lr": 0.5, "rounds": 700}
    x, quadratic = lab.final("ef14", data={"shared_minimizer": True}, **changes)
    assert np.linalg.norm(x - quadratic.x_star) < 1e-8
    x, quadratic = lab.final("ef14", **changes)
    assert np.linalg.norm(x - quadratic.x_star) > 1e-4


def test_without_loss_it_is_fedavg_with_equal_weights(lab: Any) -> None:
    """Identity: e_i stays 0."""
    session = lab.session("ef14", local={"steps": 3}, rounds=5)
    fedavg = lab.path(lab.session({"name": "fedavg", "weights": "uniform"}, local={"steps": 3}, rounds=5))
    assert np.abs(lab.path(session) - fedavg).max() < 1e-14
    *_, played = lab.play(session)
    assert torch.equal(played.after["e_i"], torch.zeros(lab.n, lab.d).double())
