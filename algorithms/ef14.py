"""EF14, error feedback (Seide, Fu, Droppo, Li, Yu, Interspeech 2014; analysed by Stich, Cordonnier, Jaggi 2018, arXiv
1809.07599, and Karimireddy, Rebjock, Stich, Jaggi 2019, arXiv 1901.09847).

Use it as the classic remedy for biased operators in deep learning: what was not sent is kept and sent later, so that
nothing is lost. Where clients differ it stops in a neighbourhood that EF21 does not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fl_core import Algorithm, Client, Message, Replies, Server, State, zeros

if TYPE_CHECKING:
    from fl_core.theory import Setting, Step


@dataclass(frozen=True)
class EF14(Algorithm):
    """v_i = C(e_i + x^t - x_i^τ), e_i += x^t - x_i^τ - v_i, G = (1/|S|) Σ_S v_i.

    With one local step x^t - x_i^τ = η_l ∇f_i(x^t). Over the rounds a client takes part in, Σ v_i + e_i = Σ (x^t -
    x_i^τ).
    """

    compressor = "contraction"

    class Memory(State):
        """e_i, what has not been sent."""

        e_i: Tensor = zeros()

    class Reply(State):
        """v_i."""

        v: Message

    def local_state(self, client: Client, x0: Tensor, x: Tensor, s: Any) -> Any:
        """v_i; e_i keeps the rest."""
        due = client.memory.e_i + (x0 - x)
        v = client.compress(due)
        client.memory.e_i = due - v.value
        return self.Reply(v=v)

    def server_gradient(self, server: Server, replies: Replies) -> Tensor:
        """The mean of what came."""
        return replies.mean("v")

    def theoretical_step(self, setting: Setting) -> Step:
        """1/(2L + sqrt(32(2L+mu) L_max (1-δ))/δ) for convex f_i and all clients."""
        from fl_core.theory import steps

        return steps.ef14(setting)
