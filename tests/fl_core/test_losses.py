"""Losses against their formulas, in float64, and the targets each needs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fl_core.errors import ExperimentError
from fl_core.losses import LOSSES, fitted_targets, loss


def rows(*values: float) -> Tensor:
    """A float64 vector."""
    return torch.tensor(values, dtype=torch.float64)


def test_mse_is_the_mean_of_squared_errors() -> None:
    """(1/m) Σ (a_j·x − b_j)², without a factor 1/2."""
    assert loss("mse")(rows(1, 2, 3), rows(0, 0, 1)).item() == pytest.approx((1 + 4 + 4) / 3, abs=1e-15)


def test_mse_of_vectors_sums_over_outputs() -> None:
    """(1/m) Σ ‖z_j − b_j‖²: the mean is over samples, not over numbers."""
    assert loss("mse")(torch.ones(2, 3), torch.zeros(2, 3)).item() == 3.0


@pytest.mark.parametrize("name", ["mse", "logistic"])
def test_one_output_may_be_a_column_or_not(name: str) -> None:
    """[m] and [m, 1] mean the same, in any combination: no silent [m, m]."""
    z, b = rows(0.5, -1, 2), rows(1, -1, -1)
    values = {float(loss(name)(zz, bb)) for zz in (z, z[:, None]) for bb in (b, b[:, None])}
    assert len(values) == 1


@given(st.lists(st.tuples(st.floats(-700, 700), st.sampled_from([-1.0, 1.0])), min_size=1, max_size=5))
def test_logistic_is_its_formula(pairs: list[tuple[float, float]]) -> None:
    """mean log(1 + exp(−b z)) to 1e-14 relative, where math can say it, for margins of any size."""
    z, b = rows(*(p[0] for p in pairs)), rows(*(p[1] for p in pairs))
    margins = [p[0] * p[1] for p in pairs]
    expected = math.fsum(max(-m, 0.0) + math.log1p(math.exp(-abs(m))) for m in margins) / len(margins)
    assert loss("logistic")(z, b).item() == pytest.approx(expected, rel=1e-14, abs=1e-300)


@pytest.mark.parametrize("z", [-40.0, -25.0, 0.0, 25.0, 40.0])
def test_the_gradient_of_logistic_is_exact_in_the_tails(z: float) -> None:
    """−b σ(−b z) to full precision also beyond 20, where softplus would have turned linear."""
    x = rows(z).requires_grad_()
    (gradient,) = torch.autograd.grad(loss("logistic")(x, rows(1)), x)
    expected = -math.exp(-z) / (1 + math.exp(-z)) if z > 0 else -1 / (1 + math.exp(z))
    assert gradient.item() == pytest.approx(expected, rel=1e-14)


def test_cross_entropy_is_its_formula() -> None:
    """mean −log softmax(z)[b]."""
    z = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    expected = (-(1 - math.log(math.e + math.e**2 + math.e**3)) + math.log(3)) / 2
    assert loss("cross_entropy")(z, torch.tensor([0, 2])).item() == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("name", list(LOSSES))
def test_losses_hold_under_vmap(name: str) -> None:
    """A cohort's losses in one batched call are the losses one by one."""
    z = torch.randn(4, 5, 3 if name == "cross_entropy" else 1, generator=torch.Generator().manual_seed(1))
    b = torch.randint(0, 2, (4, 5), generator=torch.Generator().manual_seed(2))
    targets = b if name == "cross_entropy" else (2.0 * b - 1)
    batched = torch.func.vmap(loss(name))(z, targets)
    assert torch.allclose(batched, torch.stack([loss(name)(z[i], targets[i]) for i in range(4)]))


def test_targets_take_the_type_the_loss_needs() -> None:
    """Labels are int64, everything else is of the model's type."""
    assert fitted_targets("cross_entropy", rows(0, 1, 2), torch.float32, 3).dtype is torch.int64
    assert fitted_targets("mse", torch.tensor([1, 2]), torch.float64).dtype is torch.float64
    assert fitted_targets("logistic", torch.tensor([1, -1]), torch.float32).dtype is torch.float32


@pytest.mark.parametrize(
    ("name", "targets", "classes", "text"),
    [
        ("logistic", [0.0, 1.0], None, '[model] loss: "logistic" needs labels -1 and +1, the data has 0, 1'),
        (
            "logistic",
            [float(k) for k in range(10)],
            10,
            '[model] loss: "logistic" needs labels -1 and +1, the data has 0, 1, 2, 3, 4, … (10 different values)',
        ),
        (
            "cross_entropy",
            [-1.0, 1.0],
            None,
            '[model] loss: "cross_entropy" needs labels 0, 1, 2, …, the data has -1, 1',
        ),
        ("cross_entropy", [0.0, 3.0], 3, '[model] loss: "cross_entropy" needs labels 0 to 2, the data has 0, 3'),
        ("cross_entropy", [0.5], None, '[model] loss: "cross_entropy" needs labels 0, 1, 2, …, the data has 0.5'),
        ("mse", [1.0, float("inf")], None, '[model] loss: "mse" needs finite targets, the data has 1, inf'),
    ],
)  # fmt: skip
def test_targets_a_loss_cannot_use(name: str, targets: list[float], classes: int | None, text: str) -> None:
    """Wrong labels are refused when the data is loaded, with the labels that are there."""
    with pytest.raises(ExperimentError) as caught:
        fitted_targets(name, rows(*targets), torch.float64, classes)
    assert str(caught.value) == text
