"""FRECON (Zhao, Burlachenko, Li, Richtárik 2021, arXiv 2112.13097, Algorithm 2).

Use it for nonconvex f with unbiased compression and few participants: no full gradients after the first, and the best
rate in n and S. What could not be confirmed: whether u_i is taken at x^{t-1} or x^t (`u_at`; at x^{t-1} the estimate
is unbiased in the mean and without compression the method is gradient descent; the authors' code has x^t), and g^{-1}
= ∇f(x^0). The algorithm's number is from memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from fl_core import Client, GradientMethod, Message, Replies, Server, State, zeros
from fl_core.options import Chance, Positive

if TYPE_CHECKING:
    from fl_core.theory import Setting, Step


@dataclass(frozen=True)
class Frecon(GradientMethod):
    """q_i = C(∇f_i(x^t) - ∇f_i(x^{t-1})), u_i = C'(∇f_i(x^{t-1}) - h_i), both on the same samples;

    g^t = mean_S q_i + (1-λ) g^{t-1} + λ(h + mean_S u_i), h_i += α u_i, h += (α/n) Σ_S u_i. Round 1 is always the
    initialisation g = ∇f(x^0).

    Args:
        lam: λ, by default S/(2(1+ω)n).
        alpha: α, by default 1/(1+ω).
        u_at: u_i at x^{t-1} ("previous") or x^t ("current").
        shift_init: h_i^0 = 0 ("zero") or ∇f_i(x^0) ("gradient", at no cost, since all clients send it anyway).
    """

    compressor = "unbiased"
    lam: Chance | None = None
    alpha: Positive | None = None
    u_at: Literal["previous", "current"] = "previous"
    shift_init: Literal["zero", "gradient"] = "zero"

    class ServerState(State):
        """g^{t-1}, h = (1/n) Σ h_i, and x^{t-1} as the clients received it."""

        g: Tensor = zeros()
        h: Tensor = zeros()
        x_prev: Tensor = zeros()

    class Memory(State):
        """h_i, the client's shift."""

        h_i: Tensor = zeros()

    class Broadcast(State):
        """x^{t-1}."""

        x_prev: Tensor

    class Reply(State):
        """q_i and u_i (∇f_i(x^0) and nothing in the initialisation)."""

        q: Message | Tensor
        u: Message | Tensor

    @property
    def starts_exactly(self) -> bool:
        """Always: g^{-1} = ∇f(x^0)."""
        return True

    def local_state(self, client: Client, x0: Tensor, x: Tensor, s: Any) -> Any:
        """q_i and u_i, with independent randomness; h_i += α u_i."""
        memory = client.memory
        if self.initial(client):
            q = client.full_gradient(x0)
            if self.shift_init == "gradient":
                memory.h_i = q
            return self.Reply(q=q, u=q.new_empty(0))
        now, before = client.pseudo_gradient(x0, x), client.pseudo_gradient_at(s.x_prev)
        q_i = client.compress(now - before)
        u_i = client.compress((before if self.u_at == "previous" else now) - memory.h_i)
        memory.h_i = memory.h_i + self.shift_rate(client, self.alpha) * u_i.value
        return self.Reply(q=q_i, u=u_i)

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        """g^t."""
        if self.initial(server):
            return replies.mean("q")
        state, lam = server.state, self.lam
        if lam is None:
            lam = server.per_round / (2.0 * (1.0 + server.omega) * server.n)
        g: Tensor = replies.mean("q") + (1.0 - lam) * state.g + lam * (state.h + replies.mean("u"))
        return g

    def server_global_state(self, server: Server, replies: Replies, g: Tensor) -> Any:
        """g^t, h += (α/n) Σ_S u_i, x^t."""
        h = server.state.h
        if not self.initial(server):
            h = h + self.shift_rate(server, self.alpha) / server.n * replies.sum("u")
        elif self.shift_init == "gradient":
            h = g
        return self.ServerState(g=g, h=h, x_prev=server.received)

    def theoretical_step(self, setting: Setting) -> Step | None:
        """1/(L + L̃ sqrt(2ω'(1/λ + 4λ/ρ²))), ρ = αS/n; it does not cover u_at = "current"."""
        from fl_core.theory import steps

        return steps.frecon(setting, self.lam, self.alpha) if self.u_at == "previous" else None
