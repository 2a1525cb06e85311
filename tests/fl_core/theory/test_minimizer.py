"""x* and f*: gradients by autograd, known solutions, and data on which no minimiser exists."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fl_core.theory import LinearProblem, NoMinimizerError, minimize, solved


def clients(n: int = 3, d: int = 4, seed: int = 0, m: int = 12) -> list[tuple[Tensor, Tensor]]:
    """Clients of m, m+1, ... samples with noisy labels -1 and +1."""
    source = torch.Generator().manual_seed(seed)
    made = []
    for i in range(n):
        a = torch.randn(m + i, d, generator=source, dtype=torch.float64)
        noise = 2 * torch.randn(m + i, generator=source, dtype=torch.float64)
        made.append((a, (a[:, 0] + noise).sign()))
    return made


def f(problem: LinearProblem, x: Tensor) -> Tensor:
    """The objective, by torch, independent of the solver."""
    total = torch.zeros((), dtype=torch.float64)
    for a, b in problem.clients:
        rows = torch.hstack([a, torch.ones(len(a), 1, dtype=a.dtype)]) if problem.bias else a
        score = rows @ x
        losses = (score - b).square() if problem.loss == "mse" else -torch.nn.functional.logsigmoid(b * score)
        total = total + losses.mean() / problem.n
    return total + (0.5 * problem.alpha * x.square().sum() if problem.penalty == "l2" else 0.0)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("penalty", "alpha"), [("none", 0.0), ("l2", 1e-3)])
@pytest.mark.parametrize("loss", ["mse", "logistic"])
def test_gradient_at_the_minimum(loss: str, penalty: str, alpha: float, bias: bool) -> None:
    """autograd's gradient at x* is at most 1e-12, f* is the objective there, and nearby points are higher."""
    problem = LinearProblem(clients(), loss, penalty, alpha, bias)
    minimum = minimize(problem)
    x = minimum.x.clone().requires_grad_(True)
    value = f(problem, x)
    (gradient,) = torch.autograd.grad(value, x)
    assert float(gradient.norm()) <= 1e-12
    assert minimum.grad_norm <= 1e-12
    assert minimum.f == pytest.approx(value.item(), rel=1e-13)
    for direction in torch.eye(len(x), dtype=torch.float64):
        assert float(f(problem, minimum.x + 1e-3 * direction)) > minimum.f


def test_solved_knows_heterogeneity() -> None:
    """σ*² is the mean squared norm of the clients' autograd gradients at x*; their mean is ∇f = 0."""
    problem = LinearProblem(clients(), "logistic", "l2", 0.01)
    constants = solved(problem)
    assert constants.x_star is not None
    gradients = []
    for pair in problem.clients:
        x = constants.x_star.clone().requires_grad_(True)
        gradients.append(torch.autograd.grad(f(LinearProblem([pair], "logistic", "l2", 0.01), x), x)[0])
    stacked = torch.stack(gradients)
    assert float(stacked.mean(dim=0).norm()) <= 1e-12
    assert constants.sigma_star_sq == pytest.approx(float(stacked.square().sum(dim=1).mean()), rel=1e-10)
    assert constants.mu == 0.01


@pytest.mark.parametrize("loss", ["mse", "logistic"])
def test_of_many_minimisers_the_shortest(loss: str) -> None:
    """A doubled column: x* has equal weights on the two, whose sum is that of the problem with one column."""
    plain = clients(d=3)
    doubled = [(torch.hstack([a, a[:, :1]]), b) for a, b in plain]
    one, two = minimize(LinearProblem(plain, loss)), minimize(LinearProblem(doubled, loss))
    assert float((two.x[0] - two.x[3]).abs()) <= 1e-10
    assert float(two.x[0] + two.x[3]) == pytest.approx(float(one.x[0]), rel=1e-9)
    assert two.f == pytest.approx(one.f, rel=1e-13)


def test_interpolation_is_found() -> None:
    """Consistent least squares with fewer rows than columns: f* = 0 and numpy's pseudo-inverse solution."""
    a = torch.randn(5, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    b = torch.arange(5, dtype=torch.float64)
    minimum = minimize(LinearProblem([(a, b)]))
    np.testing.assert_allclose(minimum.x.numpy(), np.linalg.pinv(a.numpy()) @ b.numpy(), atol=1e-12)
    assert minimum.f <= 1e-24


def test_badly_scaled_regression_reaches_its_tolerance() -> None:
    """Column scales from 1e-3 to 1e3: the gradient norm is below 1e-12 of L."""
    scaled = [(a * torch.logspace(-3, 3, 4, dtype=torch.float64), b) for a, b in clients()]
    constants = solved(LinearProblem(scaled, "mse"))
    assert constants.x_star is not None
    assert minimize(LinearProblem(scaled, "mse")).grad_norm <= 1e-12 * constants.L


def test_strong_signals_do_not_derail_newton() -> None:
    """Inputs 100 times larger, alpha tiny: plain Newton from 0 would overshoot; the damped one arrives."""
    large = [(100.0 * a, b) for a, b in clients(seed=5)]
    assert minimize(LinearProblem(large, "logistic", "l2", 1e-6)).grad_norm <= 1e-12 * 1e4


@pytest.mark.parametrize("bias", [False, True])
def test_separable_data_have_no_minimiser(bias: bool) -> None:
    """Separable labels: an error that says so and what to add; with l2 there is a minimiser."""
    separable = [(a, a[:, 0].sign()) for a, _ in clients()]
    with pytest.raises(NoMinimizerError, match=r"separates.*l2"):
        minimize(LinearProblem(separable, "logistic", bias=bias))
    assert solved(LinearProblem(separable, "logistic", bias=bias)).x_star is None
    assert minimize(LinearProblem(separable, "logistic", "l2", 1e-4, bias)).grad_norm <= 1e-12


def test_almost_separable_data_are_told_apart() -> None:
    """A feature that only positive samples have separates some labels: no minimiser; one exception, and there is."""
    (a, b), *rest = clients()
    rare = torch.zeros(len(a), 1, dtype=torch.float64)
    positive = int(torch.nonzero(b > 0)[0])
    rare[positive] = 1.0
    others = [(torch.hstack([x, torch.zeros(len(x), 1, dtype=x.dtype)]), y) for x, y in rest]
    with pytest.raises(NoMinimizerError, match="separates"):
        minimize(LinearProblem([(torch.hstack([a, rare]), b), *others], "logistic"))
    rare[int(torch.nonzero(b < 0)[0])] = 1.0
    assert minimize(LinearProblem([(torch.hstack([a, rare]), b), *others], "logistic")).grad_norm <= 1e-12


def test_sparse_and_dense_inputs_agree() -> None:
    """Mostly zero inputs take the sparse path; a dense copy of the problem (rotated) has the same f*."""
    source = torch.Generator().manual_seed(0)
    a = torch.randn(200, 8, generator=source, dtype=torch.float64)
    a = a * (torch.rand(200, 8, generator=source) < 0.15)
    b = (a[:, 0] + torch.randn(200, generator=source, dtype=torch.float64)).sign()
    turn = torch.linalg.qr(torch.randn(8, 8, generator=source, dtype=torch.float64))[0]
    sparse = minimize(LinearProblem([(a, b)], "logistic", "l2", 0.01))
    dense = minimize(LinearProblem([(a @ turn, b)], "logistic", "l2", 0.01))
    assert sparse.f == pytest.approx(dense.f, rel=1e-13)
    np.testing.assert_allclose(sparse.x.numpy(), (turn @ dense.x).numpy(), atol=1e-10)


def test_what_has_no_solver() -> None:
    """The nonconvex regulariser and cross_entropy: an error each, and `solved` without x*."""
    nonconvex = LinearProblem(clients(), "logistic", "nonconvex", 0.1)
    with pytest.raises(NoMinimizerError, match="local minima"):
        minimize(nonconvex)
    with pytest.raises(NoMinimizerError, match="cross_entropy"):
        minimize(LinearProblem([(torch.eye(2), torch.tensor([0, 1]))], "cross_entropy"))
    assert solved(nonconvex).x_star is None
    assert not solved(nonconvex).convex
