"""Regularizers against their formulas and against autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fl_core.experiment.schema import PlugIn
from fl_core.regularizers import REGULARIZERS, Regularizer, regularizer

PLUGS = [PlugIn("none"), PlugIn("l2", {"alpha": 0.3}), PlugIn("nonconvex", {"alpha": 0.3})]
X = torch.linspace(-3, 3, 13, dtype=torch.float64)


def test_every_regularizer_is_tested_here() -> None:
    """A new one must join these tests."""
    assert {plug.name for plug in PLUGS} == set(REGULARIZERS)


def test_values_are_the_formulas() -> None:
    """alpha/2 |x|² and alpha Σ x²/(1+x²), by hand on two numbers."""
    x = torch.tensor([1.0, 2.0], dtype=torch.float64)
    assert regularizer(PLUGS[0]).value(x).item() == 0.0
    assert regularizer(PLUGS[1]).value(x).item() == pytest.approx(0.3 / 2 * 5, rel=1e-15)
    assert regularizer(PLUGS[2]).value(x).item() == pytest.approx(0.3 * (1 / 2 + 4 / 5), rel=1e-15)


@pytest.mark.parametrize("plug", PLUGS, ids=lambda plug: plug.name)
def test_the_gradient_is_autograd_s(plug: PlugIn) -> None:
    """The closed form equals the derivative of the value, to rounding."""
    r = regularizer(plug)
    x = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(r.value(x) + 0.0 * x.sum(), x)
    assert torch.allclose(r.gradient(X), expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("plug", PLUGS, ids=lambda plug: plug.name)
def test_a_stack_is_its_rows(plug: PlugIn) -> None:
    """[G, d] gives one value a row, and the rows' gradients."""
    r, stack = regularizer(plug), torch.stack([X, 2 * X, -X])
    assert r.value(stack).shape == (3,)
    assert torch.equal(r.value(stack), torch.stack([r.value(row) for row in stack]))
    assert torch.equal(r.gradient(stack), torch.stack([r.gradient(row) for row in stack]))


def second_derivatives(r: Regularizer, x: Tensor) -> Tensor:
    """∂²R/∂x_j² at each x_j (R is separable)."""
    hessian: Tensor = torch.autograd.functional.hessian(lambda y: r.value(y) + 0.0 * y.square().sum(), x)  # type: ignore[no-untyped-call]
    return hessian.diagonal()


@pytest.mark.parametrize("plug", PLUGS, ids=lambda plug: plug.name)
def test_the_constants_bound_the_curvature_and_are_reached(plug: PlugIn) -> None:
    """The largest second derivative is `smoothness`; none is below `strong_convexity` if that is not 0."""
    r = regularizer(plug)
    curvature = second_derivatives(r, X)
    assert curvature.abs().max().item() == pytest.approx(r.smoothness, rel=1e-12, abs=1e-15)
    if r.strong_convexity > 0:
        assert curvature.min().item() == pytest.approx(r.strong_convexity, rel=1e-12)
