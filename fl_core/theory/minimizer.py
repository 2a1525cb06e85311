"""x* and f* of a convex linear model, to a gradient norm of 1e-12, for `distance` and f - f*.

Least squares by a direct solve, logistic regression by a damped Newton method that needs no line search.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse
import torch
from scipy.special import expit
from torch import Tensor

from fl_core.errors import InputError
from fl_core.theory.constants import Constants, smoothness
from fl_core.theory.linear import Floats, LinearProblem, slopes

TOLERANCE = 1e-12
"""The gradient norm that is reached, relative to max(1, L)."""
_ROUNDS = 500


class NoMinimizerError(InputError):
    """f has no minimiser, or none that these solvers can find; the text says why."""


@dataclass(frozen=True, eq=False)
class Minimum:
    """x `[d]` float64, f(x), and the norm of ∇f(x) that was reached."""

    x: Tensor
    f: float
    grad_norm: float


def minimize(problem: LinearProblem) -> Minimum:
    """The minimiser of f; of several, the one of least norm.

    Raises NoMinimizerError where f is not convex or has several scores a sample, where the data of an
    unregularised logistic regression are separable (f then falls for ever along a direction), and where
    rounding stops the solver above its tolerance (inputs of very different scales).
    """
    if problem.penalty == "nonconvex" and problem.alpha > 0:
        raise NoMinimizerError("the nonconvex regulariser may leave several local minima: no x* is computed")
    if problem.loss == "cross_entropy":
        raise NoMinimizerError("no solver here for cross_entropy: x* is computed for mse and logistic losses")
    rows, targets, weights = problem.stacked()
    ridge = problem.alpha if problem.penalty == "l2" else 0.0
    if problem.loss == "mse":
        x, scale = _least_squares(rows, targets, weights, ridge)
    else:
        x, scale = _logistic(rows, targets, weights, ridge)
    gradient = rows.T @ (weights * slopes(problem.loss, rows @ x, targets)) + ridge * x
    grad_norm = float(np.linalg.norm(gradient))
    if grad_norm > TOLERANCE * max(1.0, scale):
        raise NoMinimizerError(
            f"the solver stopped at a gradient norm of {grad_norm:.1e}, above "
            f"{TOLERANCE * max(1.0, scale):.1e}: rounding hides the rest; scale the inputs to similar sizes"
        )
    errors = (rows @ x - targets) ** 2 if problem.loss == "mse" else np.logaddexp(0.0, -targets * (rows @ x))
    f = float(weights @ errors + 0.5 * ridge * (x @ x))
    return Minimum(torch.from_numpy(x), f, grad_norm)


def solved(problem: LinearProblem) -> Constants:
    """`smoothness(problem)`, with x*, f* and (1/n) Σ |∇f_i(x*)|² where there is a minimiser."""
    constants = smoothness(problem)
    try:
        minimum = minimize(problem)
    except NoMinimizerError:
        return constants
    gradients = problem.client_gradients(minimum.x.numpy())
    return dataclasses.replace(
        constants,
        x_star=minimum.x,
        f_star=minimum.f,
        sigma_star_sq=float((gradients**2).sum(axis=1).mean()),
    )


def _least_squares(rows: Floats, targets: Floats, weights: Floats, ridge: float) -> tuple[Floats, float]:
    """x* of |W(Ax - b)|² + (ridge/2)|x|², of least norm, and L, from the SVD of R in QR = WA.

    Two rounds of correction against the gradient of the data themselves take out what the solve has lost to
    rounding.
    """
    d = rows.shape[1]
    root = np.sqrt(weights)
    whole = np.hstack([root[:, None] * rows, (root * targets)[:, None]])
    if ridge > 0:
        whole = np.vstack([whole, np.hstack([math.sqrt(ridge / 2) * np.eye(d), np.zeros((d, 1))])])
    r: Floats = np.asarray(np.linalg.qr(whole, mode="r"))
    u, s, vt = scipy.linalg.svd(r[:, :d], full_matrices=False)
    kept = s > max(whole.shape) * np.finfo(np.float64).eps * s[0]
    u, s, vt = u[:, kept], s[kept], vt[kept]
    x: Floats = vt.T @ ((u.T @ r[:, d]) / s)
    for _ in range(2):
        half_gradient = rows.T @ (weights * (rows @ x - targets)) + 0.5 * ridge * x
        x = x - vt.T @ ((vt @ half_gradient) / s**2)
    return x, float(2.0 * s[0] ** 2) if len(s) else 0.0


def _logistic(rows: Floats, targets: Floats, weights: Floats, ridge: float) -> tuple[Floats, float]:
    """x* of Σ w_j log(1 + exp(-b_j a_jᵀx)) + (ridge/2)|x|², and L.

    With N = max_j |a_jᵀ Δ| for the Newton step Δ, the logistic loss has |φ'''| <= φ'', so along Δ φ''(t) <=
    φ''(0) exp(tN), and f falls at least until exp(tN) = 1 + N. The step t = ln(1 + N)/N needs no line search,
    never overshoots, and tends to 1 with N (cf. Bach, 2010, arXiv 0910.4627; Sun and Tran-Dinh, 2017, arXiv
    1703.04599).
    """
    a: Any = scipy.sparse.csr_array(rows) if np.count_nonzero(rows) < 0.25 * rows.size else rows
    # Where f is constant along a direction (dependent columns, no regulariser) x stays orthogonal to it.
    idle_directions = _null_space(rows) if ridge == 0.0 else np.zeros((rows.shape[1], 0))
    regular = ridge * np.eye(rows.shape[1]) + idle_directions @ idle_directions.T
    x, best, without_gain = np.zeros(rows.shape[1]), math.inf, 0
    for _ in range(_ROUNDS):
        wrong = np.asarray(expit(-targets * (a @ x)))
        gradient = a.T @ (-weights * targets * wrong) + ridge * x
        size = float(np.linalg.norm(gradient))
        without_gain = 0 if size < 0.9 * best else without_gain + 1
        best = min(best, size)
        factor = _cholesky(_gram(a, weights * wrong * (1.0 - wrong)) + regular)
        step = -scipy.linalg.cho_solve(factor, gradient)
        reach = float(np.abs(a @ step).max())
        far_but_flat = size <= TOLERANCE and reach > 0.1
        if reach <= 1e-15 or far_but_flat or (without_gain >= 3 and best <= TOLERANCE):
            break
        x = x + (math.log1p(reach) / reach) * step
    if ridge == 0.0:
        _certify(a, factor, gradient)
    last = len(x) - 1
    bound = scipy.linalg.eigvalsh(_gram(a, 0.25 * weights), subset_by_index=[last, last])[0]
    return x, float(bound) + ridge


def _gram(a: Any, weights: Floats) -> Floats:
    """Aᵀ diag(weights) A, `[d, d]`, of a dense or sparse A."""
    gram = (scipy.sparse.diags_array(weights) @ a).T @ a
    dense: Floats = gram.toarray() if scipy.sparse.issparse(gram) else gram
    return dense


def _null_space(rows: Floats) -> Floats:
    """An orthonormal basis `[d, k]` of the directions in which Ax does not change."""
    _, s, vt = scipy.linalg.svd(np.linalg.qr(rows, mode="r"), full_matrices=True)
    rank = int((s > max(rows.shape) * np.finfo(np.float64).eps * s[0]).sum())
    basis: Floats = vt[rank:].T
    return basis


_SEPARABLE = (
    "the logistic regression has no minimiser: a hyperplane separates the labels (or some of them), and f "
    'falls for ever along its normal; add regularizer = {{ name = "l2", alpha = ... }} ({why})'
)


def _cholesky(hessian: Floats) -> tuple[Floats, bool]:
    try:
        factor: tuple[Floats, bool] = scipy.linalg.cho_factor(hessian, lower=True)
    except np.linalg.LinAlgError:
        raise NoMinimizerError(_SEPARABLE.format(why="its Hessian has become singular")) from None
    return factor


def _certify(a: Any, factor: tuple[Floats, bool], gradient: Floats) -> None:
    """Raise NoMinimizerError unless what was found proves that a minimiser exists.

    Along a ray x + tu with max_j |a_jᵀu| = 1, φ''(t) >= φ''(0) exp(-t), so φ'(∞) >= |u|_H (|u|_H -
    |∇f|_{H⁻¹}), which is positive for every u, and the level sets of f are bounded, if |∇f|_{H⁻¹} · max_j
    |a_j|_{H⁻¹} < 1. On separable data this cannot hold at any point, however small the gradient.
    """
    cholesky = factor[0]
    decrement = float(np.linalg.norm(scipy.linalg.solve_triangular(cholesky, gradient, lower=True)))
    widest = 0.0
    for start in range(0, a.shape[0], 4096):
        block = a[start : start + 4096]
        block = block.toarray() if scipy.sparse.issparse(block) else block
        whitened = scipy.linalg.solve_triangular(cholesky, block.T, lower=True)
        widest = max(widest, float(np.sqrt((whitened**2).sum(axis=0)).max()))
    if not decrement * widest < 1.0:
        raise NoMinimizerError(_SEPARABLE.format(why=f"no proof of one: {decrement * widest:.2g} >= 1"))


__all__ = ["TOLERANCE", "Minimum", "NoMinimizerError", "minimize", "solved"]
