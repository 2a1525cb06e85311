"""my_algorithm: compressed differences to a shift that client and server both keep. Change it into your own method.

As it stands this is DIANA (Mishchenko, Gorbunov, Takáč, Richtárik, 2019, arXiv 1901.09269):

    client    m_i = C(∇f_i(x) - h_i)      h_i <- h_i + alpha m_i
    server    G = h + mean of m_i         h   <- h + alpha (1/n) Σ m_i         x <- x - lr G

You write for one client, in one thread, with flat vectors [d]. Threads, GPUs and machines are not your business.
Methods not written below do what FedAvg does; the other ones you may write are

    initialize_server_state(x)             the ServerState before round 1, where zeros will not do
    client_state(server, client_id)        the Broadcast; by default the fields that ServerState has too
    local_gradient(client, x, s)           the direction of one local step; by default client.gradient(x)
    client_opt(client, x, g)               the local step; by default the optimizer of [local]
    server_opt(server, g)                  the step of the server; by default the optimizer of [server]

Check it with `flctl check my_algorithm.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fl_core import Algorithm, Client, Message, Replies, Server, State, zeros


@dataclass(frozen=True)
class MyAlgorithm(Algorithm):
    """The fields are the keys of [algorithm] in the experiment file.

    alpha: how far the shifts follow; at most 1/(1 + omega) of the compressor.
    """

    alpha: float = 1.0

    # What is kept and what is sent. What is declared here is all there is.

    class ServerState(State):
        """Stays on the server."""

        h: Tensor = zeros()  # [d]

    class Memory(State):
        """Stays with one client between its rounds."""

        h_i: Tensor = zeros()  # [d]

    class Broadcast(State):
        """Goes from the server to the clients, beside x."""

    class Reply(State):
        """Comes back from a client."""

        m: Message

    def local_state(self, client: Client, x0: Tensor, x: Tensor, s: Any) -> Any:
        """After the local steps went from x0 to x: what to remember, and what to send."""
        m = client.compress(client.pseudo_gradient(x0, x) - client.memory.h_i)
        client.memory.h_i = client.memory.h_i + self.alpha * m.value
        return self.Reply(m=m)

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        """G [d]: the server's optimizer subtracts lr times it from x. With no reply at all, the mean is zero."""
        return server.state.h + replies.mean("m")

    def server_global_state(self, server: Server, replies: Replies, g: Tensor) -> Any:
        """The next ServerState; h stays the mean of all h_i, whoever took part."""
        return self.ServerState(h=server.state.h + self.alpha * replies.sum("m") / server.n)
