"""torch's optimizers for many clients: one on a stacked leaf, where its step treats every number by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fl_core.execution.fused_functions import CannotFuseError
from fl_core.experiment.optimizers import optimizer_class

ELEMENTWISE = frozenset(
    ("sgd", "adam", "adamw", "rmsprop", "adagrad", "adadelta", "adamax", "nadam", "radam", "asgd", "rprop")
)
"""Optimizers of torch whose step on a stack is, number for number, the step on each row."""


class StackedTorchOptimizer:
    """G optimizers of torch as one on a stacked leaf; rows may leave it at the end, as clients finish."""

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        if name.lower() not in ELEMENTWISE:
            raise CannotFuseError(f"the optimizer {name} is not known to treat every number by itself")
        self._make: Callable[[Tensor], torch.optim.Optimizer] = lambda leaf: optimizer_class(name)([leaf], **options)
        self._leaf: Tensor | None = None
        self._optimizer: torch.optim.Optimizer | None = None

    def step(self, x: Tensor, g: Tensor) -> Tensor:
        """The next points `[r, d]`; r may shrink from step to step, rows 0 … r-1 staying."""
        leaf = self._leaf
        if leaf is None or self._optimizer is None:
            leaf = self._leaf = x.clone(memory_format=torch.contiguous_format)
            self._optimizer = self._make(leaf)
        elif leaf.shape[0] != x.shape[0]:
            leaf = self._shrink(leaf, self._optimizer, x.shape[0])
        if leaf is not x:
            leaf.copy_(x)
        assert self._optimizer is not None
        with torch.no_grad():
            leaf.grad = g.contiguous()
            self._optimizer.step()
            leaf.grad = None
        return leaf

    def _shrink(self, leaf: Tensor, optimizer: torch.optim.Optimizer, rows: int) -> Tensor:
        kept = optimizer.state[leaf]
        smaller = leaf[:rows].clone()
        self._leaf, self._optimizer = smaller, self._make(smaller)
        self._optimizer.state[smaller] = {
            name: value[:rows].clone() if isinstance(value, Tensor) and value.shape == leaf.shape else value
            for name, value in kept.items()
        }
        return smaller
