"""Steps of the methods with an unbiased operator on (shifted) gradients: DCGD, DIANA, COFIG, FRECON.

Throughout ω' = `Setting.noise(omega)`, σ*² = (1/n) Σ |∇f_i(x*)|², D = f(x) - f* at a minimiser, and for
convex f_i |∇f_i(x) - ∇f_i(x*)|² <= 2 L_i (f_i(x) - f_i(x*) - <∇f_i(x*), x - x*>), hence (1/n) Σ |.|² <= 2
L_max D.
"""

from __future__ import annotations

import math

from fl_core.theory.setting import Setting
from fl_core.theory.steps.step import NoTheoremError, Step, gradient_descent, never_empty, step, unbiased


def dcgd(setting: Setting) -> Step:
    """DCGD, G = mean over S of C_i(∇f_i(x)): Khirirat, Feyzmahdavian, Johansson, 2018, arXiv 1806.06573.

    Convex f_i, f mu-strongly convex: gamma = 1/(L + 2 ω' L_max) gives
        E|x^t - x*|² <= (1 - γ mu)^t |x^0 - x*|² + 2 γ ω' σ*²/mu        (the floor is `dcgd_floor`)
    Proof: E|G|² <= |∇f|² + ω' mean|∇f_i|² <= 2(L + 2ω' L_max) D + 2ω' σ*², and <∇f, x - x*> >= D + (mu/2)|x -
    x*|². If all clients share x* (σ* = 0) then mean|∇f_i|² <= 2 L_max D, and gamma = 1/(L + ω' L_max)
    suffices. mu = 0: gamma = 1/(L + 8 ω' L_max) (shared: 4) gives, at the mean iterate,
        E f - f* <= (|x^0 - x*|² + γ(f(x^0) - f*))/(γ T) + 4 γ ω' σ*²,
    from E|x+ - x*|² + 2γ E(f(x+) - f*) <= |x - x*|² + 2γ² E|G - ∇f|², which needs γ <= 1/L.

    Status: derived here. Nonconvex f_i with noise: no constant step is proved to converge, NoTheoremError.
    """
    omega = unbiased(setting, "dcgd")
    c, noise = setting.constants, setting.noise(omega)
    reference = "DCGD (Khirirat et al. 2018, arXiv 1806.06573); derived in fl_core.theory.steps.shifted"
    if noise == 0.0:
        return gradient_descent(setting, reference)
    if not c.convex:
        raise NoTheoremError("dcgd on a nonconvex f only reaches a neighbourhood that depends on the run")
    factor = (2 if c.mu > 0 else 8) // (2 if c.sigma_star_sq == 0.0 else 1)
    gamma = 1.0 / (c.L + factor * noise * c.L_max)
    formula = f"1/(L + {factor} w' L_max)".replace(" 1 w'", " w'")
    numbers = {"L": c.L, "L_max": c.L_max, "w'": noise, "mu": c.mu}
    return step(gamma, formula, numbers, reference, 1.0 - gamma * c.mu if c.mu > 0 else None)


def dcgd_floor(setting: Setting, gamma: float) -> float:
    """2 γ ω' σ*²/mu: the bound on lim sup E|x^t - x*|² of DCGD at a step gamma <= dcgd(setting).gamma.

    Raises NoTheoremError where mu is 0 or x* is not known.
    """
    c = setting.constants
    if c.mu == 0 or c.sigma_star_sq is None:
        raise NoTheoremError("the floor of dcgd needs mu > 0 and a known x*")
    return 2.0 * gamma * setting.noise(unbiased(setting, "dcgd")) * c.sigma_star_sq / c.mu


def diana(setting: Setting, alpha: float | None = None) -> Step:
    """DIANA with any participation, G = h + mean over S of C_i(∇f_i(x) - h_i), h_i += α C_i(...) for i in S.

    Mishchenko, Gorbunov, Takáč, Richtárik, 2019, arXiv 1901.09269; Horváth et al., 2019, arXiv 1904.05115.
    With all clients it is the published method; with S < n it is COFIG with one sample (arXiv 2112.13097).

    Convex f_i: gamma = 1/(L + 6 ω' L_max), α <= 1/(1+ω), ρ = α S/n:
        V = |x - x*|² + (4 ω'/ρ) γ² (1/n) Σ |h_i - ∇f_i(x*)|²,   E V+ <= (1 - min(γ mu, ρ/2)) V.
    Proof: E|G|² <= 2(L + 2ω' L_max) D + 2ω' σ and E σ+ <= (1-ρ)σ + 2ρ L_max D for σ = (1/n) Σ |h_i -
    ∇f_i(x*)|². mu = 0: the same step, V does not increase, and with ω' > 0 the weight 2ω'/ρ in V gives, at
    the mean iterate, E f - f* <= V^0/(4 γ² ω' L_max T).

    Nonconvex f_i: gamma = 1/(L + L̃ sqrt(8 ω')/ρ) gives, at an iterate chosen at random,
        E|∇f|² <= 2 Φ^0/(γ T),  Φ = f - f* + (2 L γ² ω'/ρ) (1/n) Σ |∇f_i(x) - h_i|².
    Proof: E|G - ∇f|² <= ω' Y and E Y+ <= (1 - ρ/2) Y + (2/ρ) L̃² E|x+ - x|² for that mean Y.

    Status: derived here. 1905.11261 is said to give L(1 + 6ω/n) for L = L_max, and 1904.05115 (Theorem 4)
    another nonconvex step; both from memory, the theorems themselves could not be opened.
    """
    reference = "DIANA (arXiv 1901.09269, 1904.05115); derived in fl_core.theory.steps.shifted"
    return _shifted(setting, alpha, "diana", reference)


def cofig(setting: Setting, alpha: float | None = None) -> Step:
    """COFIG, one sample for direction and shifts (Zhao, Burlachenko, Li, Richtárik, 2021, arXiv 2112.13097).

    The step is that of `diana`, which covers partial participation. Status: derived here. What the paper
    states is `cofig_published`; it is not ours, and scales better in nonconvex problems if S is much below n.
    """
    reference = "COFIG (arXiv 2112.13097); step derived in fl_core.theory.steps.shifted"
    return _shifted(setting, alpha, "cofig", reference)


def cofig_published(setting: Setting) -> Step:
    """The steps of arXiv 2112.13097 as the original simulator has them, for alpha = 1/(1+ω) and L = L_max.

    convex     min{1/(L(2 + 8(1+ω)/S)), S/(L(1+ω) sqrt(n))}
    nonconvex  min{1/(2L), S/(5L(1+ω) n^(2/3)), S/(5L(1+ω)^(3/2) n^(1/2))}

    Status: from the original code, which cites the paper; the 1/L of the second convex term is ours, by
    dimension (the code lacks it). The abstract's rates, O((1+ω) sqrt(n)/(S ε)) and O((1+ω)^(3/2) sqrt(n)/(S
    ε²)), agree with it; the constants could not be confirmed. In the nonconvex case with S = n ours has
    sqrt(8) where this has 5.
    """
    w, c = 1.0 + unbiased(setting, "cofig"), setting.constants
    smooth, s, n = c.L_max, setting.S, setting.n
    if c.convex:
        gamma = min(1.0 / (smooth * (2.0 + 8.0 * w / s)), s / (smooth * w * math.sqrt(n)))
        formula = "min{1/(L(2 + 8(1+w)/S)), S/(L(1+w) sqrt(n))}"
    else:
        gamma = min(0.5, s / (5.0 * w * n ** (2 / 3)), s / (5.0 * w**1.5 * math.sqrt(n))) / smooth
        formula = "min{1/(2L), S/(5L(1+w) n^(2/3)), S/(5L(1+w)^(3/2) n^(1/2))}"
    reference = "COFIG (arXiv 2112.13097); constants from the original code, theorem number not re-checked"
    return step(gamma, formula, {"L": smooth, "w": w - 1.0, "n": n, "S": s}, reference)


def frecon(setting: Setting, lam: float | None = None, alpha: float | None = None) -> Step:
    """FRECON with u_i at the previous iterate (Zhao, Burlachenko, Li, Richtárik, 2021, arXiv 2112.13097).

    With ρ = α S/n, α <= 1/(1+ω), gamma = 1/(L + L̃ sqrt(2 ω' (1/λ + 4λ/ρ²))), which λ = ρ/2 makes least:
    gamma = 1/(L + L̃ sqrt(8 ω'/ρ)). At an iterate chosen at random E|∇f|² <= 2 Φ^0/(γ T) for
        Φ^t = f(x^t) - f* + (γ/2λ)|g^t - ∇f(x^t)|² + (2γλω'/ρ)(1/n) Σ |∇f_i(x^t) - h_i^{t+1}|².
    Proof: the error e = g - ∇f has E|e^t|² <= (1-λ)²|e^{t-1}|² + 2ω' L̃²|x^t - x^{t-1}|² + 2λ² ω' Y, and Y,
    the mean in Φ, E Y+ <= (1-ρ/2) Y + (2/ρ) L̃²|x^t - x^{t-1}|²; then the descent lemma for a biased
    direction.

    Status: derived here, and it confirms the original code's λ = S/(2(1+ω)n) and the form of its step,
    1/(L(1 + sqrt(10(1+ω)² n/S²))): as 8ω'/ρ <= 8(1+ω)² n/S², ours is the larger. With u_i at the current
    iterate there is one more bias, which this does not cover.
    """
    omega = unbiased(setting, "frecon")
    never_empty(setting, "frecon")
    c, noise = setting.constants, setting.noise(omega)
    reference = "FRECON (arXiv 2112.13097); derived in fl_core.theory.steps.shifted, lambda of the code"
    if noise == 0.0:
        return gradient_descent(setting, reference)
    rho = _shift_rate(setting, alpha, omega)
    lam = rho / 2.0 if lam is None else lam
    if not 0 < lam <= 1:
        raise NoTheoremError(f"frecon needs 0 < lam <= 1, not {lam:g}")
    gamma = 1.0 / (c.L + c.L_tilde * math.sqrt(2.0 * noise * (1.0 / lam + 4.0 * lam / rho**2)))
    numbers = {"L": c.L, "L_tilde": c.L_tilde, "w'": noise, "lam": lam, "rho": rho}
    return step(gamma, "1/(L + L_tilde sqrt(2 w' (1/lam + 4 lam/rho^2)))", numbers, reference)


def _shifted(setting: Setting, alpha: float | None, method: str, reference: str) -> Step:
    omega = unbiased(setting, method)
    c, noise = setting.constants, setting.noise(omega)
    if noise == 0.0:
        return gradient_descent(setting, reference)
    return shifted_step(setting, _shift_rate(setting, alpha, omega), noise, c.L, reference)


def shifted_step(setting: Setting, rho: float, noise: float, smooth: float, reference: str) -> Step:
    """The step of `diana` for shifts that move at rate rho; `smooth` stands for L (SCAFFOLD's is larger)."""
    c = setting.constants
    numbers = {"L": smooth, "L_max": c.L_max, "w'": noise, "mu": c.mu, "rho": rho}
    if c.convex:
        gamma = 1.0 / (smooth + 6.0 * noise * c.L_max)
        rate = 1.0 - min(gamma * c.mu, rho / 2.0) if c.mu > 0 else None
        return step(gamma, "1/(L + 6 w' L_max)", numbers, reference, rate)
    gamma = 1.0 / (smooth + c.L_tilde * math.sqrt(8.0 * noise) / rho)
    numbers = {"L": smooth, "L_tilde": c.L_tilde, "w'": noise, "rho": rho}
    return step(gamma, "1/(L + L_tilde sqrt(8 w')/rho)", numbers, reference)


def _shift_rate(setting: Setting, alpha: float | None, omega: float) -> float:
    """ρ = α S/n. Raises NoTheoremError if alpha is beyond 1/(1+ω), where the shifts may diverge."""
    limit = 1.0 / (1.0 + omega)
    alpha = limit if alpha is None else alpha
    if not 0 < alpha <= limit * (1 + 1e-12):
        raise NoTheoremError(f"the theorem needs 0 < alpha <= 1/(1+omega) = {limit:g}, not {alpha:g}")
    return alpha * setting.S / setting.n


__all__ = ["cofig", "cofig_published", "dcgd", "dcgd_floor", "diana", "frecon", "shifted_step"]
