"""What methods that work on (compressed) gradients share: a first round of exact gradients, and their step γ.

With several local steps "the gradient" of client i is the pseudo-gradient (x - x_i^τ)/(τ η_l). One compression and one
message a round; without compression all these methods then are FedAvg(τ), whose bias under heterogeneity they share.
None of them is analysed with τ > 1; with τ = 1 each is the published method at γ = η_g η_l.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fl_core.algorithm import Algorithm

if TYPE_CHECKING:
    from fl_core.client import Client
    from fl_core.server import Server


@dataclass(frozen=True)
class InitialRound(Algorithm):
    """A method whose round 1 may be an initialisation: all n clients send ∇f_i(x^0), exact and uncompressed."""

    @property
    def starts_exactly(self) -> bool:
        """Whether round 1 is one."""
        return False

    def initial(self, at: Client | Server) -> bool:
        """Whether the present round is the initialisation."""
        return at.round == 1 and self.starts_exactly

    def participants(self, server: Server, sampled: tuple[int, ...]) -> Sequence[int]:
        """All clients in the initialisation, whoever was sampled."""
        return range(server.n) if self.initial(server) else sampled

    def local_steps(self, client: Client, s: Any) -> int:
        """None in the initialisation: `client.full_gradient` is all it takes."""
        return 0 if self.initial(client) else client.steps

    def shift_rate(self, at: Client | Server, alpha: float | None) -> float:
        """α of h_i += α C(∇f_i - h_i): 1/(1+ω) where none is given; 1 in the initialisation, where h_i becomes
        ∇f_i(x^0)."""
        if self.initial(at):
            return 1.0
        return 1.0 / (1.0 + at.omega) if alpha is None else alpha


@dataclass(frozen=True)
class GradientMethod(InitialRound):
    """A method whose ServerGradient G estimates ∇f itself: x^{t+1} = x^t - γ G with γ = η_g η_l τ."""

    def server_opt(self, server: Server, g: Tensor) -> Tensor:
        """The server optimizer with η_l τ G as its gradient: here, and nowhere else, the local step length enters."""
        return server.optimizer.step(server.x, server.local_step * g)


__all__ = ["GradientMethod", "InitialRound"]
