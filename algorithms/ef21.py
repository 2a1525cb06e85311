"""EF21 (Richtárik, Sokolov, Fatkhullin, NeurIPS 2021, arXiv 2106.05203, Algorithm 2).

Use it with biased operators (Top-K, Rank-K): it converges wherever gradient descent does, with no bound on
heterogeneity. The paper has all clients in every round; with some of them the rule is that of EF21-PP. The number is
from memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from fl_core import Client, GradientMethod, Message, Replies, Server, State, zeros

if TYPE_CHECKING:
    from fl_core.theory import Setting, Step


@dataclass(frozen=True)
class EF21(GradientMethod):
    """c_i = C(∇f_i(x^t) - g_i), g_i += c_i, g += (1/n) Σ_S c_i, G = g = (1/n) Σ g_i, over all n.

    Args:
        g0: g_i^0 = ∇f_i(x^0), sent whole by all clients in round 1 ("gradient"), or C(∇f_i(x^0)) ("compressed": round
            1 is then like any other, and clients that have not taken part yet have g_i = 0).
    """

    compressor = "contraction"
    g0: Literal["gradient", "compressed"] = "gradient"

    class ServerState(State):
        """g = (1/n) Σ g_i."""

        g: Tensor = zeros()

    class Memory(State):
        """g_i, the server's idea of ∇f_i."""

        g_i: Tensor = zeros()

    class Reply(State):
        """c_i (∇f_i(x^0) itself in an initialisation)."""

        c: Message | Tensor

    @property
    def starts_exactly(self) -> bool:
        """With g0 = "gradient"."""
        return self.g0 == "gradient"

    def local_state(self, client: Client, x0: Tensor, x: Tensor, s: Any) -> Any:
        """c_i; g_i += c_i."""
        memory = client.memory
        if self.initial(client):
            memory.g_i = client.full_gradient(x0)
            return self.Reply(c=memory.g_i)
        c = client.compress(client.pseudo_gradient(x0, x) - memory.g_i)
        memory.g_i = memory.g_i + c.value
        return self.Reply(c=c)

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        """g += (1/n) Σ_S c_i."""
        g: Tensor = server.state.g + replies.sum("c") / server.n
        return g

    def server_global_state(self, server: Server, replies: Replies, g: Tensor) -> Any:
        """g."""
        return self.ServerState(g=g)

    def theoretical_step(self, setting: Setting) -> Step:
        """1/(L + L̃ sqrt(β/θ)) with all clients, else that of EF21-PP."""
        from fl_core.theory import steps

        return steps.ef21(setting) if setting.n == setting.S else steps.ef21_pp(setting)
