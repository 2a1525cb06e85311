"""EF21-PP (Fatkhullin, Sokolov, Gorbunov, Li, Richtárik 2021, arXiv 2110.03294; the algorithm's number was not
confirmed).

Use it for EF21's problems when only some clients take part in a round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from algorithms.ef21 import EF21

if TYPE_CHECKING:
    from fl_core.theory import Setting, Step


@dataclass(frozen=True)
class EF21PP(EF21):
    """Participants do g_i += c_i, the others keep g_i; G = (1/n) Σ g_i over all n, not over S: `EF21` does just this.

    Args:
        g0: as in `EF21`.
    """

    def theoretical_step(self, setting: Setting) -> Step:
        """1/(L + L̃ sqrt(B/θ_p)), with ρ chosen best."""
        from fl_core.theory import steps

        return steps.ef21_pp(setting)
