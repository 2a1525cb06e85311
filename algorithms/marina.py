"""MARINA (Gorbunov, Burlachenko, Li, Richtárik, ICML 2021, arXiv 2102.07845, Algorithm 1).

Use it for nonconvex f with unbiased compression when every client can now and then send a whole gradient. One coin a
round, for all clients: whole gradients with probability p, else compressed differences at x^t and x^{t-1}, on the
same samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fl_core import Client, GradientMethod, Message, Replies, Server, State, zeros
from fl_core.options import Chance

if TYPE_CHECKING:
    from fl_core.theory import Setting, Step


@dataclass(frozen=True)
class Marina(GradientMethod):
    """g^t = (1/n) Σ ∇f_i(x^t) with probability p and in round 1, else g^{t-1} + mean_S C_i(∇f_i(x^t) -
    ∇f_i(x^{t-1})).

    The paper has all clients in every round. With some of them, a synchronisation still takes all n (over the sampled
    alone the method does not reach x*), which makes it PP-MARINA with MARINA's p. Where the local gradients are
    stochastic, a synchronisation computes full ones (VR-MARINA, Algorithm 2); with several local steps,
    pseudo-gradients.

    Args:
        p: of a synchronisation; by default 1/(1+ω), which is the density of what Rand-K and Lazy send.
    """

    compressor = "unbiased"
    p: Chance | None = None

    class ServerState(State):
        """g^{t-1}, and x^{t-1} as the clients received it."""

        g: Tensor = zeros()
        x_prev: Tensor = zeros()

    class Broadcast(State):
        """The coin, and x^{t-1} (nothing in a synchronisation, which does not need it)."""

        coin: bool
        x_prev: Tensor

    class Reply(State):
        """∇f_i(x^t) or C_i(∇f_i(x^t) - ∇f_i(x^{t-1}))."""

        m: Message | Tensor

    def probability(self, server: Server) -> float:
        """p."""
        return 1.0 / (1.0 + server.omega) if self.p is None else self.p

    def coin(self, server: Server) -> bool:
        """Whether this round synchronises: one coin for all clients, the same whenever asked."""
        drawn = torch.rand((), dtype=torch.float64, generator=server.generator("coin"))
        return server.round == 1 or float(drawn) < self.probability(server)

    def participants(self, server: Server, sampled: tuple[int, ...]) -> Sequence[int]:
        """All clients in a synchronisation."""
        return range(server.n) if self.coin(server) else sampled

    def client_state(self, server: Server, client_id: int) -> Any:
        """The coin and x^{t-1}."""
        coin = self.coin(server)
        return self.Broadcast(coin=coin, x_prev=server.x.new_empty(0) if coin else server.state.x_prev)

    def local_steps(self, client: Client, s: Any) -> int:
        """None where the full gradient at x^t is all that is sent."""
        return 0 if s.coin and client.steps == 1 else client.steps

    def local_state(self, client: Client, x0: Tensor, x: Tensor, s: Any) -> Any:
        """∇f_i(x^t), or the compressed difference."""
        if s.coin:
            return self.Reply(m=client.full_gradient(x0) if client.steps == 0 else client.pseudo_gradient(x0, x))
        change = client.pseudo_gradient(x0, x) - client.pseudo_gradient_at(s.x_prev)
        return self.Reply(m=client.compress(change))

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        """g^t."""
        return replies.mean("m") if self.coin(server) else server.state.g + replies.mean("m")

    def server_global_state(self, server: Server, replies: Replies, g: Tensor) -> Any:
        """g^t, and x^t: the point before the step."""
        return self.ServerState(g=g, x_prev=server.received)

    def theoretical_step(self, setting: Setting) -> Step:
        """1/(L + L̃ sqrt((1-p)ω/(pn))); with mu > 0 and with partial participation see `fl_core.theory.steps`."""
        from fl_core.theory import steps

        if setting.n == setting.S or setting.omega is None:
            return steps.marina(setting, self.p)
        return steps.pp_marina(setting, 1.0 / (1.0 + setting.omega) if self.p is None else self.p)
