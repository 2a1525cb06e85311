"""What the original simulator runs under the name DIANA (flpytorch, commit 23a201b): DIANA for η_l = 1 and τ = 1 only.

The estimator is applied at every local step, and the client's shift moves each time by α C(∇f_i(y) - h_i); the server's
shift moves by α times what has travelled, which carries the factor η_l. With η_l = 0.1 the server's h is ten times
too short. It is here to show that the published curve is of this; to use DIANA, name "diana".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fl_core import Algorithm, Client, Replies, Server, State, zeros


@dataclass(frozen=True)
class OriginalDiana(Algorithm):
    """Lazy compression with one coin a client and round (probability 1/(1+ω) of the uplink's operator)."""

    class ServerState(State):
        """h, on a scale of its own."""

        h: Tensor = zeros()

    class Memory(State):
        """h_i."""

        h_i: Tensor = zeros()

    class Reply(State):
        """x_i^τ - x^t."""

        delta: Tensor

    def local_gradient(self, client: Client, x: Tensor, s: Any) -> Tensor:
        """C(∇f_i(y) - h_i); h_i += α C(…) at every local step."""
        alpha = 1.0 / (1.0 + client.omega)
        coin = torch.rand((), dtype=torch.float64, generator=client.generator("lazy"))  # the same for all local steps
        m: Tensor = (client.gradient(x) - client.memory.h_i) * (1.0 / alpha if float(coin) < alpha else 0.0)
        client.memory.h_i = client.memory.h_i + alpha * m
        return m

    def local_state(self, client: Client, x0: Tensor, x: Tensor, s: Any) -> Any:
        """The way that was gone."""
        return self.Reply(delta=x - x0)

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        """h - mean of Δ_i: a gradient plus η_l times a gradient."""
        g: Tensor = server.state.h - replies.mean("delta")
        return g

    def server_global_state(self, server: Server, replies: Replies, g: Tensor) -> Any:
        """h -= α mean of Δ_i."""
        return self.ServerState(h=server.state.h - replies.mean("delta") / (1.0 + server.omega))
