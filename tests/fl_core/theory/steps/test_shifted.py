"""Steps of DCGD, DIANA, COFIG and FRECON: their limits, and their promise, exactly, on small quadratics."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fl_core.theory import Setting
from fl_core.theory.steps import (
    NoTheoremError,
    cofig,
    cofig_published,
    dcgd,
    dcgd_floor,
    diana,
    frecon,
)

SEEDS = range(4)
PARTICIPATION = [(3, 0.4), (2, 0.4), (2, 1.0), (1, 0.5)]
"""(S, q): participants of 3, and the chance that a lazy operator keeps a vector; omega = 1/q - 1."""


def setting_of(problem: Any, s: int, q: float) -> Setting:
    """The lazy operator's setting with S = s."""
    return Setting(problem.constants, per_round=s, omega=1.0 / q - 1.0)


def shifted(oracle: Any, problem: Any, s: int, q: float, gamma: float) -> Any:
    """DIANA/COFIG with alpha = q on z = (x, h_1, ..., h_n), each less its value at x*."""
    H, n, d = problem.H, oracle.N, oracle.D

    def play(outcome: Any, z: np.ndarray) -> np.ndarray:
        x, h = z[:d], [z[d * (i + 1) : d * (i + 2)] for i in range(n)]
        m = {i: (H[i] @ x - h[i]) * (outcome.first[i] / q) for i in outcome.S}
        G = sum(h) / n + sum(m.values()) / s
        return np.vstack([x - gamma * G, *(h[i] + q * m[i] if i in m else h[i] for i in range(n))])

    rounds = [(o.chance, lambda z, o=o: play(o, z)) for o in oracle.outcomes(s, q)]
    return oracle.exact(d * (n + 1), rounds)


def rows(oracle: Any) -> tuple[np.ndarray, list[np.ndarray]]:
    """The matrices that pick x and each h_i out of z."""
    size = oracle.D * (oracle.N + 1)
    picks = [np.eye(size)[oracle.D * i : oracle.D * (i + 1)] for i in range(oracle.N + 1)]
    return picks[0], picks[1:]


def diana_form(oracle: Any, setting: Setting, gamma: float) -> np.ndarray:
    """V of `diana`'s docstring."""
    x, h = rows(oracle)
    rho = setting.S / setting.n / (1.0 + setting.omega)
    weight = 4.0 * setting.noise(setting.omega) / rho * gamma**2 / oracle.N
    return oracle.form(x.shape[1], (1.0, x), *((weight, h_i) for h_i in h))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("s", "q"), PARTICIPATION)
def test_diana_contracts_as_promised(oracle: Any, seed: int, s: int, q: float) -> None:
    """E V+ <= rate · V from every state, for every participation, at the step and rate that are returned."""
    problem = oracle.quadratic(seed)
    setting = setting_of(problem, s, q)
    step = cofig(setting)
    P = diana_form(oracle, setting, step.gamma)
    assert step.rate is not None
    assert step.rate < 1
    assert shifted(oracle, problem, s, q, step.gamma).excess(P, step.rate * P) <= 1e-12


def test_diana_promise_can_break(oracle: Any) -> None:
    """The check above is not vacuous: at four times the step the inequality fails on every one of its problems."""
    for seed in SEEDS:
        problem = oracle.quadratic(seed)
        setting = setting_of(problem, 3, 0.4)
        gamma = 4.0 * diana(setting).gamma
        P = diana_form(oracle, setting, gamma)
        rate = 1.0 - min(gamma * problem.constants.mu, 0.2)
        assert shifted(oracle, problem, 3, 0.4, gamma).excess(P, rate * P) > 1e-3


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("s", "q"), PARTICIPATION)
def test_nonconvex_diana_descends(oracle: Any, seed: int, s: int, q: float) -> None:
    """E Φ+ <= Φ - (γ/2)|∇f|² from every state on indefinite quadratics; at 30 times the step it fails."""
    problem = oracle.quadratic(seed, convex=False)
    setting = setting_of(problem, s, q)
    x, h = rows(oracle)

    def excess(gamma: float) -> float:
        rho, noise = s / oracle.N * q, setting.noise(1.0 / q - 1.0)
        weight = 2.0 * problem.constants.L * gamma**2 * noise / rho / oracle.N
        P = oracle.form(x.shape[1], *((weight, problem.H[i] @ x - h[i]) for i in range(oracle.N)))
        P = P + x.T @ problem.mean @ x / 2.0
        bound = P - 0.5 * gamma * x.T @ problem.mean @ problem.mean @ x
        return float(shifted(oracle, problem, s, q, gamma).excess(P, bound))

    gamma = cofig(setting).gamma
    assert excess(gamma) <= 1e-12
    assert excess(30.0 * gamma) > 1e-3


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("s", "q"), PARTICIPATION)
@pytest.mark.parametrize("shared", [True, False])
def test_dcgd_stays_below_its_bound(oracle: Any, seed: int, s: int, q: float, shared: bool) -> None:
    """E|x^t - x*|², exactly, is below (1-γmu)^t |x^0-x*|² + floor in each of 200 rounds; 0 if x* is shared."""
    problem = oracle.quadratic(seed, shared=shared)
    setting = setting_of(problem, s, q)
    step = dcgd(setting)
    floor = dcgd_floor(setting, step.gamma)
    assert (floor == 0.0) is shared
    exact = dcgd_rounds(oracle, problem, s, q, step.gamma)
    bound = 25.0
    for t, Z in enumerate(exact.second_moments(np.array([3.0, -4.0, 1.0]), 200)):
        bound = 25.0 * step.rate ** (t + 1) + floor
        assert np.trace(Z[:2, :2]) <= bound * (1 + 1e-12)


def test_dcgd_bound_is_of_the_right_order(oracle: Any) -> None:
    """The stationary E|x - x*|² is at least a fiftieth of the floor: the bound is not an empty one."""
    problem = oracle.quadratic(0, shared=False)
    setting = setting_of(problem, 2, 0.4)
    gamma = dcgd(setting).gamma
    *_, last = dcgd_rounds(oracle, problem, 2, 0.4, gamma).second_moments(np.array([3.0, -4.0, 1.0]), 3000)
    assert np.trace(last[:2, :2]) >= dcgd_floor(setting, gamma) / 50


def dcgd_rounds(oracle: Any, problem: Any, s: int, q: float, gamma: float) -> Any:
    """DCGD on z = (x, 1)."""

    def play(outcome: Any, z: np.ndarray) -> np.ndarray:
        G = sum((problem.H[i] @ z[:2] - np.outer(problem.b[i], z[2])) * (outcome.first[i] / q) for i in outcome.S)
        return np.vstack([z[:2] - gamma * G / s, z[2:]])

    return oracle.exact(3, [(o.chance, lambda z, o=o: play(o, z)) for o in oracle.outcomes(s, q)])


def frecon_rounds(oracle: Any, problem: Any, setting: Setting, lam: float, gamma: float, u_at: str = "previous") -> Any:
    """FRECON on z = (x, g, h_1, ..., h_n), alpha = q = 1/(1 + omega)."""
    H, n, d, q, s = problem.H, oracle.N, oracle.D, 1.0 / (1.0 + setting.omega), int(setting.S)

    def play(outcome: Any, z: np.ndarray) -> np.ndarray:
        x, g, h = z[:d], z[d : 2 * d], [z[d * (i + 2) : d * (i + 3)] for i in range(n)]
        moved = x - gamma * g
        at = x if u_at == "previous" else moved
        differences = sum(H[i] @ (moved - x) * (outcome.first[i] / q) for i in outcome.S) / s
        u = {i: (H[i] @ at - h[i]) * (outcome.second[i] / q) for i in outcome.S}
        g = differences + (1 - lam) * g + lam * (sum(u.values()) / s + sum(h) / n)
        return np.vstack([moved, g, *(h[i] + q * u[i] if i in u else h[i] for i in range(n))])

    rounds = [(o.chance, lambda z, o=o: play(o, z)) for o in oracle.outcomes(s, q, 2)]
    return oracle.exact(d * (n + 2), rounds)


@pytest.mark.parametrize("convex", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("s", "q"), PARTICIPATION)
def test_frecon_descends(oracle: Any, seed: int, s: int, q: float, convex: bool) -> None:
    """E Φ+ <= Φ - (γ/2)|∇f|² from every state, on definite and indefinite quadratics; at 30 times the step it fails."""
    problem = oracle.quadratic(seed, convex=convex)
    setting = setting_of(problem, s, q)
    rho, noise = s / oracle.N * q, setting.noise(setting.omega)
    lam = rho / 2.0
    size = oracle.D * (oracle.N + 2)
    picks = [np.eye(size)[oracle.D * i : oracle.D * (i + 1)] for i in range(oracle.N + 2)]
    x, g, h = picks[0], picks[1], picks[2:]

    def excess(gamma: float) -> float:
        shifts = 2.0 * gamma * lam * noise / rho / oracle.N
        P = oracle.form(
            size,
            (gamma / (2 * lam), g - problem.mean @ x),
            *((shifts, problem.H[i] @ x - h[i]) for i in range(oracle.N)),
        )
        P = P + x.T @ problem.mean @ x / 2.0
        bound = P - 0.5 * gamma * x.T @ problem.mean @ problem.mean @ x
        return float(frecon_rounds(oracle, problem, setting, lam, gamma).excess(P, bound))

    gamma = frecon(setting).gamma
    assert gamma == pytest.approx(frecon(setting, lam=lam).gamma, rel=1e-14)
    assert excess(gamma) <= 1e-12
    assert excess(30.0 * gamma) > 1e-4


def test_frecon_lambda_is_the_best(oracle: Any) -> None:
    """lam = ρ/2 allows the largest step; both the step and the published one have the same form there."""
    setting = setting_of(oracle.quadratic(1), 2, 0.4)
    rho = 2 / 3 * 0.4
    best = frecon(setting).gamma
    assert best > frecon(setting, lam=0.4 * rho).gamma
    assert best > frecon(setting, lam=0.6 * rho).gamma
    c = setting.constants
    assert best >= 1.0 / (c.L + c.L_tilde * math.sqrt(10 * 2.5**2 * 3 / 4))


def test_without_noise_all_are_gradient_descent(oracle: Any) -> None:
    """omega = 0 and all clients: 1/L for each method, in both regimes."""
    for convex in (True, False):
        setting = Setting(oracle.quadratic(2, convex=convex).constants, omega=0.0)
        for method in (dcgd, diana, cofig, frecon):
            assert method(setting).gamma == 1.0 / setting.constants.L


def test_formula_of_the_sheet(oracle: Any) -> None:
    """With all clients the steps are those of the sheet, and the text shows the formula with its numbers."""
    c = oracle.quadratic(3, shared=False).constants
    setting = Setting(c, omega=4.0)
    assert dcgd(setting).gamma == pytest.approx(1.0 / (c.L + 2 * 4.0 * c.L_max / 3), rel=1e-14)
    step = diana(setting)
    assert step.gamma == pytest.approx(1.0 / (c.L + 6 * 4.0 * c.L_max / 3), rel=1e-14)
    assert "1/(L + 6 w' L_max)" in step.formula
    assert f"{step.gamma:.6g}" in step.formula
    assert "1901.09269" in step.reference


def test_published_cofig(oracle: Any) -> None:
    """The published COFIG steps: the convex one is at most ours here, the nonconvex one has its three terms."""
    convex = Setting(oracle.quadratic(0).constants, per_round=2, omega=3.0)
    assert cofig_published(convex).gamma <= cofig(convex).gamma
    c = oracle.quadratic(0, convex=False).constants
    nonconvex = cofig_published(Setting(c, per_round=2, omega=3.0)).gamma * c.L_max
    assert nonconvex == pytest.approx(min(0.5, 2 / (20 * 3 ** (2 / 3)), 2 / (40 * math.sqrt(3))), rel=1e-14)


def test_weakly_convex_dcgd(oracle: Any) -> None:
    """mu = 0 takes the factor 8, or 4 where the minimiser is shared."""
    problem = oracle.quadratic(0, shared=False)
    c = problem.constants
    for sigma, factor in ((1.0, 8), (0.0, 4)):
        flat = type(c)(L=c.L, L_i=c.L_i, mu=0.0, sigma_star_sq=sigma)
        step = dcgd(Setting(flat, omega=3.0))
        assert step.gamma == pytest.approx(1.0 / (c.L + factor * c.L_max), rel=1e-14)
        assert step.rate is None


def test_where_there_is_no_theorem(oracle: Any) -> None:
    """A biased operator, several local steps, alpha too large, nonconvex DCGD: each an error that says so."""
    c = oracle.quadratic(0).constants
    with pytest.raises(NoTheoremError, match="unbiased"):
        diana(Setting(c, omega=None))
    with pytest.raises(NoTheoremError, match="5 local steps"):
        diana(Setting(c, omega=1.0, tau=5))
    with pytest.raises(NoTheoremError, match="alpha"):
        diana(Setting(c, omega=1.0), alpha=0.6)
    with pytest.raises(NoTheoremError, match="neighbourhood"):
        dcgd(Setting(oracle.quadratic(0, convex=False).constants, omega=1.0))
    with pytest.raises(NoTheoremError, match="Poisson"):
        frecon(Setting(c, per_round=2, omega=1.0, sampling="poisson"))
    with pytest.raises(NoTheoremError, match="lam"):
        frecon(Setting(c, omega=1.0), lam=0.0)
    with pytest.raises(NoTheoremError, match=r"server.*optimizer\.lr"):
        dcgd_floor(Setting(oracle.quadratic(0, convex=False).constants, omega=1.0), 0.1)
