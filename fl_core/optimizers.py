"""Optimizers by their torch.optim names, on one flat vector.

torch.optim does the work; this module only gives it a flat leaf and hands the gradient over. Plain SGD, which every
client of FedAvg runs, is one in-place axpy: the same operation that torch.optim.SGD performs, without its 30 µs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compressors.compressor import copy_of
from fl_core.experiment.optimizers import optimizer_class

_LONG = 1 << 20
"""Numbers of a vector from which its memory is had in huge pages: of 45 MB, 40 ms of page faults less."""

_SGD_EXTRAS = ("momentum", "dampening", "weight_decay", "nesterov", "maximize")


class FlatOptimizer:
    """A torch optimizer over one vector `[d]` that the optimizer owns; `step` moves it and returns it.

    Args:
        name: of a class in torch.optim, case-insensitive.
        options: its arguments, "lr" among them.
    """

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        self.name = name.lower()
        self.options = dict(options)
        self.lr = float(self.options.get("lr", 0.0))
        self.plain = self.name == "sgd" and not any(self.options.get(key) for key in _SGD_EXTRAS)
        self._leaf: Tensor | None = None
        self.torch_optimizer: torch.optim.Optimizer | None = None

    def start(self, x: Tensor) -> Tensor:
        """Begin at x: the optimizer's own copy of it, which the following steps move."""
        leaf = copy_of(x.detach().unsqueeze(0)).squeeze(0) if x.numel() >= _LONG else x.detach().clone()
        self._leaf = leaf
        self.torch_optimizer = None if self.plain else optimizer_class(self.name)([leaf], **self.options)
        return leaf

    def step(self, x: Tensor, g: Tensor) -> Tensor:
        """The next point from x and the gradient g, both `[d]`."""
        leaf = self._leaf
        if leaf is None:
            leaf = self.start(x)
        elif leaf is not x:
            leaf.copy_(x)
        if self.torch_optimizer is None:
            return leaf.add_(g.detach() if g.requires_grad else g, alpha=-self.lr)
        with torch.no_grad():
            leaf.grad = g
            self.torch_optimizer.step()
            leaf.grad = None
        return leaf

    def handed_over(self, x: Tensor) -> Tensor:
        """x `[d]`, which `step` has returned, for the caller to keep: no later step writes to it."""
        if x is self._leaf and self.plain:
            self._leaf = None
            return x
        return x.clone()

    def set_lr(self, lr: float) -> None:
        """Change the step size (a schedule does, once a round)."""
        self.lr = lr
        self.options["lr"] = lr
        if self.torch_optimizer is not None:
            for group in self.torch_optimizer.param_groups:
                group["lr"] = lr

    def state(self) -> dict[str, Tensor]:
        """The optimizer's own tensors (momenta, counts), by name: what a checkpoint keeps."""
        if self.torch_optimizer is None or self._leaf is None:
            return {}
        kept = self.torch_optimizer.state.get(self._leaf, {})
        return {name: torch.as_tensor(value) for name, value in kept.items() if value is not None}

    def restore(self, x: Tensor, state: Mapping[str, Tensor]) -> None:
        """Continue from a checkpoint: at x, with the tensors `state` once returned."""
        if self.plain:  # it remembers nothing
            self._leaf = None
            return
        leaf = self.start(x)
        if self.torch_optimizer is not None and state:
            self.torch_optimizer.state[leaf] = {name: value.clone() for name, value in state.items()}


class Schedule:
    """The server's step size by round: `[server] schedule`, as torch.optim.lr_scheduler defines each.

    Args:
        name: "constant" | "step" (step_size, gamma) | "exponential" (gamma) | "cosine" (eta_min) | "linear"
            (end_factor).
        lr: the step size of round 1.
        rounds: of the whole run.
    """

    def __init__(self, name: str, options: Mapping[str, Any], lr: float, rounds: int) -> None:
        self._name, self._options, self._lr, self._rounds = name, dict(options), lr, rounds
        self._restart()

    def lr(self, round: int) -> float:
        """The step size of round 1, 2, …"""
        if self._scheduler is None:
            return self._lr
        if round < self._round:
            self._restart()
        while self._round < round:
            self._scheduler.step()
            self._round += 1
        return float(self._optimizer.param_groups[0]["lr"])

    def _restart(self) -> None:
        schedules, options, rounds = torch.optim.lr_scheduler, self._options, self._rounds
        self._round = 1
        self._scheduler: Any = None
        if self._name == "constant":
            return
        self._optimizer = torch.optim.SGD([torch.zeros(1)], lr=self._lr)
        if self._name == "step":
            built: Any = schedules.StepLR(self._optimizer, **{"step_size": max(1, rounds // 3), **options})
        elif self._name == "exponential":
            built = schedules.ExponentialLR(self._optimizer, **{"gamma": 0.99, **options})
        elif self._name == "cosine":
            built = schedules.CosineAnnealingLR(self._optimizer, T_max=rounds, **options)
        else:
            built = schedules.LinearLR(self._optimizer, **{"start_factor": 1.0, "total_iters": rounds, **options})
        self._optimizer.step()  # a scheduler warns when it steps before its optimizer
        self._scheduler = built
