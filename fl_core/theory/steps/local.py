"""Steps with local steps, FedAvg, FedProx, SCAFFOLD (gamma = η_g η_l τ) and GradSkip (gamma = η_l)."""

from __future__ import annotations

from collections.abc import Sequence

from fl_core.theory.setting import Setting
from fl_core.theory.steps.shifted import dcgd, shifted_step
from fl_core.theory.steps.step import NoTheoremError, Step, gradient_descent, step


def fedavg(setting: Setting) -> Step:
    """FedAvg (McMahan et al., 2017, arXiv 1602.05629) with equal weights.

    One local step: mean over S of C_i(∇f_i(x)), that is `dcgd` (derived here).
    Several, no compression, convex f_i: η_g >= 1, η_g η_l τ <= 1/(8(1+B²) L_max), for (1/n) Σ |∇f_i|² <= G² +
    2 L_max B² D (Karimireddy et al., 2020, arXiv 1910.06378, Theorem I), to a floor that local steps leave
    where clients differ. B² = 2 with G² = 2σ*² always holds (derived here): gamma = 1/(24 L_max).

    Status: the second from memory, constant and number not re-checked.
    """
    if setting.tau == 1:
        return dcgd(setting)
    c = setting.constants
    if not c.convex or setting.omega != 0.0:
        raise NoTheoremError("fedavg with several local steps has a theorem for convex f_i without compression only")
    reference = "FedAvg (Karimireddy et al. 2020, arXiv 1910.06378, Theorem I; from memory, not re-checked)"
    return step(1.0 / (24.0 * c.L_max), "eta_g eta_l tau = 1/(24 L_max)", {"L_max": c.L_max}, reference)


def fedprox(setting: Setting) -> Step:
    """FedProx (Li et al., 2018, arXiv 1812.06127): with one local step it is `fedavg`.

    With several: Theorem 4 of the paper speaks of inexact local solutions under bounded dissimilarity, not of
    a step size; NoTheoremError. Status: derived here for one step.
    """
    if setting.tau != 1:
        raise NoTheoremError("no theorem gives fedprox a step size with several local steps")
    return dcgd(setting)


def scaffold(setting: Setting) -> Step:
    """SCAFFOLD, options I and II (Karimireddy et al., 2020, arXiv 1910.06378).

    One local step, compressed or not: either option leaves c_i = ∇f_i at the client's last round, the
    direction is the mean over S of C_i(∇f_i(x) - c_i + c), and with α = 1/(1+ω), ρ = α S/n, ω' =
    `Setting.noise(omega)`
        gamma = 1/(L(1 + ω/S) + 6 ω' L_max)                 convex f_i, V and rate as in `diana`
        gamma = 1/(L(1 + ω/S) + L̃ sqrt(8 ω')/ρ)             otherwise
    as E|G - ∇f|² <= ω' (1/n) Σ |∇f_i - c_i|² + (ω/S)|∇f|². Without compression and with all clients: gradient
    descent. Derived here (compression is not in the paper).

    Several local steps, no compression (Theorem III and its long form in the appendix), with L for L_max:
        strongly convex   min{1/(81 L), S/(15 mu n)}, by exp(-min{mu/(162 L), S/(30 n)}) a round
        convex            1/(81 L)
        nonconvex         (S/n)^(2/3)/(24 L)
    Status: constants from memory, theorem numbers not re-checked. The tests
    check the strongly convex rate, exactly, on small quadratics, where it is very cautious.
    """
    if setting.omega is None:
        raise NoTheoremError("scaffold has a theorem for unbiased compressors only")
    c, n, s = setting.constants, setting.n, setting.S
    if setting.tau == 1:
        noise = setting.noise(setting.omega)
        reference = "SCAFFOLD (arXiv 1910.06378) with one local step; derived in fl_core.theory.steps.local"
        if noise == 0.0:
            return gradient_descent(setting, reference)
        rho, compression = s / n / (1.0 + setting.omega), noise - setting.noise(0.0)
        return shifted_step(setting, rho, noise, c.L * (1.0 + compression), reference)
    if setting.omega > 0:
        raise NoTheoremError("scaffold with compression and several local steps has no theorem")
    reference = "SCAFFOLD (arXiv 1910.06378, Theorem III and appendix; constants from memory, not re-checked)"
    numbers = {"L_max": c.L_max, "mu": c.mu, "S": s, "n": float(n)}
    if not c.convex:
        gamma = (s / n) ** (2 / 3) / (24.0 * c.L_max)
        return step(gamma, "eta_g eta_l tau = (S/n)^(2/3)/(24 L_max)", numbers, reference)
    if c.mu == 0.0:
        return step(1.0 / (81.0 * c.L_max), "eta_g eta_l tau = 1/(81 L_max)", numbers, reference)
    gamma = min(1.0 / (81.0 * c.L_max), s / (15.0 * c.mu * n))
    return step(gamma, "eta_g eta_l tau = min{1/(81 L_max), S/(15 mu n)}", numbers, reference)


def gradskip(setting: Setting, p: float, q: Sequence[float]) -> Step:
    """GradSkip (Maranjyan, Safaryan, Richtárik, 2022, arXiv 2210.16402); gamma is the *local* step.

    Each f_i mu-strongly convex, p the probability of a communication, q_i that client i goes on computing:
        gamma = min_i (1/L_i) p²/(1 - q_i(1 - p²)),   rate 1 - min{γ mu, 1 - q_max(1 - p²)}.
    q_i = 1 is ProxSkip (Mishchenko et al., 2022, arXiv 2202.09357): 1/L_max would do there, and p²/(1 -
    (1-p²)) = 1 gives it. With κ_i = L_i/mu, p² = 1/κ_max and q_i = (1 - 1/κ_i)/(1 - 1/κ_max), gamma is
    1/L_max again.

    Status: from memory; the theorem (3.6 in memory) could not be opened. The two limits were
    worked out here, and the tests check the contraction, exactly, on small quadratics.
    """
    c = setting.constants
    if setting.n != setting.S or setting.omega != 0.0:
        raise NoTheoremError("gradskip's theorem needs all clients and no compression")
    if len(q) != c.n or not 0 < p <= 1 or not all(0 <= q_i <= 1 for q_i in q):
        raise NoTheoremError("gradskip needs 0 < p <= 1 and one q_i in [0, 1] a client")
    ratios = [p * p / (1.0 - q_i * (1.0 - p * p)) / float(L_i) for q_i, L_i in zip(q, c.L_i, strict=True)]
    gamma = min(ratios)
    rate = 1.0 - min(gamma * c.mu, 1.0 - max(q) * (1.0 - p * p)) if c.mu > 0 else None
    reference = "GradSkip (arXiv 2210.16402; from memory, theorem number not re-checked)"
    numbers = {"L_max": c.L_max, "mu": c.mu, "p": p, "q_max": max(q)}
    return step(gamma, "eta_l = min_i (1/L_i) p^2/(1 - q_i(1 - p^2))", numbers, reference, rate)


__all__ = ["fedavg", "fedprox", "gradskip", "scaffold"]
