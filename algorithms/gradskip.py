"""GradSkip (Maranjyan, Safaryan, Richtárik 2022, arXiv 2210.16402, Algorithm 1); with q = 1 ProxSkip (Mishchenko,
Malinovsky, Stich, Richtárik 2022, arXiv 2202.09357).

Use it to communicate rarely on ill-conditioned strongly convex problems: O(sqrt(κ)) rounds, and clients with small
κ_i rest. Written from memory; limits and fixed point were worked out here. All clients, no compression, plain local
SGD, η_g = 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fl_core import Algorithm, Client, Message, Replies, Server, State, zeros
from fl_core.errors import ExperimentError
from fl_core.options import Chance, Probability

if TYPE_CHECKING:
    from fl_core.theory import Setting, Step


@dataclass(frozen=True)
class GradSkip(Algorithm):
    """A round is the iterations up to and with the next communication; γ = η_l.

    Iteration: x_i -= γ(∇f_i(x_i) - h_i) with probability q_i; else h_i = ∇f_i(x_i), and the client rests for the round.
    Communication, with probability p after each iteration: x = (1/n) Σ w_i, w_i = x_i - (γ/p) h_i, and then
    h_i = (p/γ)(x - w_i), which the client works out when the next round brings it x. Σ h_i = 0.

    Args:
        p: by default 1/τ, so that `[local]` steps are the mean number of iterations in a round.
        q: q_i, one number, or one for each client. With p² = 1/κ_max, (1 - 1/κ_i)/(1 - 1/κ_max) is the paper's choice.
    """

    compressor = "lossless"
    participation = "full"
    p: Chance | None = None
    q: Probability | tuple[Probability, ...] = 1.0

    class Memory(State):
        """w_i, what the client sent last."""

        w_i: Tensor = zeros()

    class Broadcast(State):
        """The round's iterations, which shared coins decide, and p/γ."""

        iterations: int
        p_over_gamma: float

    class Reply(State):
        """w_i."""

        w: Message

    def client_state(self, server: Server, client_id: int) -> Any:
        """A geometric number of iterations: the coins of mean p up to the first 1."""
        if isinstance(self.q, tuple | list) and len(self.q) != server.n:
            raise ExperimentError(f"has {len(self.q)} numbers for {server.n} clients", path="algorithm.q")
        p = 1.0 / server.tau if self.p is None else self.p
        return self.Broadcast(
            iterations=1 + _ones(1.0 - p, server.generator("coins")), p_over_gamma=p / server.local_lr
        )

    def local_steps(self, client: Client, s: Any) -> int:
        """Iterations until the client rests."""
        q = self.q if isinstance(self.q, float) else self.q[client.id]
        return min(int(s.iterations), _ones(q, client.generator("rest"), most=int(s.iterations)))

    def local_gradient(self, client: Client, x: Tensor, s: Any) -> Tensor:
        """∇f_i(x_i) - h_i."""
        return client.gradient(x) - self._shift(client, s)

    def local_state(self, client: Client, x0: Tensor, x: Tensor, s: Any) -> Any:
        """w_i."""
        h = client.gradient(x) if client.steps < s.iterations else self._shift(client, s)
        w = client.compress(x - h / s.p_over_gamma)
        client.memory.w_i = w.value
        return self.Reply(w=w)

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        """x - (1/n) Σ w_i."""
        return server.x - replies.mean("w")

    def theoretical_step(self, setting: Setting) -> Step | None:
        """Raises NoTheoremError, with the clients' step, which is what the theorem gives; the server's is 1."""
        from fl_core.theory import steps

        q = (self.q,) * setting.n if isinstance(self.q, float) else self.q
        local = steps.gradskip(setting, 1.0 / setting.tau if self.p is None else self.p, q)
        raise steps.NoTheoremError(
            f"gradskip's theorem is about the clients' step: set [local] lr to at most {local.gamma:.6g}, and the "
            f"server's to 1 ({local.formula}; {local.reference})"
        )

    def _shift(self, client: Client, s: Any) -> Tensor:
        """h_i, 0 in the first round."""
        if client.round == 1:
            return torch.zeros_like(client.x0)
        shift: Tensor = s.p_over_gamma * (client.x0 - client.memory.w_i)
        return shift


def _ones(q: float, source: torch.Generator, most: int = 1 << 40) -> int:
    """How many coins of mean q fall on 1 before the first 0; at most `most`."""
    if q >= 1.0:
        return most
    u = float(torch.rand((), dtype=torch.float64, generator=source))
    return min(most, math.floor(math.log(1.0 - u) / math.log(q))) if q > 0.0 else 0
