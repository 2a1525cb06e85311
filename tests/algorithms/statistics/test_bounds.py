"""With the steps their theorems allow, methods are no slower than these say; and Top-1 alone diverges as it must."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fl_core.session import Session
from fl_core.theory.setting import Setting
from fl_core.theory.steps import Step, frecon
from tests.algorithms.statistics.counterexample import exact_factor, path, with_method
from tests.algorithms.statistics.exact_moments import Floats
from tests.algorithms.statistics.rates import BOUNDED, excess_over_attained_bound, points, theorem
from tests.algorithms.statistics.trials import Trial, play, quadratic_of


@pytest.mark.slow
@pytest.mark.parametrize("case", BOUNDED)
def test_linear_rate_is_the_theorems_or_better(case: str) -> None:
    """In every round, as a mean over seeds, what the theorem bounds is below rate^t times its start, plus the floor."""
    outcome = BOUNDED[case].outcome()
    assert outcome.worst <= 1.0
    if not BOUNDED[case].floor:
        assert slope(outcome.measured) <= outcome.rate


def slope(measured: Floats) -> float:
    """The geometric mean factor a round over the second half of the run, before rounding takes over."""
    alive = measured[measured > 1e-24 * measured[0]]
    half = alive[len(alive) // 2 :]
    return float((half[-1] / half[0]) ** (1.0 / (len(half) - 1)))


@pytest.mark.parametrize("per_round", [4, 2])
def test_where_dcgds_bound_is_attained_it_holds(per_round: int) -> None:
    """f_i = ½|x - x*|²: the theorem is an equality, and E|x_t - x*|² over 200 seeds is not above it."""
    assert excess_over_attained_bound(per_round) <= 4.5


@pytest.mark.slow
@pytest.mark.parametrize("per_round", [4, 2])
def test_frecon_meets_its_sublinear_bound(per_round: int) -> None:
    """The mean of |∇f|² over T rounds is at most 2 Φ0/(γ T)."""
    data = {"d": 5, "L": 1.0, "mu": 0.25, "samples_per_client": 6, "spectrum": "each"}
    clients = {"total": 4, "per_round": per_round}
    session = Trial({"name": "frecon"}, {"name": "randk", "k": 3}, clients, 1, 0.01, "theory", data=data).session()
    setting, step = theorem(session)
    assert step.gamma == frecon(setting).gamma
    q = quadratic_of(session.problem)
    H, omega, T = q.H.mean(axis=0), setting.omega or 0.0, 150
    rho = per_round / 4 / (1.0 + omega)
    start = 0.5 * q.x_star @ H @ q.x_star + 2.0 * step.gamma * (rho / 2.0) * setting.noise(omega) / rho * np.mean(
        (q.r**2).sum(axis=1)  # ∇f_i(0) = -r_i, h_i = 0
    )
    squares = [
        np.mean([float(np.sum((H @ (x - q.x_star)) ** 2)) for x in points(session, seed, T)]) for seed in range(3)
    ]
    assert np.mean(squares) <= 2.0 * start / (step.gamma * T)


@pytest.mark.parametrize("gamma", [0.001, 0.02, 0.3])
def test_top_1_alone_diverges_by_the_exact_factor(gamma: float) -> None:
    """DCGD with Top-1 on the counterexample: x_t - x* = (1 + 11γ/6)^t (1, 1, 1), at any step."""
    t = np.arange(31)
    exact = exact_factor(gamma) ** t[:, None] * np.ones(3)
    assert np.allclose(path(with_method("dcgd", gamma, rounds=30)), exact, rtol=1e-10, atol=0.0)


def test_ef21_converges_there() -> None:
    """EF21 with Top-1 and its theoretical step: f - f* falls as the theorem says, every round."""
    session, step = _with_theoretical_step("ef21")
    H = quadratic_of(session.problem).H.mean(axis=0)
    e = path(session)
    gap = np.einsum("ti,ij,tj->t", e, H, e) / 2.0
    assert (gap <= gap[0] * (step.rate or 1.0) ** np.arange(len(gap)) * (1.0 + 1e-12)).all()
    assert gap[-1] < 0.1 * gap[0]


def test_ef14_converges_there() -> None:
    """EF14 with Top-1 and its theoretical step: |x_t - ē_t - x*|², which its theorem bounds, falls as that says."""
    session, step = _with_theoretical_step("ef14")
    virtual = [
        server.x + 1.0 - torch.stack([memory.e_i for memory in memories.values()]).mean(dim=0)
        for server, memories in play(session)
    ]
    squares = np.array([3.0, *(float(v @ v) for v in virtual)])
    assert (squares <= 3.0 * (step.rate or 1.0) ** np.arange(len(squares)) * (1.0 + 1e-12)).all()
    assert squares[-1] < 0.3 * squares[0]


def _with_theoretical_step(method: str) -> tuple[Session, Step]:
    session = with_method(method, 0.01, rounds=1)
    assert session.problem.constants is not None
    setting = Setting(session.problem.constants, omega=None, delta=session.work.compressor.delta(3))
    step = session.algorithm.theoretical_step(setting)
    assert step is not None
    return with_method(method, step.gamma, rounds=500), step
