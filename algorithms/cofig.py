"""COFIG (Zhao, Burlachenko, Li, Richtárik 2021, arXiv 2112.13097, Algorithm 1), its two samples taken to be one.

Use it for unbiased compression when only some clients take part: DIANA with h += (α/n) Σ_S m_i, so that h stays the
mean of all h_i. The paper allows a second, independent sample S~ for G; as in the authors' code S~ = S here, which
sends one message a client and not two. FRECON has the better rate for nonconvex f. The algorithm's number is from
memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from algorithms.diana import Diana

if TYPE_CHECKING:
    from fl_core.theory import Setting, Step


@dataclass(frozen=True)
class Cofig(Diana):
    """u_i = C_i(∇f_i(x^t) - h_i), G = h + (1/|S|) Σ_S u_i, h_i += α u_i, h += (α/n) Σ_S u_i: `Diana` does just this.

    Args:
        alpha, shift_init: as in `Diana`.
    """

    def theoretical_step(self, setting: Setting) -> Step:
        """That of `fl_core.theory.steps.cofig`, derived there; the paper's is `cofig_published`."""
        from fl_core.theory import steps

        return steps.cofig(setting, self.alpha)
