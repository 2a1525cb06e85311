"""Yogi, which torch.optim lacks: Adam whose second moment changes by no more than (1-β₂)g² at a step.

FedAdam, FedYogi and FedAdagrad (Reddi et al., ICLR 2021, arXiv 2003.00295, Algorithm 2) are FedAvg with the server
optimizer adam, yogi or adagrad: `[server] optimizer = { name = "yogi", lr = 0.01 }`. Use FedAdagrad where gradients are
sparse (language models), FedAdam by default where plain FedAvg is slow, FedYogi where FedAdam forgets rare coordinates
too fast. torch's adam corrects the bias of its moments, the paper's does not; this Yogi is the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Yogi(Optimizer):
    """m = β₁m + (1-β₁)g, v = v - (1-β₂) g² sign(v - g²), x = x - lr · m/(sqrt(v) + eps).

    Zaheer, Reddi, Sachan, Kale, Kumar, 2018 (the v rule); Reddi et al., 2020, arXiv 2003.00295 (no correction of the
    moments' bias, v = eps² at the start, the defaults).

    Args:
        params: as in torch.optim.
        lr: the step size.
        betas: β₁ and β₂, in [0, 1).
        eps: the paper's τ, its degree of adaptivity.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-3,
    ) -> None:
        if not lr >= 0.0:
            raise ValueError(f"Invalid learning rate: {lr}")
        if not all(0.0 <= beta < 1.0 for beta in betas):
            raise ValueError(f"Invalid betas: {betas}")
        if not 0.0 < eps < math.inf:
            raise ValueError(f"Invalid eps: {eps}")
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step, on every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            (beta1, beta2), eps = group["betas"], group["eps"]
            for x in group["params"]:
                if x.grad is None:
                    continue
                state = self.state[x]
                if not state:
                    state["exp_avg"] = torch.zeros_like(x)
                    state["exp_avg_sq"] = torch.full_like(x, eps**2)
                m, v = state["exp_avg"], state["exp_avg_sq"]
                square = x.grad.square()
                m.lerp_(x.grad, 1.0 - beta1)
                v.addcmul_(torch.sign(v - square), square, value=beta2 - 1.0)
                x.addcdiv_(m, v.sqrt().add_(eps), value=-group["lr"])
        return loss


__all__ = ["Yogi"]
