"""The method that the tests of the server's side run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fl_core import Algorithm, Message, State, zeros
from fl_core.server import Server

D = 6


@dataclass(frozen=True)
class Method(Algorithm):
    """Momentum on the server, by hand, and a field of every kind on its way down."""

    class ServerState(State):
        """v [d], a counter, a coin."""

        v: Tensor = zeros()
        count: int = 0
        rate: float = 0.1

    class Broadcast(State):
        """Shared and own fields."""

        v: Tensor
        count: int
        rate: float
        mine: Tensor

    class Reply(State):
        """A delta."""

        delta: Message

    def client_state(self, server: Server, client_id: int) -> Any:
        """v, count and rate are equal for all; `mine` is the client's own."""
        s = server.state
        return self.Broadcast(v=s.v, count=s.count, rate=s.rate, mine=torch.full((2,), float(client_id)))

    def server_gradient(self, server: Server, replies: Any) -> Tensor:
        """Minus the mean."""
        return -replies.mean("delta")

    def server_global_state(self, server: Server, replies: Any, g: Tensor) -> Any:
        """v moves, the counter counts."""
        return self.ServerState(v=0.5 * server.state.v + g, count=server.state.count + 1, rate=server.state.rate / 3)
