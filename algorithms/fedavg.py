"""FedAvg (McMahan, Moore, Ramage, Hampson, Agüera y Arcas, AISTATS 2017, arXiv 1602.05629, Algorithm 1).

Use it as the baseline: local SGD on each participant, then a mean weighted by data size. It converges to a biased
point when clients differ and take several local steps. With `[server] optimizer` adam, yogi or adagrad it is FedAdam,
FedYogi or FedAdagrad (arXiv 2003.00295; when to use which: fl_core/yogi.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from fl_core import Algorithm, Client, Message, Replies, Server, State

if TYPE_CHECKING:
    from fl_core.theory import Setting, Step


@dataclass(frozen=True)
class FedAvg(Algorithm):
    """G = -Σ w_i Δ_i / Σ w_i with Δ_i = x_i^τ - x^t; the server optimizer subtracts η_g G.

    Args:
        weights: w_i is the number of samples ("size", as in the paper) or 1 ("uniform").
    """

    weights: Literal["size", "uniform"] = "size"

    class Reply(State):
        """Δ_i, compressed by the uplink's operator."""

        delta: Message

    def local_state(self, client: Client, x0: Tensor, x: Tensor, s: Any) -> Any:
        """Δ_i = x_i^τ - x^t."""
        return self.Reply(delta=client.compress(x - x0))

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        """G = -(weighted) mean of Δ_i."""
        return -(replies.weighted_mean("delta") if self.weights == "size" else replies.mean("delta"))

    def theoretical_step(self, setting: Setting) -> Step:
        """With one local step that of DCGD; with several, without compression, η_g η_l τ = 1/(24 L_max)."""
        from fl_core.theory import steps

        return steps.fedavg(setting)
