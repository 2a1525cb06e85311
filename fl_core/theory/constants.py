"""L, L_i, mu and x* of a problem: what the theorems' step sizes are made of.

Exact where the Hessian is constant (least squares, l2); for the logistic and softmax losses and the nonconvex
regulariser L and L_i are the least uniform bounds of their kind, and mu a lower bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from fl_core.errors import InputError
from fl_core.theory.linear import CURVATURE, Floats, LinearProblem


@dataclass(frozen=True, eq=False)
class Constants:
    """What is known of f = (1/n) Σ f_i.

    Args:
        L: f is L-smooth.
        L_i: f_i is L_i-smooth, float64 `[n]`.
        mu: f is mu-strongly convex; 0 where that is not known.
        x_star: the minimiser (the one of least norm where there are several), float64 `[d]`, or None.
        f_star: the minimum of f, or None.
        sigma_star_sq: (1/n) Σ |∇f_i(x*)|², the heterogeneity that is left at the minimiser; 0 says that all
            clients
            share it. None where x* is not known.
        convex: every f_i is convex. The regimes of the theorems hang on it.

    Raises InputError if a constant is out of range (L_i < 0, mu > L, ...).
    """

    L: float
    L_i: Tensor
    mu: float
    x_star: Tensor | None = None
    f_star: float | None = None
    sigma_star_sq: float | None = None
    convex: bool = True

    def __post_init__(self) -> None:
        if self.L_i.dim() != 1 or len(self.L_i) == 0 or not bool((self.L_i >= 0).all()):
            raise InputError("L_i must be a vector of one number >= 0 a client")
        if not (self.L > 0 and 0 <= self.mu <= self.L * (1 + 1e-9)):
            raise InputError(f"need 0 <= mu <= L and L > 0, not mu = {self.mu!r}, L = {self.L!r}")

    @property
    def n(self) -> int:
        """Number of clients."""
        return len(self.L_i)

    @property
    def L_max(self) -> float:  # noqa: N802  (the papers' symbol)
        """max_i L_i."""
        return float(self.L_i.max())

    @property
    def L_tilde(self) -> float:  # noqa: N802
        """sqrt((1/n) Σ L_i²), the quadratic mean."""
        return float(self.L_i.double().square().mean().sqrt())

    @property
    def L_mean(self) -> float:  # noqa: N802
        """(1/n) Σ L_i, the arithmetic mean."""
        return float(self.L_i.double().mean())


def smoothness(problem: LinearProblem) -> Constants:
    """L, L_i, mu and convexity of a linear model, without its minimiser (see `minimizer.solved` for both).

    With c = 2, 1/4, 1/2 for mse, logistic, cross_entropy and H_i = (c/m_i) A_iᵀ A_i: L_i = λ_max(H_i),
    L = λ_max((1/n) Σ H_i), mu = λ_min of it for mse and 0 for the others. "l2" adds alpha to all three.
    "nonconvex" has r''(t) = 2α(1-3t²)/(1+t²)³ in [-α/2, 2α]: it adds 2 alpha to L and L_i and takes alpha/2
    from mu, down to 0.

    Raises InputError if all inputs are 0 and there is no regulariser (L would be 0).
    """
    c = CURVATURE[problem.loss]
    top, bottom = _extreme_eigenvalues(problem, c)
    local = np.array([c / len(a) * _largest_gram_eigenvalue(a) for a in map(problem.design, range(problem.n))])
    added, taken = {"none": (0.0, 0.0), "l2": (problem.alpha, -problem.alpha)}.get(
        problem.penalty, (2.0 * problem.alpha, 0.5 * problem.alpha)
    )
    if top + added == 0.0:
        raise InputError("all inputs are 0 and there is no regulariser: f is constant, and has no step size")
    flat = 0.0 if problem.loss != "mse" else bottom
    return Constants(
        L=top + added,
        L_i=torch.from_numpy(local + added),
        mu=max(0.0, flat - taken),
        convex=problem.penalty != "nonconvex" or problem.alpha == 0.0,
    )


def _extreme_eigenvalues(problem: LinearProblem, c: float) -> tuple[float, float]:
    """λ_max and λ_min of (1/n) Σ (c/m_i) A_iᵀ A_i.

    As squares of singular values: a Gram matrix would lose half the digits of λ_min.
    """
    rows, _, weights = problem.stacked()
    values = singular_values(np.sqrt(c * weights)[:, None] * rows)
    bottom = values[-1] if len(values) == rows.shape[1] else 0.0
    return float(values[0] ** 2), float(bottom**2)


def singular_values(a: Floats) -> Floats:
    """The singular values of a `[M, d]` matrix, largest first; those within rounding of 0 are 0."""
    if len(a) > a.shape[1]:
        a = np.asarray(np.linalg.qr(a, mode="r"))
    values: Floats = scipy.linalg.svdvals(a)
    return np.where(values > max(a.shape) * np.finfo(np.float64).eps * values[0], values, 0.0)


def _largest_gram_eigenvalue(a: Floats) -> float:
    """λ_max(AᵀA), from the smaller of AᵀA and AAᵀ."""
    gram = a @ a.T if len(a) < a.shape[1] else a.T @ a
    last = len(gram) - 1
    return max(0.0, float(scipy.linalg.eigvalsh(gram, subset_by_index=[last, last])[0]))


__all__ = ["Constants", "singular_values", "smoothness"]
