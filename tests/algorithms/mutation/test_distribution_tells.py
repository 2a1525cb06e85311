"""The check of `statistics/test_distribution.py` fails on every one of these mutants, and far beyond its bound.

A check that cannot tell a wrong method from the right one is not a check.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.algorithms.mutation import mutants
from tests.algorithms.statistics.cases import CASES, Z_BOUND
from tests.algorithms.statistics.trials import Swap

SEEDS = 100
"""Half of those of the check itself: what fails with these fails with all."""

MUTANTS: list[tuple[str, str, Swap]] = [
    ("dcgd, rand-1", "d/K forgotten", Swap(uplink=mutants.unscaled)),
    ("dcgd, lazy", "1/p forgotten", Swap(uplink=mutants.unscaled)),
    ("dcgd, alike", "one mask for all clients", Swap(mutants.DcgdOneMaskForAll)),
    ("dcgd, some", "1/|S| forgotten", Swap(mutants.DcgdSum)),
    ("dcgd, some", "1/n for 1/|S|", Swap(mutants.DcgdOverAll)),
    ("fedavg, some", "sign of delta", Swap(mutants.FedAvgGrowing)),
    ("fedprox, some", "no proximal term", Swap(mutants.FedProxMovingCentre)),
    ("ef14, rand-1", "e_i never kept", Swap(mutants.EF14Forgets)),
    ("diana, rand-1", "wrong shift sign", Swap(mutants.DianaWrongSign)),
    ("diana, rand-1", "alpha = 1", Swap(mutants.DianaAlphaOne)),
    ("diana, rand-1", "1/n forgotten", Swap(mutants.DianaSum)),
    ("diana, rand-1", "one mask for ever", Swap(mutants.DianaOneMaskForEver)),
    ("diana, lazy", "1/p forgotten", Swap(uplink=mutants.unscaled)),
    ("cofig, some", "h += alpha mean over S", Swap(mutants.CofigMeanOverS)),
    ("cofig, poisson", "h += alpha mean over S", Swap(mutants.CofigMeanOverS)),
    ("cofig, some", "G = h + sum/n", Swap(mutants.CofigSumOverN)),
    ("marina, rand-1", "x_prev after the step", Swap(mutants.MarinaStale)),
    ("marina, rand-1", "x_prev one round late", Swap(mutants.MarinaLate)),
    ("marina, rand-1", "one coin for the run", Swap(mutants.MarinaOneCoin)),
    ("marina, rand-1", "1/n forgotten", Swap(mutants.MarinaSum)),
    ("marina, some", "sync of the sampled", Swap(mutants.MarinaSyncsSampled)),
    ("pp-marina, some", "sync of the sampled", Swap(mutants.PPMarinaSyncsSampled)),
    ("pp-marina, some", "p without r/n", Swap(mutants.PPMarinaOften)),
    ("ef21, rand-1", "1/n forgotten", Swap(mutants.EF21Sum)),
    ("ef21, rand-1", "g one round late", Swap(mutants.EF21Late)),
    ("ef21-pp, some", "mean of participants' g_i", Swap(mutants.EF21PPParticipants)),
    ("ef21-pp, some", "|S|/n forgotten", Swap(mutants.EF21PPMean)),
    ("scaffold 2, some", "|S|/n forgotten", Swap(mutants.ScaffoldMean)),
    ("scaffold 2, some", "c_i never written", Swap(mutants.ScaffoldForgets)),
    ("scaffold 1, some", "c_i never written", Swap(mutants.ScaffoldForgets)),
    ("scaffold 2, some", "c_i not what was sent", Swap(mutants.ScaffoldWholeMemory)),
    ("scaffold 2, some", "wrong sign", Swap(mutants.ScaffoldWrongSign)),
    ("scaffold 2, some", "one mask for both", Swap(mutants.ScaffoldOneMask)),
    ("frecon, alike", "one mask for both", Swap(mutants.FreconOneMask)),
    ("frecon, some", "u_i at x^t", Swap(mutants.FreconCurrent)),
    ("frecon, some", "h += alpha mean over S", Swap(mutants.FreconMeanOverS)),
    ("frecon, some", "x_prev after the step", Swap(mutants.FreconStale)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "slip", "swap"), MUTANTS, ids=[f"{case}: {slip}" for case, slip, _ in MUTANTS])
def test_a_mutant_is_told_from_the_method(case: str, slip: str, swap: Swap) -> None:
    """Over 100 runs some moment is off by more than the bound."""
    assert np.abs(CASES[case].scores(SEEDS, swap)).max() > Z_BOUND
