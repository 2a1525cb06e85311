"""What the theorems need and what they allow: constants of a problem, its minimiser, steps of the methods.

`linear` a linear model in float64 · `constants` L, L_i, mu · `minimizer` x* and f* · `steps` the step of each
theorem.
"""

from fl_core.theory.constants import Constants, smoothness
from fl_core.theory.linear import LinearProblem
from fl_core.theory.minimizer import Minimum, NoMinimizerError, minimize, solved
from fl_core.theory.setting import Setting
from fl_core.theory.steps import NoTheoremError, Step

__all__ = [
    "Constants",
    "LinearProblem",
    "Minimum",
    "NoMinimizerError",
    "NoTheoremError",
    "Setting",
    "Step",
    "minimize",
    "smoothness",
    "solved",
]
