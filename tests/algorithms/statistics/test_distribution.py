"""The methods follow their law: E|x_t - x*|² and other moments are those of an exact oracle that shares no code.

"It converges" would catch almost no bug: a stale x in MARINA, a missing |S|/n in SCAFFOLD, α·mean over S in DIANA all
converge. `tests/algorithms/mutation` shows that this check tells each of them from the method.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.algorithms.statistics.cases import CASES, Z_BOUND
from tests.algorithms.statistics.exact_methods import dcgd
from tests.algorithms.statistics.exact_moments import Quadratic, randk, uniform
from tests.algorithms.statistics.trials import ClosedForm

SEEDS = 120


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_moments_are_the_exact_ones(name: str) -> None:
    """Means over 120 runs of the product lie within Monte-Carlo error of the exact moments, at t = 1, 2, 3, 5, 7."""
    scores = CASES[name].scores(SEEDS)
    assert np.abs(scores).max() <= Z_BOUND, scores


def test_the_oracle_knows_a_case_done_by_hand() -> None:
    """d = 2, one client, Rand-1, H = I, r = (1, 0), γ = ½: x_1 = (1, 0) or 0 each with chance ½, so |x_1 - x*|² = ½."""
    q = Quadratic(np.eye(2)[None], np.array([[1.0, 0.0]]))
    first, second = dcgd(q, uniform(1, 1), randk(2, 1), 0.5).moments(2)
    assert np.allclose(first, [0.5, -0.5, 0.0], atol=1e-15)  # a step along a kept coordinate is 2 · ½ = 1: it arrives
    assert np.allclose(second, [0.25, -0.25, 0.0], atol=1e-15)


def test_the_closed_gradient_is_the_oracles() -> None:
    """The gradients these trials run on are those of the product's own oracle, to rounding."""
    problem = CASES["dcgd, rand-1"].trial.session().problem
    x = torch.linspace(-2.0, 3.0, problem.d, dtype=torch.float64)
    for i in range(problem.n):
        ours, _ = ClosedForm(problem.d).gradient(x, *problem.shard(i))
        theirs, _ = problem.oracle("cpu").gradient(x, *problem.shard(i))
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)
