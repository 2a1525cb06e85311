"""Steps of the methods whose direction carries its own error along: MARINA, PP-MARINA, EF21, EF21-PP, EF14.

All but EF14 rest on one descent step for a direction g with error e = g - ∇f(x):
    f(x+) <= f(x) - (γ/2)|∇f|² - (1/(2γ) - L/2)|x+ - x|² + (γ/2)|e|².
If E E+ <= (1-θ) E + b |x+ - x|² for some E >= |e|², then f + (γ/2θ) E falls by (γ/2)|∇f|² whenever γ <= 1/(L
+ sqrt(b/θ)). If also |∇f|² >= 2 mu (f - f*), f - f* + (γ/θ) E shrinks by 1 - γ mu whenever γ <= min{1/(L +
sqrt(2b/θ)), θ/(2 mu)}.
"""

from __future__ import annotations

import math
from typing import Literal

from fl_core.theory.setting import Setting
from fl_core.theory.steps.step import (
    NoTheoremError,
    Step,
    contraction,
    full,
    gradient_descent,
    never_empty,
    step,
    unbiased,
)

Mean = Literal["quadratic", "arithmetic"]


def marina(setting: Setting, p: float | None = None) -> Step:
    """MARINA with all clients (Gorbunov, Burlachenko, Li, Richtárik, 2021, arXiv 2102.07845, Algorithm 1).

    gamma = 1/(L + L̃ sqrt((1-p) ω/(p n))): E|∇f|² <= 2(f(x^0) - f*)/(γ T) at an iterate chosen at random.
    PL with mu > 0: gamma = min{1/(L + L̃ sqrt(2(1-p) ω/(p n))), p/(2 mu)}: E f(x^T) - f* <= (1 - γ mu)^T
    (f(x^0) - f*). Here E = |e|², θ = p, b = (1-p) ω L̃²/n, and e^0 = 0. By default p = 1/(1+ω).

    Status: derived here. The paper's Theorems 2.1 and 2.2 are said to state it with one constant L, L² = mean
    L_i² (from memory; numbers not re-checked).
    """
    omega = unbiased(setting, "marina")
    full(setting, "marina", "pp-marina is for some of them")
    p = _coin(1.0 / (1.0 + omega) if p is None else p)
    reference = "MARINA (arXiv 2102.07845, Theorems 2.1 and 2.2, numbers not re-checked); derived here"
    return _recursive(setting, p, (1.0 - p) * omega / setting.n, ("p", "(1-p) w/n"), reference)


def pp_marina(setting: Setting, p: float | None = None) -> Step:
    """PP-MARINA (arXiv 2102.07845, Algorithm 4): all clients with probability p, else S compressed ones.

    As `marina` with b = (1-p) ω' L̃², ω' = (n-S)/(S(n-1)) + ω/S for S of n without replacement
    (`Setting.noise`). It is `marina` at S = n. By default p = (S/n)/(1+ω).

    Status: derived here. The paper's Theorem 4.1 (from memory and the original code, number not re-checked)
    has (1+ω)/S for ω', which is what S independent draws with replacement give; ours is never smaller in the
    step.
    """
    omega = unbiased(setting, "pp-marina")
    never_empty(setting, "pp-marina")
    p = _coin(setting.S / setting.n / (1.0 + omega) if p is None else p)
    reference = "PP-MARINA (arXiv 2102.07845, Theorem 4.1, number not re-checked); derived here"
    return _recursive(setting, p, (1.0 - p) * setting.noise(omega), ("p", "(1-p) w'"), reference)


def ef21(setting: Setting, mean: Mean = "quadratic") -> Step:
    """EF21 with all clients (Richtárik, Sokolov, Fatkhullin, 2021, arXiv 2106.05203).

    With θ = 1 - sqrt(1-δ), β = (1-δ)/θ: gamma = 1/(L + L̃ sqrt(β/θ)),
        E|∇f|² <= 2(f(x^0) - f*)/(γ T) + E^0/(θ T) at an iterate chosen at random, E = (1/n) Σ |g_i -
        ∇f_i(x)|².
    PL: gamma = min{1/(L + L̃ sqrt(2β/θ)), θ/(2 mu)}, and f - f* + (γ/θ) E shrinks by 1 - γ mu.
    Young's inequality with 1 + s = 1/sqrt(1-δ) gives E_i+ <= (1-θ) E_i + β L_i² |x+ - x|².

    With mean = "arithmetic", E = (1/n²) Σ |g_i - ∇f_i(x)|²/w_i, w_i = L_i/Σ L_j, and (1/n) Σ L_i stands for
    L̃ (Richtárik, Gasanov, Burlachenko, 2024, arXiv 2402.10774): a larger step for the same method.

    Status: derived here, both means; the paper's Theorems 1 and 2 are from memory and the original code.
    """
    delta = contraction(setting, "ef21")
    full(setting, "ef21", "ef21-pp is for some of them")
    theta, beta = _young(delta)
    reference = f"EF21 ({_source(mean)}, Theorems 1 and 2, numbers not re-checked); derived here"
    return _recursive(setting, theta, beta, ("theta", "beta"), reference, mean)


def ef21_pp(setting: Setting, mean: Mean = "quadratic") -> Step:
    """EF21-PP: participants update g_i, the others keep theirs; G is the mean of all n g_i.

    Fatkhullin, Sokolov, Gorbunov, Li, Richtárik, 2021, arXiv 2110.03294. As `ef21` with, for q = S/n and any
    ρ > 0,
        θ = q θ₀ - ρ(1-q),  b = B L̃²,  B = q β₀ + (1 + 1/ρ)(1-q),
    θ₀ and β₀ those of `ef21`. The ρ that makes B/θ least is (sqrt(c² + a q θ₀) - c)/a with a = q β₀ + 1-q, c
    = 1-q. It is `ef21` at q = 1. Any sampling in which each client takes part with probability q is covered.

    Status: derived here. The original code cites a Theorem 7 with the same θ and B and a fixed ρ = 0.001,
    which makes θ negative for small q δ.
    """
    delta = contraction(setting, "ef21-pp")
    theta, beta = _young(delta)
    q = setting.S / setting.n
    if q < 1.0:
        a, c, e = q * beta + 1.0 - q, 1.0 - q, q * theta
        # The same as (sqrt(c² + a e) - c)/a, without cancellation where q θ₀ is small.
        rho = e / (math.sqrt(c * c + a * e) + c)
        theta, beta = e - rho * c, a + c / rho
    reference = f"EF21-PP (arXiv 2110.03294, {_source(mean)}, number not re-checked); derived here"
    return _recursive(setting, theta, beta, ("theta", "B"), reference, mean)


def ef14(setting: Setting) -> Step:
    """EF14, error feedback: C(e_i + γ ∇f_i(x)) is applied, the rest kept in e_i (Seide et al., 2014).

    Convex f_i, f mu-strongly convex, all clients: gamma = 1/(2L + sqrt(32(2L+mu) L_max (1-δ))/δ) gives for x̃
    = x - ē
        V = |x̃ - x*|² + (4γ(2L+mu)/δ)(1/n) Σ |e_i|²,   E V+ <= (1 - min(γ mu/2, δ/4)) V + c γ³ σ*²,
    c = 16(2L+mu)(1-δ)/δ²: linear up to a floor of order γ² σ*², which vanishes where all clients share x*.
    Proof: x̃+ = x̃ - γ∇f(x); E|e_i+|² <= (1-δ/2)|e_i|² + (2(1-δ)/δ) γ²|∇f_i|²; mean|∇f_i|² <= 4 L_max D +
    2σ*²; |x̃+ - x*|² <= (1 - γ mu/2)|x̃ - x*|² - γ(1 - 2γL) D + γ(2L+mu)(1/n) Σ |e_i|². With mu = 0 the same
    step keeps V from growing by more than the floor's term. δ = 1 is gradient descent.

    Status: derived here; constants in the literature (Stich, Karimireddy, 2019, arXiv 1909.05350) not
    compared.
    """
    delta = contraction(setting, "ef14")
    full(setting, "ef14", "ef21-pp is for some of them")
    c = setting.constants
    reference = "EF14 (Seide et al. 2014); derived in fl_core.theory.steps.recursive"
    if delta == 1.0:
        return gradient_descent(setting, reference)
    if not c.convex:
        raise NoTheoremError("no step for ef14 on a nonconvex f is derived here; ef21 has one")
    gamma = 1.0 / (2.0 * c.L + math.sqrt(32.0 * (2.0 * c.L + c.mu) * c.L_max * (1.0 - delta)) / delta)
    numbers = {"L": c.L, "L_max": c.L_max, "mu": c.mu, "delta": delta}
    rate = 1.0 - min(gamma * c.mu / 2.0, delta / 4.0) if c.mu > 0 else None
    return step(gamma, "1/(2L + sqrt(32(2L+mu) L_max (1-delta))/delta)", numbers, reference, rate)


def _recursive(
    setting: Setting,
    theta: float,
    growth: float,
    names: tuple[str, str],
    reference: str,
    mean: Mean = "quadratic",
) -> Step:
    """The module's step for an error that shrinks by 1 - theta and grows by b = growth · (mean of L_i)²."""
    c = setting.constants
    smooth, symbol = (c.L_tilde, "L_tilde") if mean == "quadratic" else (c.L_mean, "L_mean")
    if growth == 0.0:
        return gradient_descent(setting, reference)
    numbers = {"L": c.L, symbol: smooth, names[0]: theta, names[1]: growth, "mu": c.mu}
    if c.mu == 0.0:
        gamma = 1.0 / (c.L + smooth * math.sqrt(growth / theta))
        return step(gamma, f"1/(L + {symbol} sqrt({names[1]} / {names[0]}))", numbers, reference)
    gamma = min(1.0 / (c.L + smooth * math.sqrt(2.0 * growth / theta)), theta / (2.0 * c.mu))
    formula = f"min{{1/(L + {symbol} sqrt(2 {names[1]} / {names[0]})), {names[0]}/(2 mu)}}"
    return step(gamma, formula, numbers, reference, 1.0 - gamma * c.mu)


def _young(delta: float) -> tuple[float, float]:
    """θ = 1 - sqrt(1-δ) and β = (1-δ)/θ, without cancellation for small δ."""
    theta = delta / (1.0 + math.sqrt(1.0 - delta))
    return theta, (1.0 - delta) / theta


def _coin(p: float) -> float:
    if not 0 < p <= 1:
        raise NoTheoremError(f"the probability p of a round of full gradients must be in (0, 1], not {p:g}")
    return p


def _source(mean: Mean) -> str:
    if mean not in ("quadratic", "arithmetic"):
        raise NoTheoremError(f'mean must be "quadratic" or "arithmetic", not {mean!r}')
    return "arXiv 2106.05203" if mean == "quadratic" else "arXiv 2106.05203 with the mean of 2402.10774"


__all__ = ["ef14", "ef21", "ef21_pp", "marina", "pp_marina"]
