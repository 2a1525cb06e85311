"""PP-MARINA (Gorbunov, Burlachenko, Li, Richtárik, ICML 2021, arXiv 2102.07845, Algorithm 4).

Use it for MARINA's problems when only r of n clients usually take part: whole gradients from all n with the small
probability p, else compressed differences from the r. The paper draws the r clients independently, with replacement
(from memory); here they are the experiment's sample, whose variance is smaller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from algorithms.marina import Marina
from fl_core import Server

if TYPE_CHECKING:
    from fl_core.theory import Setting, Step


@dataclass(frozen=True)
class PPMarina(Marina):
    """`Marina` with a smaller p.

    Args:
        p: of a synchronisation; by default (r/n)/(1+ω), r = `[clients] per_round`.
    """

    def probability(self, server: Server) -> float:
        """p."""
        return server.per_round / server.n / (1.0 + server.omega) if self.p is None else self.p

    def theoretical_step(self, setting: Setting) -> Step:
        """1/(L + L̃ sqrt((1-p)ω'/p)) with the ω' of the sample."""
        from fl_core.theory import steps

        return steps.pp_marina(setting, self.p)
