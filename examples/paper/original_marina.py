"""What the original simulator runs under the name MARINA (flpytorch, commit 23a201b): *not* MARINA.

"The previous iterate" is stored after the server's step, so it is the present one: at the first local step the
difference of gradients is 0 and the stale g is applied again. g itself is what has travelled, η_l τ times a gradient.
It is here to show that the published curves are of this; to use MARINA, name "marina".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fl_core import Algorithm, Client, Replies, Server, State, zeros


@dataclass(frozen=True)
class OriginalMarina(Algorithm):
    """Lazy compression with one coin a client and round; the server's coin and the client's have p = 1/(1+ω)."""

    class ServerState(State):
        """g, the last direction."""

        g: Tensor = zeros()

    class Broadcast(State):
        """The server's coin, and g."""

        coin: bool
        g: Tensor

    class Reply(State):
        """x_i^τ - x^t."""

        delta: Tensor

    def client_state(self, server: Server, client_id: int) -> Any:
        """One coin for all clients; round 1 synchronises."""
        drawn = torch.rand((), dtype=torch.float64, generator=server.generator("coin"))
        return self.Broadcast(coin=server.round == 1 or float(drawn) * (1.0 + server.omega) < 1.0, g=server.state.g)

    def local_gradient(self, client: Client, x: Tensor, s: Any) -> Tensor:
        """∇f_i(y), or g + C(∇f_i(y) - ∇f_i(x^t))."""
        if s.coin:
            return client.gradient(x)
        p = 1.0 / (1.0 + client.omega)
        coin = torch.rand((), dtype=torch.float64, generator=client.generator("lazy"))  # the same for all local steps
        change = client.gradient(x) - client.gradient(client.x0)
        g: Tensor = s.g + change * (1.0 / p if float(coin) < p else 0.0)
        return g

    def local_state(self, client: Client, x0: Tensor, x: Tensor, s: Any) -> Any:
        """The way that was gone."""
        return self.Reply(delta=x - x0)

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        """G = -mean of Δ_i."""
        return -replies.mean("delta")

    def server_global_state(self, server: Server, replies: Replies, g: Tensor) -> Any:
        """g = G."""
        return self.ServerState(g=g)
