"""DIANA (Mishchenko, Gorbunov, Takáč, Richtárik 2019, arXiv 1901.09269, Algorithm 1; any ω: Horváth et al. 2019,
arXiv 1904.05115).

Use it for unbiased compression when clients differ: the shifts h_i learn ∇f_i(x*), so that what is compressed tends
to 0 and the method goes to x* itself, at any ω. The papers have all clients in every round; with some of them it
follows COFIG's rule (arXiv 2112.13097), which keeps h = (1/n) Σ h_i. Algorithm numbers are from memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from fl_core import Client, GradientMethod, Message, Replies, Server, State, zeros
from fl_core.options import Positive

if TYPE_CHECKING:
    from fl_core.theory import Setting, Step


@dataclass(frozen=True)
class Diana(GradientMethod):
    """m_i = C_i(∇f_i(x^t) - h_i), G = h + (1/|S|) Σ_S m_i, h_i += α m_i, h += (α/n) Σ_S m_i.

    Args:
        alpha: α, by default 1/(1+ω), the largest the theory allows.
        shift_init: h_i^0 = 0 ("zero"), or ∇f_i(x^0) ("gradient": round 1 is a gradient step that every client sends
            whole).
    """

    compressor = "unbiased"
    alpha: Positive | None = None
    shift_init: Literal["zero", "gradient"] = "zero"

    class ServerState(State):
        """h = (1/n) Σ h_i."""

        h: Tensor = zeros()

    class Memory(State):
        """h_i, the client's shift."""

        h_i: Tensor = zeros()

    class Reply(State):
        """m_i (∇f_i(x^0) itself in an initialisation)."""

        m: Message | Tensor

    @property
    def starts_exactly(self) -> bool:
        """With shift_init = "gradient"."""
        return self.shift_init == "gradient"

    def local_state(self, client: Client, x0: Tensor, x: Tensor, s: Any) -> Any:
        """m_i; h_i += α m_i."""
        memory = client.memory
        if self.initial(client):
            memory.h_i = client.full_gradient(x0)
            return self.Reply(m=memory.h_i)
        m = client.compress(client.pseudo_gradient(x0, x) - memory.h_i)
        memory.h_i = memory.h_i + self.shift_rate(client, self.alpha) * m.value
        return self.Reply(m=m)

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        """G = h + (1/|S|) Σ_S m_i; h alone when nobody took part."""
        g: Tensor = server.state.h + replies.mean("m")
        return g

    def server_global_state(self, server: Server, replies: Replies, g: Tensor) -> Any:
        """h += (α/n) Σ_S m_i."""
        rate = self.shift_rate(server, self.alpha) / server.n
        return self.ServerState(h=server.state.h + rate * replies.sum("m"))

    def theoretical_step(self, setting: Setting) -> Step:
        """1/(L + 6 ω' L_max) for convex f_i."""
        from fl_core.theory import steps

        return steps.diana(setting, self.alpha)
