"""FedProx (Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, MLSys 2020, arXiv 1812.06127, Algorithm 2).

Use it where clients differ and do much local work: a proximal term holds them near x^t. It lessens FedAvg's bias, it
does not remove it (SCAFFOLD does). The paper solves min_y f_i(y) + (μ/2)|y - x^t|² inexactly; here by `[local]`'s
steps. The algorithm's number is from memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from algorithms.fedavg import FedAvg
from fl_core import Client
from fl_core.options import NonNegative

if TYPE_CHECKING:
    from fl_core.theory import Setting, Step


@dataclass(frozen=True)
class FedProx(FedAvg):
    """FedAvg with local directions ∇f_i(y) + μ(y - x^t); the centre is x^t for the whole round.

    Args:
        mu: μ >= 0, how strongly clients are held (the paper tries 0.001 to 1); 0 is FedAvg.
    """

    mu: NonNegative = 0.1

    def local_gradient(self, client: Client, x: Tensor, s: Any) -> Tensor:
        """∇f_i(y) + μ(y - x^t)."""
        return client.gradient(x).add_(x - client.x0, alpha=self.mu)

    def theoretical_step(self, setting: Setting) -> Step:
        """That of FedAvg with one local step; there is none with several."""
        from fl_core.theory import steps

        return steps.fedprox(setting)
