"""FedNova (Wang, Liu, Liang, Joshi, Poor, NeurIPS 2020, arXiv 2007.07481).

Use it where clients take different numbers of local steps (their data differ in size and `[local]` says epochs):
FedAvg then minimises another function than f, weighted towards those that step more. With equal numbers it is FedAvg.
The bias of local steps themselves remains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fl_core import Algorithm, Client, Message, Replies, Server, State


@dataclass(frozen=True)
class FedNova(Algorithm):
    """d_i = (x^t - x_i^τ)/a_i, G = (Σ p_i a_i) Σ p_i d_i, p_i = m_i/Σ_S m_j.

    a_i = ‖a_i‖₁ is how many gradients' worth a client's local run is: τ_i for SGD, and with momentum ρ
    (τ_i - ρ(1-ρ^τ_i)/(1-ρ))/(1-ρ), the paper's formula. For other local optimizers a_i = τ_i, which the paper does not
    cover. The effective τ is the paper's choice Σ p_i a_i.
    """

    class Reply(State):
        """d_i, compressed by the uplink's operator, and a_i, one number."""

        d: Message
        a: Tensor

    def local_state(self, client: Client, x0: Tensor, x: Tensor, s: Any) -> Any:
        """d_i and a_i."""
        rho, a = float(client.optimizer.options.get("momentum") or 0.0), float(client.steps)
        if rho > 0.0:
            a = (a - rho * (1.0 - rho**client.steps) / (1.0 - rho)) / (1.0 - rho)
        return self.Reply(d=client.compress((x0 - x) / a), a=x0.new_tensor(a))

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        """G = (Σ p_i a_i) Σ p_i d_i."""
        return replies.weighted_mean("a") * replies.weighted_mean("d")
