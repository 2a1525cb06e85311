"""What theory says about a curve: the rate of its method's theorem, where the experiment meets its conditions.

A line is a slope, not a bound: it starts at the curve's first point and falls by the proven factor each round. The
theorem's Lyapunov function V contains |x - x*|² or f - f*; of V falling by `rate`, |x - x*| and |∇f| fall by its root.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fl_core.errors import InputError as _AnyInputError
from fl_core.experiment.reading import read_experiments
from fl_core.problem import assemble
from fl_core.session import Session, open_session, with_problem
from fl_core.theory.constants import Constants
from fl_core.theory.setting import Setting
from fl_core.theory.step_size import solved_constants, theoretical
from master.flctl.stored_run import StoredRun
from master.plotting.curves import Curve, Group
from master.plotting.derived import Derived
from protocol.errors import InputError

_ROOT_OF = ("distance", "grad_norm")
_GRADIENT_DESCENT = (
    *("fedavg", "fedprox", "fednova", "scaffold", "dcgd", "diana", "cofig", "marina", "pp-marina", "ef21", "ef21-pp"),
    "ef14",
)
"""Methods that are gradient descent with one full step, all clients and no compression."""

_TO_A_FLOOR = ("dcgd", "fedavg", "fedprox", "fednova", "ef14")
"""Methods whose theorem has one more term, in sigma*^2: a line without it would promise too much."""


class NoLineError(Exception):
    """There is no line; the text says why."""


def line(group: Group, measured: Curve, y: str, root: Path | None) -> Curve:
    """The theorem's slope beside a measured curve.

    Args:
        y: the metric that is drawn.
        root: where the data set lies, if it has to be read.

    Raises:
        NoLineError: no theorem covers the experiment, or it says nothing about this metric.
    """
    base, less, is_squared = Derived.of(y)
    falls_as_v = y == "f-f*" or (is_squared and base in _ROOT_OF and not less)
    if y not in _ROOT_OF and not falls_as_v:
        raise NoLineError("theorems here speak of distance, grad_norm, their squares and f-f*")
    rates = [rate(run, root) for run in group.runs]
    factor, name = max(rates)  # the slowest of the seeds' problems
    per_round = factor if falls_as_v else factor**0.5
    rounds = measured.rounds - measured.rounds[0]
    values = measured.y[0] * np.power(per_round, rounds)
    label = f"{name}, ×{per_round:.4g} a round"
    return Curve(label, measured.x, values, measured.rounds, kind="theory", beside=measured.label)


def rate(run: StoredRun, root: Path | None) -> tuple[float, str]:
    """The proven factor of V a round, and what proves it. NoLineError: nothing does."""
    try:
        session = _session(run, root)
        if session.experiment.server.optimizer.options.get("lr") == "theory":
            return _of_theorem(session, _constants(session))
        return _of_gradient_descent(session, _constants(session))
    except _AnyInputError as error:  # no theorem, no data, a file that is gone: the reason is the error's text
        raise NoLineError(str(error)) from None


def least_value(run: StoredRun, root: Path | None) -> float:
    """f* of the run's problem. InputError: it is not known."""
    constants = _constants(_session(run, root))
    if constants.f_star is None:
        raise InputError(f"f-f*: f* of run {run.name} is not known (no unique or computable minimiser)")
    return constants.f_star


def _session(run: StoredRun, root: Path | None) -> Session:
    experiment = read_experiments(run.path / "experiment.toml")[0]
    if experiment.server.optimizer.options.get("lr") == "theory":
        return with_problem(experiment, assemble(experiment, root))  # with lr as the file has it
    return open_session(experiment, root)


def _constants(session: Session) -> Constants:
    constants, text = solved_constants(session.problem)
    if constants is None:
        raise InputError(text)
    return constants


def _of_theorem(session: Session, constants: Constants) -> tuple[float, str]:
    algorithm, problem, work = session.algorithm, session.problem, session.work
    theoretical(algorithm, problem, work)  # raises where the experiment does not meet the theorem's conditions
    clients, uplink = session.experiment.clients, work.compressor
    steps = work.estimator.local_steps(problem.shards.size(0))
    setting = Setting(
        constants, clients.per_round, clients.sampling, uplink.omega(problem.d), uplink.delta(problem.d), steps
    )
    step = algorithm.theoretical_step(setting)
    if step is None or step.rate is None:
        raise NoLineError("its theorem gives a step but no linear rate here (mu = 0, or f is not convex)")
    _check_gradients(session)
    exact = setting.omega == 0.0 and setting.n == setting.S
    if session.experiment.algorithm.name in _TO_A_FLOOR and not exact and constants.sigma_star_sq != 0.0:
        raise NoLineError("where clients differ its theorem leads to a neighbourhood of x*, not to x*")
    return step.rate, f"{session.experiment.algorithm.name} theorem"


def _of_gradient_descent(session: Session, constants: Constants) -> tuple[float, str]:
    """|x+ - x*| <= (1 - γ mu)|x - x*| for γ <= 2/(L + mu): V = |x - x*|² falls by its square."""
    experiment, work = session.experiment, session.work
    local, server = experiment.local, experiment.server
    plain = work.plain_sgd and server.optimizer.name == "sgd" and set(server.optimizer.options) == {"lr"}
    if experiment.algorithm.name not in _GRADIENT_DESCENT or not plain or server.schedule.name != "constant":
        raise NoLineError('lr is no "theory", and this is not plain gradient descent')
    if experiment.clients.per_round != experiment.clients.total or local.steps != 1:
        raise NoLineError('lr is no "theory", and gradient descent needs all clients and one local step')
    if work.compressor.omega(session.problem.d) != 0.0 or experiment.downlink.name != "identity":
        raise NoLineError('lr is no "theory", and gradient descent needs no compression')
    _check_gradients(session)
    gamma = work.lr * float(server.optimizer.options["lr"])
    if constants.mu == 0.0 or gamma > 2.0 / (constants.L + constants.mu):
        raise NoLineError(f"gradient descent has no linear rate at step {gamma:g}, L = {constants.L:g}")
    return (1.0 - gamma * constants.mu) ** 2, "gradient descent theorem"


def _check_gradients(session: Session) -> None:
    estimator, shards = session.work.estimator, session.problem.shards
    if any(estimator.indices(shards.size(i), (0, 0, 0), 0) is not None for i in range(shards.n)):
        raise NoLineError("the theorem assumes full local gradients, and these are stochastic")


__all__ = ["NoLineError", "least_value", "line", "rate"]
