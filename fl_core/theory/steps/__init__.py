"""The step size each method's theorem allows: one pure function a method, from a `Setting` to a `Step`.

All assume full local gradients and one local step unless they say otherwise. Docstrings give the statement, a
proof where it was derived here, and what could not be confirmed: of the papers only the openings could be
read.
"""

from fl_core.theory.steps.local import fedavg, fedprox, gradskip, scaffold
from fl_core.theory.steps.recursive import ef14, ef21, ef21_pp, marina, pp_marina
from fl_core.theory.steps.shifted import cofig, cofig_published, dcgd, dcgd_floor, diana, frecon
from fl_core.theory.steps.step import NoTheoremError, Step, gradient_descent

__all__ = [
    "NoTheoremError",
    "Step",
    "cofig",
    "cofig_published",
    "dcgd",
    "dcgd_floor",
    "diana",
    "ef14",
    "ef21",
    "ef21_pp",
    "fedavg",
    "fedprox",
    "frecon",
    "gradient_descent",
    "gradskip",
    "marina",
    "pp_marina",
    "scaffold",
]
