"""f_i(x) = <a_i, x>² + |x|²/4 in three dimensions, on which Top-1 without error feedback diverges at every step size.

Beznosikov, Horváth, Richtárik, Safaryan, 2020, arXiv 2002.12410, Example 1 (number from memory): from x0 = (1, 1, 1),
∇f_i(x0) = 2 a_i + x0/2, whose largest entry is -5.5 at place i; the mean of the Top-1 is -(11/6) x0.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from fl_core.problem import Problem, Shape
from fl_core.session import Session, with_problem
from fl_core.shards import Shards
from fl_core.theory.linear import LinearProblem
from fl_core.theory.minimizer import solved
from tests.algorithms.statistics.exact_moments import Floats
from tests.algorithms.statistics.trials import Swap, Trial, play

_A = [(-3.0, 2.0, 2.0), (2.0, -3.0, 2.0), (2.0, 2.0, -3.0)]


def exact_factor(gamma: float) -> float:
    """By which x grows a round."""
    return 1.0 + 11.0 * gamma / 6.0


def with_method(name: str, gamma: float, rounds: int) -> Session:
    """The method with Top-1 on it. Coordinates are shifted, so that the model's x0 = 0 is (1, 1, 1) from x*."""
    trial = Trial({"name": name}, {"name": "topk", "k": 1}, {"total": 3}, rounds, gamma, 1.0, data={"d": 3})
    experiment = trial.session().experiment
    pairs = []
    for a in _A:
        rows = torch.tensor([a, (0.5, 0.0, 0.0), (0.0, 0.5, 0.0), (0.0, 0.0, 0.5)], dtype=torch.float64) * 2.0
        pairs.append((rows, rows @ torch.full((3,), -1.0, dtype=torch.float64)))  # (1/4)|A(x + 1)|² = f_i(x + 1)
    constants = solved(LinearProblem(pairs, "mse"))
    constants = dataclasses.replace(constants, sigma_star_sq=0.0)  # the clients share x*
    problem = Problem(experiment, Shape((3,), 1, None), Shards.of_clients(pairs), None, constants)
    return with_problem(experiment, problem)


def path(session: Session, swap: Swap | None = None) -> Floats:
    """x_t - x* after rounds 0, 1, 2, ...: `[rounds + 1, 3]`."""
    session = (swap or Swap()).into(session)
    return np.stack([np.ones(3), *((server.x + 1.0).numpy() for server, _ in play(session))])


def factors(session: Session, swap: Swap | None = None) -> list[float]:
    """|x_{t+1} - x*| / |x_t - x*|, round by round."""
    size = np.linalg.norm(path(session, swap), axis=1)
    return [float(ratio) for ratio in size[1:] / size[:-1]]
