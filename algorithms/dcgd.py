"""DCGD, distributed compressed gradient descent (Khirirat, Feyzmahdavian, Johansson 2018, arXiv 1806.06573).

Use it as the baseline of compressed methods, or where all clients share a minimiser: else it stops in a neighbourhood
of x* that ω and the heterogeneity set, and DIANA goes on. With a biased operator (Top-K) it may diverge: take EF21.
See also QSGD (arXiv 1610.02132) and natural compression (arXiv 1905.10988).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fl_core import Client, GradientMethod, Message, Replies, Server, State

if TYPE_CHECKING:
    from fl_core.theory import Setting, Step


@dataclass(frozen=True)
class DCGD(GradientMethod):
    """G = (1/|S|) Σ_S C_i(∇f_i(x^t)), the C_i independent over clients."""

    class Reply(State):
        """C_i(∇f_i(x^t))."""

        m: Message

    def local_state(self, client: Client, x0: Tensor, x: Tensor, s: Any) -> Any:
        """C_i(∇f_i(x^t))."""
        return self.Reply(m=client.compress(client.pseudo_gradient(x0, x)))

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        """The mean of what came."""
        return replies.mean("m")

    def theoretical_step(self, setting: Setting) -> Step:
        """1/(L + 2 ω' L_max) for convex f_i."""
        from fl_core.theory import steps

        return steps.dcgd(setting)
