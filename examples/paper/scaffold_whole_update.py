"""SCAFFOLD as the x-axis of figure 2 has it: the change of the control variate is compressed, the update is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from algorithms.scaffold import Scaffold
from fl_core import Client


@dataclass(frozen=True)
class ScaffoldWholeUpdate(Scaffold):
    """d + K floats a round from each client, where `Scaffold` sends 2K."""

    def local_state(self, client: Client, x0: Tensor, x: Tensor, s: Any) -> Any:
        """Δ_i = x_i^τ - x^t itself, and C(U_i)."""
        reply = super().local_state(client, x0, x, s)
        return reply if self.initial(client) else self.Reply(delta=x - x0, u=reply.u)
