"""What the original simulator runs under the name SCAFFOLD (flpytorch, commit 23a201b): *not* SCAFFOLD.

c_i is never written and stays 0, so that clients walk along ∇f_i(y) + c, and c follows ∇f at the previous point. With
one step and no compression this is x+ = x - η(∇f(x) + ∇f(x of the round before)). It is here to show that the
published curves are of this; to use SCAFFOLD, name "scaffold".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fl_core import Algorithm, Client, Message, Replies, Server, State, zeros


@dataclass(frozen=True)
class OriginalScaffold(Algorithm):
    """U_i = C(∇f_i(x^t) - c) where SCAFFOLD has C(∇f_i(x^t) - c_i)."""

    class ServerState(State):
        """c."""

        c: Tensor = zeros()

    class Broadcast(State):
        """c."""

        c: Tensor

    class Reply(State):
        """Δ_i whole, and C(U_i)."""

        delta: Tensor
        u: Message

    def local_gradient(self, client: Client, x: Tensor, s: Any) -> Tensor:
        """∇f_i(y) + c: there is no c_i."""
        g: Tensor = client.gradient(x) + s.c
        return g

    def local_state(self, client: Client, x0: Tensor, x: Tensor, s: Any) -> Any:
        """x_i^τ - x^t, and C(∇f_i(x^t) - c)."""
        return self.Reply(delta=x - x0, u=client.compress(client.full_gradient(x0) - s.c))

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        """G = -mean of Δ_i."""
        return -replies.mean("delta")

    def server_global_state(self, server: Server, replies: Replies, g: Tensor) -> Any:
        """c += (1/n) Σ_S C(U_i)."""
        return self.ServerState(c=server.state.c + replies.sum("u") / server.n)
