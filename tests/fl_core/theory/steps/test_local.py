"""Steps of FedAvg, FedProx, SCAFFOLD and GradSkip: limits, and their promise, exactly, on small quadratics."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from fl_core.theory import Setting
from fl_core.theory.steps import NoTheoremError, dcgd, fedavg, fedprox, gradskip, scaffold

SEEDS = range(4)


def scaffold_rounds(oracle: Any, problem: Any, setting: Setting, local: float) -> Any:
    """SCAFFOLD, option II, η_g = 1, with compressed updates, on z = (x, c_1, ..., c_n) less its value at x*."""
    H, n, d, tau, s = problem.H, oracle.N, oracle.D, setting.tau, int(setting.S)
    q = 1 / (1 + setting.omega)

    def play(outcome: Any, z: np.ndarray) -> np.ndarray:
        x, c_i = z[:d], [z[d * (i + 1) : d * (i + 2)] for i in range(n)]
        c = sum(c_i) / n
        moved, shifts = np.zeros_like(x), list(c_i)
        for i in outcome.S:
            y = x
            for _ in range(tau):
                y = y - local * (H[i] @ y - c_i[i] + c)
            moved = moved + (y - x) * (outcome.first[i] / q) / s
            change = (x - y) / (tau * local) - c
            shifts[i] = c_i[i] + q * change * (outcome.second[i] / q)
        return np.vstack([x + moved, *shifts])

    rounds = [(o.chance, lambda z, o=o: play(o, z)) for o in oracle.outcomes(s, q, 2)]
    return oracle.exact(d * (n + 1), rounds)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("s", "q"), [(3, 0.4), (2, 0.4), (2, 1.0), (1, 0.5)])
def test_scaffold_with_one_step_contracts(oracle: Any, seed: int, s: int, q: float) -> None:
    """E V+ <= rate · V from every state, compressed or not, all or some clients; at 6 times the step it fails."""
    problem = oracle.quadratic(seed)
    setting = Setting(problem.constants, per_round=s, omega=1 / q - 1)
    step = scaffold(setting)
    size = oracle.D * (oracle.N + 1)
    picks = [np.eye(size)[oracle.D * i : oracle.D * (i + 1)] for i in range(oracle.N + 1)]

    def excess(gamma: float) -> float:
        rho = q * s / oracle.N
        weight = 4 * setting.noise(1 / q - 1) / rho * gamma**2 / oracle.N
        P = oracle.form(size, (1.0, picks[0]), *((weight, c) for c in picks[1:]))
        rate = 1 - min(gamma * problem.constants.mu, rho / 2)
        return float(scaffold_rounds(oracle, problem, setting, gamma).excess(P, rate * P))

    assert step.rate == pytest.approx(1 - min(step.gamma * problem.constants.mu, q * s / 6), rel=1e-12)
    assert excess(step.gamma) <= 1e-12
    assert excess(6 * step.gamma) > 1e-3


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("s", [1, 2, 3])
def test_scaffold_with_five_steps_is_no_slower_than_stated(oracle: Any, seed: int, s: int) -> None:
    """The exact asymptotic factor of E|z|² is at most exp(-min{mu/(162 L), S/(30 n)}), the rate from memory."""
    problem = oracle.quadratic(seed)
    setting = Setting(problem.constants, per_round=s, tau=5)
    local = scaffold(setting).gamma / 5
    c = problem.constants
    stated = math.exp(-min(c.mu / (162 * c.L_max), s / (30 * oracle.N)))
    assert scaffold_rounds(oracle, problem, setting, local).factor() <= stated


def test_scaffold_limits(oracle: Any) -> None:
    """One step, all clients, no compression: 1/L. Several: the three regimes of the paper."""
    c, saddle = oracle.quadratic(0).constants, oracle.quadratic(0, convex=False).constants
    assert scaffold(Setting(c)).gamma == 1 / c.L
    assert scaffold(Setting(saddle)).gamma == 1 / saddle.L
    several = scaffold(Setting(c, per_round=1, tau=4)).gamma
    assert several == pytest.approx(min(1 / (81 * c.L_max), 1 / (45 * c.mu)), rel=1e-14)
    assert scaffold(Setting(saddle, per_round=1, tau=4)).gamma == pytest.approx(
        (1 / 3) ** (2 / 3) / (24 * saddle.L_max), rel=1e-14
    )
    flat = type(c)(L=c.L, L_i=c.L_i, mu=0.0)
    assert scaffold(Setting(flat, tau=2)).gamma == pytest.approx(1 / (81 * c.L_max), rel=1e-14)
    with pytest.raises(NoTheoremError, match="compression"):
        scaffold(Setting(c, tau=2, omega=1.0))
    with pytest.raises(NoTheoremError, match="unbiased"):
        scaffold(Setting(c, omega=None))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("s", [1, 3])
def test_fedavg_with_local_steps_converges(oracle: Any, seed: int, s: int) -> None:
    """At the stated step E|x - x_inf|² falls a round at least as fast as 1 - γ mu/2, for several τ."""
    problem = oracle.quadratic(seed)
    for tau in (2, 10):
        step = fedavg(Setting(problem.constants, per_round=s, tau=tau))
        local = step.gamma / tau

        def play(outcome: Any, z: np.ndarray, local: float = local, tau: int = tau) -> np.ndarray:
            powers = [np.linalg.matrix_power(np.eye(2) - local * problem.H[i], tau) for i in outcome.S]
            return sum(R @ z for R in powers) / s

        exact = oracle.exact(2, [(o.chance, lambda z, o=o, play=play: play(o, z)) for o in oracle.outcomes(s, 1.0)])
        assert exact.factor() <= 1 - step.gamma * problem.constants.mu / 2


def test_fedavg_and_fedprox_with_one_step_are_dcgd(oracle: Any) -> None:
    """One local step, whatever takes part and is compressed: DCGD's step; several: what the docstrings say."""
    c = oracle.quadratic(1, shared=False).constants
    for setting in (Setting(c), Setting(c, per_round=2), Setting(c, per_round=1, omega=2.0)):
        assert fedavg(setting) == dcgd(setting) == fedprox(setting)
    assert fedavg(Setting(c)).gamma == 1 / c.L
    assert fedavg(Setting(c, tau=3)).gamma == pytest.approx(1 / (24 * c.L_max), rel=1e-14)
    with pytest.raises(NoTheoremError, match="fedprox"):
        fedprox(Setting(c, tau=3))
    with pytest.raises(NoTheoremError, match="without compression"):
        fedavg(Setting(c, tau=3, omega=1.0))


def gradskip_rounds(oracle: Any, problem: Any, p: float, q: list[float], gamma: float) -> Any:
    """GradSkip, all clients, on z = (x_1, ..., x_n, h_1, ..., h_n) less its value at x*."""
    H, n, d = problem.H, oracle.N, oracle.D

    def play(talk: bool, stays: tuple[bool, ...], z: np.ndarray) -> np.ndarray:
        x = [z[d * i : d * (i + 1)] for i in range(n)]
        h = [z[d * (n + i) : d * (n + i + 1)] for i in range(n)]
        h_hat = [h[i] if stays[i] else H[i] @ x[i] for i in range(n)]
        x_hat = [x[i] - gamma * (H[i] @ x[i] - h_hat[i]) for i in range(n)]
        mean = sum(x_hat[i] - gamma / p * h_hat[i] for i in range(n)) / n
        x_new = [mean if talk else x_hat[i] for i in range(n)]
        return np.vstack([*x_new, *(h_hat[i] + p / gamma * (x_new[i] - x_hat[i]) for i in range(n))])

    rounds = []
    for talk in (False, True):
        for stays in itertools.product([False, True], repeat=n):
            chance = (p if talk else 1 - p) * math.prod(q[i] if stays[i] else 1 - q[i] for i in range(n))
            rounds.append((chance, lambda z, talk=talk, stays=stays: play(talk, stays, z)))
    return oracle.exact(2 * d * n, rounds)


@pytest.mark.parametrize("seed", SEEDS)
def test_gradskip_contracts_as_from_memory(oracle: Any, seed: int) -> None:
    """Σ|x_i - x*|² + (γ/p)² Σ|h_i - h_i*|² shrinks by the stated rate for the paper's p and q_i, exactly."""
    problem = oracle.quadratic(seed)
    values = [np.linalg.eigvalsh(h) for h in problem.H]
    c = problem.constants
    mu = min(float(v[0]) for v in values)
    local = type(c)(L=c.L, L_i=c.L_i, mu=mu)
    kappa = c.L_i.numpy() / mu
    p = float(kappa.max()) ** -0.5
    q = [float((1 - 1 / k) / (1 - 1 / kappa.max())) for k in kappa]
    step = gradskip(Setting(local), p, q)
    assert step.gamma == pytest.approx(1 / c.L_max, rel=1e-12)
    assert step.rate == pytest.approx(1 - 1 / kappa.max(), rel=1e-12)
    half = oracle.D * oracle.N

    def excess(gamma: float) -> float:
        P = np.diag([1.0] * half + [(gamma / p) ** 2] * half)
        return float(gradskip_rounds(oracle, problem, p, q, gamma).excess(P, (1 - gamma * mu) * P))

    assert excess(step.gamma) <= 1e-12
    assert excess(3 * step.gamma) > 1e-3


def test_gradskip_refuses_what_it_has_no_theorem_for(oracle: Any) -> None:
    """Some clients only, compression, or probabilities out of range; q_i = 1 is ProxSkip's 1/L_max."""
    c = oracle.quadratic(0).constants
    assert gradskip(Setting(c), 0.3, [1.0] * 3).gamma == pytest.approx(1 / c.L_max)
    with pytest.raises(NoTheoremError, match="all clients"):
        gradskip(Setting(c, per_round=2), 0.3, [1.0] * 3)
    with pytest.raises(NoTheoremError, match="q_i"):
        gradskip(Setting(c), 0.3, [1.0] * 2)
