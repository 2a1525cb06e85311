"""The check of `statistics/test_distribution.py` fails on every one of these mutants, and far beyond its bound.

A check that cannot tell a wrong method from the right one is not a check.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.algorithms.mutation import mutants
from tests.algorithms.mutation import mutants_of_memories as memories
from tests.algorithms.statistics.cases import CASES, Z_BOUND
from tests.algorithms.statistics.trials import Swap

LOOKS = ((30, 2.0 * Z_BOUND), (100, Z_BOUND))
"""Runs, and what is beyond chance. Most mutants are told by the first; the check itself has 120 runs."""

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
    ("ef21, rand-1", "1/n forgotten", Swap(memories.EF21Sum)),
    ("ef21, rand-1", "g one round late", Swap(memories.EF21Late)),
    ("ef21-pp, some", "mean of participants' g_i", Swap(memories.EF21PPParticipants)),
    ("ef21-pp, some", "|S|/n forgotten", Swap(memories.EF21PPMean)),
    ("scaffold 2, some", "|S|/n forgotten", Swap(memories.ScaffoldMean)),
    ("scaffold 2, some", "c_i never written", Swap(memories.ScaffoldForgets)),
    ("scaffold 1, some", "c_i never written", Swap(memories.ScaffoldForgets)),
    ("scaffold 2, some", "c_i not what was sent", Swap(memories.ScaffoldWholeMemory)),
    ("scaffold 2, some", "wrong sign", Swap(memories.ScaffoldWrongSign)),
    ("scaffold 2, some", "one mask for both", Swap(memories.ScaffoldOneMask)),
    ("frecon, alike", "one mask for both", Swap(memories.FreconOneMask)),
    ("frecon, some", "u_i at x^t", Swap(memories.FreconCurrent)),
    ("frecon, some", "h += alpha mean over S", Swap(memories.FreconMeanOverS)),
    ("frecon, some", "x_prev after the step", Swap(memories.FreconStale)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "slip", "swap"), MUTANTS, ids=[f"{case}: {slip}" for case, slip, _ in MUTANTS])
def test_a_mutant_is_told_from_the_method(case: str, slip: str, swap: Swap) -> None:
    """Some moment is off by twice the bound over 30 runs, or by more than the bound over 100."""
    assert any(np.abs(CASES[case].scores(runs, swap)).max() > bound for runs, bound in LOOKS)
