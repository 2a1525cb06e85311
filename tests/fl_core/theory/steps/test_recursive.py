"""Steps of MARINA, PP-MARINA, EF21, EF21-PP and EF14: limits, and their promise, exactly, on small quadratics."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fl_core.theory import Setting
from fl_core.theory.steps import NoTheoremError, ef14, ef21, ef21_pp, marina, pp_marina

SEEDS = range(4)


def marina_rounds(oracle: Any, problem: Any, s: int, q: float, p: float, gamma: float) -> Any:
    """MARINA (S = n) and PP-MARINA on z = (x, g): x+ = x - γg, then a coin."""
    H, d = problem.H, oracle.D

    def sync(z: np.ndarray) -> np.ndarray:
        moved = z[:d] - gamma * z[d:]
        return np.vstack([moved, problem.mean @ moved])

    def compressed(outcome: Any, z: np.ndarray) -> np.ndarray:
        moved = z[:d] - gamma * z[d:]
        change = sum(H[i] @ (moved - z[:d]) * (outcome.first[i] / q) for i in outcome.S) / s
        return np.vstack([moved, z[d:] + change])

    rounds = [((1 - p) * o.chance, lambda z, o=o: compressed(o, z)) for o in oracle.outcomes(s, q)]
    return oracle.exact(2 * d, [(p, sync), *rounds])


def marina_excess(oracle: Any, problem: Any, s: int, q: float, p: float, gamma: float) -> float:
    """How far E Ψ+ exceeds (1 - γ mu) Ψ (mu > 0), or Ψ - (γ/2)|∇f|² with half the weight on the error."""
    x, g = np.eye(2 * oracle.D)[: oracle.D], np.eye(2 * oracle.D)[oracle.D :]
    mu = problem.constants.mu
    weight = gamma / p if mu > 0 else gamma / (2 * p)
    P = oracle.form(2 * oracle.D, (weight, g - problem.mean @ x)) + x.T @ problem.mean @ x / 2
    fall = 0.5 * gamma * x.T @ problem.mean @ problem.mean @ x
    bound = (1 - gamma * mu) * P if mu > 0 else P - fall
    return float(marina_rounds(oracle, problem, s, q, p, gamma).excess(P, bound))


@pytest.mark.parametrize("convex", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("s", "q"), [(3, 0.4), (2, 0.4), (2, 1.0), (1, 0.5)])
def test_marina_keeps_its_promise(oracle: Any, seed: int, s: int, q: float, convex: bool) -> None:
    """From every state: the PL contraction (mu > 0) and the nonconvex descent; at 30 times the step both fail."""
    problem = oracle.quadratic(seed, convex=convex)
    setting = Setting(problem.constants, per_round=s, omega=1 / q - 1)
    step = marina(setting) if s == 3 else pp_marina(setting)
    p = q * s / 3
    assert marina_excess(oracle, problem, s, q, p, step.gamma) <= 1e-12
    assert marina_excess(oracle, problem, s, q, p, 30 * step.gamma) > 1e-3
    assert (step.rate is not None) is convex


def test_pp_marina_with_all_clients_is_marina(oracle: Any) -> None:
    """S = n gives MARINA's step; fewer clients never a larger one; ours is not below the published one."""
    c = oracle.quadratic(0, convex=False).constants
    assert pp_marina(Setting(c, omega=3.0)).gamma == marina(Setting(c, omega=3.0)).gamma
    fewer = Setting(c, per_round=2, omega=3.0)
    step, p = pp_marina(fewer), 2 / 3 / 4
    assert step.gamma < marina(Setting(c, omega=3.0)).gamma
    assert step.gamma >= 1 / (c.L + c.L_tilde * math.sqrt((1 - p) * 4 / (p * 2)))


def test_marina_formula_of_the_sheet(oracle: Any) -> None:
    """mu = 0 and mu > 0, with a probability of the caller's and with the default 1/(1+omega)."""
    flat, c = oracle.quadratic(1, convex=False).constants, oracle.quadratic(1).constants
    expected = 1 / (flat.L + flat.L_tilde * math.sqrt(0.7 * 3 / (0.3 * 3)))
    assert marina(Setting(flat, omega=3.0), p=0.3).gamma == pytest.approx(expected, rel=1e-14)
    assert marina(Setting(c, omega=3.0)).gamma == marina(Setting(c, omega=3.0), p=0.25).gamma
    assert marina(Setting(c, omega=3.0), p=1e-4).gamma == pytest.approx(
        min(1e-4 / (2 * c.mu), 1 / (c.L + c.L_tilde * math.sqrt(2 * 0.9999 / 1e-4))), rel=1e-12
    )


def ef21_rounds(oracle: Any, problem: Any, s: int, q: float, gamma: float) -> Any:
    """EF21(-PP) on z = (x, g_1, ..., g_n) with C(v) = v with probability q, else 0: delta = q."""
    H, n, d = problem.H, oracle.N, oracle.D

    def play(outcome: Any, z: np.ndarray) -> np.ndarray:
        g = [z[d * (i + 1) : d * (i + 2)] for i in range(n)]
        x = z[:d] - gamma * sum(g) / n
        return np.vstack([x, *(H[i] @ x if outcome.first.get(i, False) else g[i] for i in range(n))])

    rounds = [(o.chance, lambda z, o=o: play(o, z)) for o in oracle.outcomes(s, q)]
    return oracle.exact(d * (n + 1), rounds)


def ef21_theta(step: Any, name: str = "theta") -> float:
    """θ as the step's text gives it."""
    return float(step.formula.split(f"{name} = ")[1].split(",")[0])


@pytest.mark.parametrize("mean", ["quadratic", "arithmetic"])
@pytest.mark.parametrize("convex", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("s", "q"), [(3, 0.4), (2, 0.4), (2, 1.0), (1, 0.5)])
def test_ef21_keeps_its_promise(oracle: Any, seed: int, s: int, q: float, convex: bool, mean: Any) -> None:
    """From every state, for both means of L_i: contraction (mu > 0) and descent; at 40 times the step both fail."""
    problem = oracle.quadratic(seed, convex=convex)
    setting = Setting(problem.constants, per_round=s, omega=None, delta=q)
    step = ef21(setting, mean) if s == 3 else ef21_pp(setting, mean)
    n, d, mu = oracle.N, oracle.D, problem.constants.mu
    size = d * (n + 1)
    picks = [np.eye(size)[d * i : d * (i + 1)] for i in range(n + 1)]
    L_i = problem.constants.L_i.numpy()
    shares = np.full(n, 1 / n) if mean == "quadratic" else L_i / L_i.sum()
    theta = ef21_theta(step)

    def excess(gamma: float) -> float:
        x, total = picks[0], gamma / theta if mu > 0 else gamma / (2 * theta)
        errors = [(total / (n * n * shares[i]), picks[i + 1] - problem.H[i] @ x) for i in range(n)]
        P = oracle.form(size, *errors) + x.T @ problem.mean @ x / 2
        fall = 0.5 * gamma * x.T @ problem.mean @ problem.mean @ x
        bound = (1 - gamma * mu) * P if mu > 0 else P - fall
        return float(ef21_rounds(oracle, problem, s, q, gamma).excess(P, bound))

    assert excess(step.gamma) <= 1e-6 * step.gamma  # theta is read off a text of 6 digits
    assert excess(40 * step.gamma) > 1e-3


def test_ef21_formula_of_the_sheet(oracle: Any) -> None:
    """sqrt(β/θ) = (1 + sqrt(1-δ))/δ - 1; δ = 1 gives 1/L; the arithmetic mean allows a larger step."""
    c = oracle.quadratic(2, convex=False).constants
    for delta in (0.01, 0.3, 0.9):
        expected = 1 / (c.L + c.L_tilde * ((1 + math.sqrt(1 - delta)) / delta - 1))
        setting = Setting(c, omega=None, delta=delta)
        assert ef21(setting).gamma == pytest.approx(expected, rel=1e-12)
        assert ef21(setting, "arithmetic").gamma > ef21(setting).gamma
        assert ef21_pp(setting).gamma == pytest.approx(expected, rel=1e-12)
    for method in (ef21, ef21_pp, ef14):
        assert method(Setting(oracle.quadratic(2).constants, delta=1.0)).gamma == pytest.approx(
            1 / oracle.quadratic(2).constants.L
        )


def test_ef21_pp_has_the_best_rho(oracle: Any) -> None:
    """No ρ gives a larger step, the sheet's choice among them, and θ stays positive for tiny q δ."""
    c = oracle.quadratic(2, convex=False).constants
    q, delta = 1 / 3, 0.05
    gamma = ef21_pp(Setting(c, per_round=1, omega=None, delta=delta)).gamma
    theta = 1 - math.sqrt(1 - delta)
    beta = (1 - delta) / theta
    limit = q * theta / (1 - q)
    for share in np.linspace(0.01, 0.99, 99):
        rho = share * limit
        B, theta_p = beta * q + (1 + 1 / rho) * (1 - q), q * theta - rho * (1 - q)
        assert gamma >= (1 - 1e-12) / (c.L + c.L_tilde * math.sqrt(B / theta_p))
    assert ef21_pp(Setting(c, per_round=1e-3, omega=None, delta=1e-4)).gamma > 0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("q", [0.2, 0.7])
def test_ef14_contracts_where_clients_share_the_minimiser(oracle: Any, seed: int, q: float) -> None:
    """E V+ <= rate · V from every state with the lazy contraction (delta = q); at 30 times the step it fails."""
    problem = oracle.quadratic(seed)
    c = problem.constants
    step = ef14(Setting(c, omega=None, delta=q))
    H, n, d = problem.H, oracle.N, oracle.D
    size = d * (n + 1)
    picks = [np.eye(size)[d * i : d * (i + 1)] for i in range(n + 1)]

    def excess(gamma: float) -> float:
        def play(outcome: Any, z: np.ndarray) -> np.ndarray:
            x = z[:d]
            v = [z[d * (i + 1) : d * (i + 2)] + gamma * H[i] @ x for i in range(n)]
            sent = sum(v[i] * outcome.first[i] for i in range(n)) / n
            return np.vstack([x - sent, *(v[i] * (not outcome.first[i]) for i in range(n))])

        exact = oracle.exact(size, [(o.chance, lambda z, o=o: play(o, z)) for o in oracle.outcomes(n, q)])
        weight = 4 * gamma * (2 * c.L + c.mu) / q / n
        virtual = picks[0] - sum(picks[1:]) / n
        P = oracle.form(size, (1.0, virtual), *((weight, e) for e in picks[1:]))
        return float(exact.excess(P, (1 - min(gamma * c.mu / 2, q / 4)) * P))

    assert excess(step.gamma) <= 1e-12
    assert excess(30 * step.gamma) > 1e-3


def test_without_noise_all_are_gradient_descent(oracle: Any) -> None:
    """omega = 0 (or p = 1, or delta = 1) and all clients: 1/L, also where 1/L exceeds p/(2 mu)."""
    for convex in (True, False):
        c = oracle.quadratic(2, convex=convex).constants
        assert marina(Setting(c, omega=0.0)).gamma == 1 / c.L
        assert marina(Setting(c, omega=5.0), p=1.0).gamma == 1 / c.L
        assert ef21(Setting(c)).gamma == 1 / c.L


def test_where_there_is_no_theorem(oracle: Any) -> None:
    """Partial participation where the method has none, biased or non-contractive operators, a coin of 0."""
    c = oracle.quadratic(0).constants
    with pytest.raises(NoTheoremError, match="pp-marina"):
        marina(Setting(c, per_round=2, omega=1.0))
    with pytest.raises(NoTheoremError, match="ef21-pp"):
        ef21(Setting(c, per_round=2, delta=0.5))
    with pytest.raises(NoTheoremError, match="contractive"):
        ef21(Setting(c, delta=None))
    with pytest.raises(NoTheoremError, match="probability"):
        marina(Setting(c, omega=1.0), p=0.0)
    with pytest.raises(NoTheoremError, match="Poisson"):
        pp_marina(Setting(c, per_round=2, omega=1.0, sampling="poisson"))
    with pytest.raises(NoTheoremError, match="nonconvex"):
        ef14(Setting(oracle.quadratic(0, convex=False).constants, delta=0.5))
