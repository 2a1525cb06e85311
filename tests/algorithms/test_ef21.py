"""EF21: the example on which Top-1 alone diverges, its bound on every iterate, and its start."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fl_core.theory import LinearProblem, Setting, solved, steps

TOP1 = {"name": "topk", "k": 1}


@pytest.mark.parametrize("g0", ["gradient", "compressed"])
def test_it_converges_on_the_counterexample_as_its_theorem_says(lab: Any, g0: str) -> None:
    """f_i(y) = <a_i, y>² + |y|²/4 from (1,1,1), theory's step: f - f* + (γ/θ) mean|g_i - ∇f_i|² falls as (1-γμ)^t."""
    clients = []
    for a in ([-3.0, 2.0, 2.0], [2.0, -3.0, 2.0], [2.0, 2.0, -3.0]):
        rows = torch.cat([2.0 * torch.tensor([a]), torch.eye(3)]).double()
        clients.append((rows, -rows.sum(dim=1)))
    constants = solved(LinearProblem(clients, "mse"))
    step = steps.ef21(Setting(constants, omega=None, delta=1 / 3))
    table = {"name": "ef21", "g0": g0}
    session = lab.of_clients(lab.experiment(table, uplink=TOP1, lr=step.gamma, rounds=250), clients)
    quadratic = lab.quadratic(session)
    theta = 1.0 - (2 / 3) ** 0.5
    psi = []
    for x, played in zip(lab.path(session), lab.play(session), strict=False):  # x^t, and g_i at x^t
        y = x - quadratic.x_star
        gap = 0.5 * y @ quadratic.H.mean(0) @ y
        error = ((played.after["g_i"].numpy() - quadratic.gradients(x)) ** 2).sum(1).mean()
        psi.append(gap + step.gamma / theta * error)
    assert step.rate is not None
    bound = psi[0] * step.rate ** np.arange(len(psi))
    assert (np.array(psi) <= bound * (1 + 1e-9)).all()
    assert psi[-1] < 0.5 * psi[0]


@pytest.mark.parametrize("uplink", [TOP1, {"name": "rankk", "k": 1}, {"name": "randk", "k": 1}, {"name": "natural"}])
def test_it_goes_to_the_minimiser_with_any_contraction(lab: Any, uplink: dict[str, Any]) -> None:
    """Biased, or unbiased and scaled by 1/(1+ω)."""
    x, quadratic = lab.final("ef21", uplink=uplink, server_lr=0.8, rounds=200)
    assert np.linalg.norm(x - quadratic.x_star) < 1e-5


def test_the_whole_start_is_charged(lab: Any) -> None:
    """Round 1: W d a client with g0 = "gradient", B(C) with "compressed"."""
    first = {}
    for g0 in ("gradient", "compressed"):
        session = lab.session({"name": "ef21", "g0": g0}, uplink=TOP1, rounds=1)
        (played,) = lab.play(session)
        first[g0] = played.bits_up
    assert first == {"gradient": lab.n * 64 * lab.d, "compressed": lab.n * 8 * 9}  # 8 bytes and an index
