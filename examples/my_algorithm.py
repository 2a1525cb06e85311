"""SCAFFOLD with an adjustable strength: a method of one's own, next to the experiment that names it.

Karimireddy et al., ICML 2020, arXiv 1910.06378, Algorithm 1, option II, is strength 1; strength 0 is FedAvg.
"""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from algorithms.fedavg import FedAvg
from fl_core import Client, Replies, Server, State, zeros


@dataclass(frozen=True)
class AdjustableScaffold(FedAvg):
    """Every local gradient is shifted by strength · (c - c_i), an estimate of how far client i is from the mean."""

    strength: float = 1.0
    weights: Literal["size", "uniform"] = "uniform"

    class ServerState(State):  # stays on the server
        c: Tensor = zeros()  # [d], the mean of all c_i

    class Memory(State):  # stays with client i between its rounds
        c_i: Tensor = zeros()  # [d], its mean gradient when it last took part

    class Broadcast(State):  # goes to the clients beside x
        c: Tensor

    class Reply(FedAvg.Reply):  # comes back, beside FedAvg's delta
        dc: Tensor

    def local_gradient(self, client: Client, x: Tensor, s: Any) -> Tensor:
        return client.gradient(x) + self.strength * (s.c - client.memory.c_i)

    def local_state(self, client: Client, x0: Tensor, x: Tensor, s: Any) -> Any:
        shift = self.strength * (s.c - client.memory.c_i)
        dc = client.pseudo_gradient(x0, x) - shift - client.memory.c_i
        client.memory.c_i = client.memory.c_i + dc
        return self.Reply(delta=client.compress(x - x0), dc=dc)

    def server_global_state(self, server: Server, replies: Replies, g: Tensor) -> Any:
        return self.ServerState(c=server.state.c + replies.sum("dc") / server.n)
