"""Yogi: its recursion, its state, what it refuses."""

from __future__ import annotations

import pytest
import torch

from fl_core.optimizers import FlatOptimizer
from fl_core.yogi import Yogi


def test_the_recursion_written_out() -> None:
    """m, v and x after three steps, with scalars; v rises and falls by (1-β₂)g², whatever its own size."""
    x = torch.tensor([1.0], dtype=torch.float64)
    optimizer = Yogi([x], lr=0.1, betas=(0.9, 0.99), eps=1e-3)
    m, v, expected = 0.0, 1e-6, 1.0
    for g in (2.0, -1.0, 0.01):
        x.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
        m = 0.9 * m + 0.1 * g
        sign = (v > g * g) - (v < g * g)
        v = v - 0.01 * g * g * sign
        expected -= 0.1 * m / (v**0.5 + 1e-3)
        assert float(x) == pytest.approx(expected, rel=1e-12)


def test_its_state_survives_a_checkpoint() -> None:
    """FlatOptimizer keeps and restores it: the same bytes after two steps and two more."""
    options = {"lr": 0.1}
    whole, half = FlatOptimizer("yogi", options), FlatOptimizer("yogi", options)
    gradients = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    x = whole.start(torch.ones(3))
    y = half.start(torch.ones(3))
    for g in gradients[:2]:
        x, y = whole.step(x, g), half.step(y, g)
    resumed = FlatOptimizer("yogi", options)
    resumed.restore(y.clone(), {name: value.clone() for name, value in half.state().items()})
    z = y.clone()
    for g in gradients[2:]:
        x, z = whole.step(x, g), resumed.step(z, g)
    assert torch.equal(x, z)


@pytest.mark.parametrize(
    ("options", "text"), [({"lr": -1.0}, "rate"), ({"betas": (0.9, 1.0)}, "betas"), ({"eps": 0.0}, "eps")]
)
def test_what_it_refuses(options: dict[str, object], text: str) -> None:
    """Out of range, as torch's own optimizers do."""
    with pytest.raises(ValueError, match="Invalid"):
        Yogi([torch.zeros(1)], **options)  # type: ignore[arg-type]


def test_a_closure_is_called_and_its_loss_returned() -> None:
    """As torch.optim's contract has it."""
    x = torch.ones(2, requires_grad=True)
    optimizer = Yogi([x], lr=0.1)

    def closure() -> torch.Tensor:
        loss = (x * x).sum()
        loss.backward()
        return loss

    assert float(optimizer.step(closure).detach()) == 2.0
    assert bool((x < 1).all())
