"""The check of `statistics/test_bounds.py` fails on mutants that stall, drift or diverge.

A bound is an inequality, and most theorems leave room: on a quadratic h += α·mean over S (COFIG), c += mean over S
(SCAFFOLD), G = h + (1/n) Σ_S (COFIG), EF21's g or MARINA's x_prev one round late, DIANA without d/K all converge as
fast as the theorem says. They are told by `test_distribution_tells.py`. DCGD's bound is attained, so there a step too
short is told too.
"""

from __future__ import annotations

import pytest

from tests.algorithms.mutation import mutants
from tests.algorithms.mutation import mutants_of_memories as memories
from tests.algorithms.statistics.counterexample import exact_factor, factors, with_method
from tests.algorithms.statistics.rates import BOUNDED, excess_over_attained_bound
from tests.algorithms.statistics.trials import Swap

MUTANTS: list[tuple[str, str, Swap]] = [
    ("dcgd", "1/|S| forgotten", Swap(mutants.DcgdSum)),
    ("fedavg", "sign of delta", Swap(mutants.FedAvgGrowing)),
    ("diana", "wrong shift sign", Swap(mutants.DianaWrongSign)),
    ("diana", "alpha = 1", Swap(mutants.DianaAlphaOne)),
    ("diana", "1/n forgotten", Swap(mutants.DianaSum)),
    ("marina, rare", "x_prev after the step", Swap(mutants.MarinaStale)),
    ("marina", "1/n forgotten", Swap(mutants.MarinaSum)),
    ("pp-marina", "sync of the sampled", Swap(mutants.PPMarinaSyncsSampled)),
    ("ef21", "1/n forgotten", Swap(memories.EF21Sum)),
    ("ef21-pp", "mean of participants' g_i", Swap(memories.EF21PPParticipants)),
    ("ef21-pp", "|S|/n forgotten", Swap(memories.EF21PPMean)),
    ("scaffold, some", "c_i never written", Swap(memories.ScaffoldForgets)),
    ("scaffold, some", "c_i not what was sent", Swap(memories.ScaffoldWholeMemory)),
    ("scaffold, some", "wrong sign", Swap(memories.ScaffoldWrongSign)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "slip", "swap"), MUTANTS, ids=[f"{case}: {slip}" for case, slip, _ in MUTANTS])
def test_a_mutant_breaks_its_bound(case: str, slip: str, swap: Swap) -> None:
    """Somewhere on the way the mutant is beyond what the theorem allows the method."""
    assert BOUNDED[case].outcome(swap).worst > 1.0


@pytest.mark.parametrize(
    ("per_round", "swap"),
    [(4, Swap(uplink=mutants.unscaled)), (4, Swap(mutants.DcgdSum)), (2, Swap(mutants.DcgdOverAll))],
    ids=["d/K forgotten", "1/n forgotten", "1/n for 1/|S|"],
)
def test_a_mutant_breaks_the_attained_bound(per_round: int, swap: Swap) -> None:
    """Where DCGD's bound is attained, too long and too short a step both go beyond it."""
    assert excess_over_attained_bound(per_round, swap) > 4.5


def test_error_feedback_that_forgets_diverges() -> None:
    """EF14 that does not keep what it did not send diverges on the counterexample, by Top-1's own factor."""
    growth = factors(with_method("ef14", 0.01, rounds=10), Swap(mutants.EF14Forgets))
    assert growth == pytest.approx([exact_factor(0.01)] * 10, rel=1e-10)
