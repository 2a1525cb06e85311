"""L, L_i, mu of linear models, against eigenvalues of Hessians that autograd computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fl_core.errors import InputError
from fl_core.theory import Constants, LinearProblem, smoothness


def data(n: int = 3, d: int = 4, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Clients of 5, 6, 7, ... samples; labels -1 and +1."""
    source = torch.Generator().manual_seed(seed)
    sizes = range(5, 5 + n)
    inputs = [torch.randn(m, d, generator=source, dtype=torch.float64) for m in sizes]
    return [(a, torch.randn(len(a), generator=source, dtype=torch.float64).sign()) for a in inputs]


def objective(pair: tuple[Tensor, Tensor], x: Tensor, loss: str, penalty: str, alpha: float) -> Tensor:
    """f_i as the design has it, written once more."""
    a, b = pair
    if len(x) == a.shape[1] + 1:
        a = torch.hstack([a, torch.ones(len(a), 1, dtype=a.dtype)])
    value = (a @ x - b).square().mean() if loss == "mse" else torch.nn.functional.softplus(-b * (a @ x)).mean()
    if penalty == "l2":
        value = value + 0.5 * alpha * x.square().sum()
    if penalty == "nonconvex":
        value = value + alpha * (x.square() / (1 + x.square())).sum()
    return value


def hessian(pair: tuple[Tensor, Tensor], x: Tensor, *rest: object) -> np.ndarray:
    """∇²f_i(x)."""
    return torch.autograd.functional.hessian(lambda y: objective(pair, y, *rest), x).numpy()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("penalty", ["none", "l2", "nonconvex"])
@pytest.mark.parametrize("loss", ["mse", "logistic"])
def test_bounds_are_met_at_zero(loss: str, penalty: str, bias: bool) -> None:
    """At x = 0 every curvature is the largest: L_i and L equal the eigenvalues of autograd's Hessians to 1e-12."""
    clients = data()
    constants = smoothness(LinearProblem(clients, loss, penalty, 0.3, bias))
    zero = torch.zeros(5 if bias else 4, dtype=torch.float64)
    hessians = [hessian(pair, zero, loss, penalty, 0.3) for pair in clients]
    expected = [np.linalg.eigvalsh(h).max() for h in hessians]
    np.testing.assert_allclose(constants.L_i.numpy(), expected, rtol=1e-12)
    values = np.linalg.eigvalsh(np.mean(hessians, axis=0))
    assert pytest.approx(values.max(), rel=1e-12) == constants.L
    if loss == "mse" and penalty != "nonconvex":
        assert constants.mu == pytest.approx(values.min(), rel=1e-11)
    assert constants.convex is (penalty != "nonconvex")


@pytest.mark.parametrize("penalty", ["none", "l2", "nonconvex"])
@pytest.mark.parametrize("loss", ["mse", "logistic"])
def test_bounds_hold_everywhere(loss: str, penalty: str) -> None:
    """At many points no eigenvalue of the Hessian of f leaves [mu, L] (nonconvex without its mu: above -L)."""
    clients = data(seed=1)
    constants = smoothness(LinearProblem(clients, loss, penalty, 0.3))
    source = torch.Generator().manual_seed(2)
    for scale in (0.1, 1.0, 1.0, 3.0, 10.0):
        x = scale * torch.randn(4, generator=source, dtype=torch.float64)
        values = np.linalg.eigvalsh(np.mean([hessian(p, x, loss, penalty, 0.3) for p in clients], axis=0))
        assert values.max() <= constants.L * (1 + 1e-12)
        assert values.min() >= (constants.mu if constants.mu > 0 else -constants.L) - 1e-12


def test_nonconvex_penalty_takes_half_alpha_from_mu() -> None:
    """r'' is least, -alpha/2, at t = ±1: with all coordinates there, mu is attained for mse."""
    constants = smoothness(LinearProblem([(3.0 * torch.eye(2).double(), torch.zeros(2))], "mse", "nonconvex", 4.0))
    least = hessian(
        (3.0 * torch.eye(2).double(), torch.zeros(2).double()), torch.ones(2).double(), "mse", "nonconvex", 4.0
    )
    assert constants.mu == pytest.approx(9.0 - 2.0, rel=1e-12)
    assert np.linalg.eigvalsh(least).min() == pytest.approx(7.0, rel=1e-12)


def test_cross_entropy_bound_holds_and_is_met_by_two_classes() -> None:
    """Softmax regression: no Hessian exceeds L_i, and with two even classes it is reached at 0."""
    a = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 1, 1, 0, 1])
    L_i = float(smoothness(LinearProblem([(a, labels)], "cross_entropy")).L_i[0])

    def largest(w: Tensor) -> float:
        def f(flat: Tensor) -> Tensor:
            return torch.nn.functional.cross_entropy(a @ flat.reshape(2, 3).T, labels)

        return float(np.linalg.eigvalsh(torch.autograd.functional.hessian(f, w).numpy()).max())

    assert largest(torch.zeros(6).double()) == pytest.approx(L_i, rel=1e-12)
    assert largest(torch.linspace(-1, 2, 6).double()) < L_i


def test_flat_problems_have_mu_exactly_zero() -> None:
    """Fewer rows than columns, or equal columns: mu is 0 and not a rounding error."""
    assert smoothness(LinearProblem(data(n=1, d=9))).mu == 0.0
    a = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert smoothness(LinearProblem([(torch.hstack([a, a[:, :1]]), a[:, 0])])).mu == 0.0


def test_small_mu_keeps_its_digits() -> None:
    """A condition number of 1e10 costs mu no more than 1e-9 of itself (a Gram matrix would keep 6 digits)."""
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((30, 5)))[0]
    a = basis * np.sqrt(np.array([1.0, 0.3, 0.1, 1e-5, 1e-10]) * 15)
    turned = torch.from_numpy(a @ np.linalg.qr(np.random.default_rng(1).standard_normal((5, 5)))[0])
    constants = smoothness(LinearProblem([(turned, torch.zeros(30))]))
    assert pytest.approx(1.0, rel=1e-12) == constants.L
    assert constants.mu == pytest.approx(1e-10, rel=1e-9)


def test_means_of_the_local_constants() -> None:
    """L_max, L_tilde and L_mean of (1, 2, 2)."""
    constants = Constants(L=1.5, L_i=torch.tensor([1.0, 2.0, 2.0], dtype=torch.float64), mu=0.0)
    assert constants.n == 3
    assert constants.L_max == 2.0
    assert constants.L_tilde == pytest.approx(3.0**0.5, rel=1e-15)
    assert constants.L_mean == pytest.approx(5 / 3, rel=1e-15)


def test_what_is_refused() -> None:
    """Wrong losses, penalties, labels, shapes, constants: an InputError that names the client or the number."""
    pair = data()[0]
    with pytest.raises(InputError, match="hinge"):
        LinearProblem([pair], "hinge")
    with pytest.raises(InputError, match="l1"):
        LinearProblem([pair], "mse", "l1")
    with pytest.raises(InputError, match="alpha"):
        LinearProblem([pair], "mse", "l2", -1.0)
    with pytest.raises(InputError, match="client 1: the logistic loss needs"):
        LinearProblem([pair, (pair[0], torch.zeros(5))], "logistic")
    with pytest.raises(InputError, match="client 0: 5 inputs and 10"):
        LinearProblem([(pair[0], torch.zeros(5, 2))])
    with pytest.raises(InputError, match="constant"):
        smoothness(LinearProblem([(torch.zeros(3, 2), torch.zeros(3))]))
    with pytest.raises(InputError, match="mu"):
        Constants(L=1.0, L_i=torch.ones(2), mu=2.0)
    with pytest.raises(InputError, match="L_i"):
        Constants(L=1.0, L_i=torch.tensor([-1.0]), mu=0.0)
