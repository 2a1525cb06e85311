"""Losses of stacks: the bits of one call a client."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from fl_core.execution.kernels import same_bits
from fl_core.execution.loss_kernels import CrossEntropy, mean_losses


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("b", [1, 2, 16, 17, 20, 33, 60])
@pytest.mark.parametrize("clients", [1, 30])
def test_the_mean_of_costs_is_that_of_torch(clients: int, b: int, dtype: torch.dtype) -> None:
    """Of the logs alone, of one client or of 30 at once."""
    source = torch.Generator().manual_seed(b)
    logs = torch.log_softmax(torch.randn(clients, b, 10, dtype=dtype, generator=source), -1)
    labels = torch.randint(10, (clients, b), generator=source)
    values = mean_losses(-logs.gather(2, labels.unsqueeze(2)).squeeze(2))
    for row in range(clients):
        assert same_bits(values[row], functional.nll_loss(logs[row], labels[row]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("b", [1, 4, 20, 37])
def test_cross_entropy(b: int, dtype: torch.dtype) -> None:
    """Values and gradients are those of torch's loss alone."""
    source = torch.Generator().manual_seed(b)
    z = torch.randn(8, b, 10, dtype=dtype, generator=source).mul_(5).requires_grad_()
    labels = torch.randint(10, (8, b), generator=source)
    weights = torch.rand(8, dtype=dtype, generator=source)
    values = CrossEntropy.apply(z, labels)
    (g,) = torch.autograd.grad(values, [z], weights)
    for row in range(8):
        alone = z[row].detach().clone().requires_grad_()
        value = functional.cross_entropy(alone, labels[row])
        assert same_bits(values[row].detach(), value.detach())
        assert same_bits(g[row], torch.autograd.grad(value, [alone], weights[row])[0])
