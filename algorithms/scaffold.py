"""SCAFFOLD (Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, ICML 2020, arXiv 1910.06378, Algorithm 1).

Use it where clients differ and take many local steps: control variates remove the drift that biases FedAvg, for twice
the uplink. Compression is not in the paper. Here Δ_i and the change of c_i are both compressed, and client and server
move by the same α C(U_i), α = 1/(1+ω), so that c = (1/n) Σ c_i in every round; α = 1 diverges for ω > 1. (SCALLION,
arXiv 2308.08165, is an analysed relative.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from fl_core import Client, InitialRound, Message, Replies, Server, State, zeros

if TYPE_CHECKING:
    from fl_core.theory import Setting, Step


@dataclass(frozen=True)
class Scaffold(InitialRound):
    """Local steps along ∇f_i(y) - c_i + c; with U_i = c_i^+ - c_i, c_i += α C(U_i), c += (α/n) Σ_S C(U_i), and
    G = -(1/|S|) Σ_S C(Δ_i).

    Args:
        option: c_i^+ is a fresh (stochastic) gradient at x^t (1), or c_i - c + (x^t - x_i^τ)/(τ η_l) (2), which costs
            nothing.
        shift_init: c_i^0 = 0 ("zero"), or ∇f_i(x^0) ("gradient": round 1 is a gradient step that every client sends
            whole).
    """

    compressor = "unbiased"
    option: Literal[1, 2] = 2
    shift_init: Literal["zero", "gradient"] = "zero"

    class ServerState(State):
        """c = (1/n) Σ c_i."""

        c: Tensor = zeros()

    class Memory(State):
        """c_i, the client's control variate."""

        c_i: Tensor = zeros()

    class Broadcast(State):
        """c."""

        c: Tensor

    class Reply(State):
        """C(Δ_i) and C(U_i) (nothing and ∇f_i(x^0) in an initialisation)."""

        delta: Message | Tensor
        u: Message | Tensor

    @property
    def starts_exactly(self) -> bool:
        """With shift_init = "gradient"."""
        return self.shift_init == "gradient"

    def local_gradient(self, client: Client, x: Tensor, s: Any) -> Tensor:
        """∇f_i(y) - c_i + c."""
        g: Tensor = client.gradient(x) - client.memory.c_i + s.c
        return g

    def local_state(self, client: Client, x0: Tensor, x: Tensor, s: Any) -> Any:
        """C(Δ_i) and C(U_i); c_i += α C(U_i)."""
        memory = client.memory
        if self.initial(client):
            memory.c_i = client.full_gradient(x0)
            return self.Reply(delta=x0.new_empty(0), u=memory.c_i)
        # Option 2: c_i - c + (x^t - x_i^τ)/(τ η_l) - c_i.
        u = client.gradient(x0) - memory.c_i if self.option == 1 else client.pseudo_gradient(x0, x) - s.c
        delta, dc = client.compress(x - x0), client.compress(u)
        memory.c_i = memory.c_i + self.shift_rate(client, None) * dc.value
        return self.Reply(delta=delta, u=dc)

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        """G = -mean_S C(Δ_i); the initialisation's is a gradient times η_l τ."""
        return server.local_step * replies.mean("u") if self.initial(server) else -replies.mean("delta")

    def server_global_state(self, server: Server, replies: Replies, g: Tensor) -> Any:
        """c += (α/n) Σ_S C(U_i)."""
        rate = self.shift_rate(server, None) / server.n
        return self.ServerState(c=server.state.c + rate * replies.sum("u"))

    def theoretical_step(self, setting: Setting) -> Step:
        """That of `fl_core.theory.steps.scaffold`: derived there for τ = 1, the paper's for more."""
        from fl_core.theory import steps

        return steps.scaffold(setting)
