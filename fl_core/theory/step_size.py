"""What an experiment asks of the theory: a number for `[server] optimizer = { lr = "theory" }`, and x* for `distance`.

Only the process that runs the server needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fl_core import plugins
from fl_core.errors import InputError
from fl_core.theory.constants import Constants, smoothness
from fl_core.theory.linear import LinearProblem
from fl_core.theory.minimizer import solved
from fl_core.theory.setting import Setting
from fl_core.theory.steps import NoTheoremError

if TYPE_CHECKING:
    from fl_core.algorithm import Algorithm
    from fl_core.client import LocalWork
    from fl_core.experiment.schema import Experiment
    from fl_core.problem import Problem

_LINEAR = ("linear", "logistic")


def theoretical(algorithm: Algorithm, problem: Problem, work: LocalWork) -> tuple[float, str]:
    """The server's step η_g = γ/(η_l τ) that the algorithm's theorem allows, and a line for the log that says why.

    Raises:
        NoTheoremError: the algorithm has none for this experiment, or the problem's constants are not known.
    """
    experiment = problem.experiment
    name, lr_local = experiment.algorithm.name, work.lr
    tau = _steps(problem, work)
    _check_plain(experiment, work)
    _check_weights(algorithm, problem)
    clients, uplink = experiment.clients, work.compressor
    setting = Setting(
        _constants(problem), clients.per_round, clients.sampling, uplink.omega(problem.d), uplink.delta(problem.d), tau
    )
    _check_stated(algorithm)
    step = algorithm.theoretical_step(setting)
    if step is None:
        raise NoTheoremError(f"no theorem is known here that gives {name} a server step")
    lr = step.gamma / (lr_local * tau)
    if tau > 1 and lr < 1.0:
        raise NoTheoremError(
            f"the theorem of {name} with {tau} local steps needs a server step of at least 1, and {step.formula}: "
            f"lower [local] lr to at most {step.gamma / tau:.6g}"
        )
    note = f"server lr = gamma/(eta_l tau) = {lr:.6g}: {step.formula}; {step.reference}"
    stochastic = any(work.estimator.indices(m, (0, 0, 0), 0) is not None for m in _sizes(problem))
    return lr, note + ("; it assumes full local gradients, and these are stochastic" if stochastic else "")


_STEPS = (
    "participants",
    "initialize_server_state",
    "client_state",
    "local_steps",
    "local_gradient",
    "client_opt",
    "local_state",
    "server_gradient",
    "server_opt",
    "server_global_state",
)


def _check_stated(algorithm: Algorithm) -> None:
    """A theorem is about the method whose class states it: a subclass that computes something else has none."""
    classes = type(algorithm).__mro__
    states = next(k for k, each in enumerate(classes) if "theoretical_step" in vars(each))
    changed = [(each, name) for each in classes[:states] for name in _STEPS if name in vars(each)]
    if changed and classes[states].__name__ != "Algorithm":  # which has no theorem to inherit
        other, name = changed[0]
        raise NoTheoremError(
            f"{other.__name__} has a {name} of its own, and the theorem of {classes[states].__name__} is not about it "
            "(a theoretical_step of its own would state one)"
        )


def solved_constants(problem: Problem) -> tuple[Constants | None, str]:
    """L, L_i, mu with x* and f*, where the model is linear and has a minimiser; and a line for the log.

    None where they are not known: `distance` is then absent.
    """
    given = _given(problem)
    if given is not None and given.x_star is not None:
        return given, _said(given)
    try:
        constants = solved(linear_problem(problem))
    except InputError as error:
        return given, f"x* is not known, and distance is not measured: {error}"
    if constants.x_star is None:
        return constants, "x* is not known, and distance is not measured: f has no (unique or computable) minimiser"
    return constants, _said(constants)


def linear_problem(problem: Problem) -> LinearProblem:
    """The problem as the theory of linear models sees it. Raises InputError where the model is not one."""
    table = problem.experiment.model
    if table.plug.name not in _LINEAR:
        raise InputError(f'L is known for linear models only, and the model is "{table.plug.name}"')
    if table.loss != "cross_entropy" and problem.shape.outputs != 1:
        raise InputError(f"L is known for one output a sample, and the model has {problem.shape.outputs}")
    defaults = plugins.options_of(plugins.resolve("model", table.plug.name))
    bias = table.plug.options.get("bias", defaults["bias"].default)
    alpha = float(table.regularizer.options.get("alpha", 0.0))
    shards = [problem.shard(i) for i in range(problem.n)]
    return LinearProblem(shards, table.loss, table.regularizer.name, alpha, bool(bias))  # type: ignore[arg-type]  # it checks the name itself


def _constants(problem: Problem) -> Constants:
    given = _given(problem)
    if given is not None:
        return given
    try:
        return smoothness(linear_problem(problem))
    except InputError as error:
        raise NoTheoremError(str(error)) from None


def _given(problem: Problem) -> Constants | None:
    """What the data came with, where it is about this f: no regulariser, as many clients and parameters."""
    given, table = problem.constants, problem.experiment.model
    if given is None or table.regularizer.name != "none" or given.n != problem.n:
        return None
    made_for_another = given.x_star is not None and given.x_star.numel() != problem.d
    ours = problem.experiment.data.plug.name == "quadratic"
    if made_for_another or (ours and (table.plug.name not in _LINEAR or table.loss != "mse")):
        return None
    return given


def _steps(problem: Problem, work: LocalWork) -> int:
    counts = {work.estimator.local_steps(m) for m in _sizes(problem)}
    if len(counts) > 1:
        raise NoTheoremError(f"clients take between {min(counts)} and {max(counts)} local steps; set [local] steps")
    return counts.pop()


def _sizes(problem: Problem) -> set[int]:
    return {problem.shards.size(i) for i in range(problem.n)}


def _check_plain(experiment: Experiment, work: LocalWork) -> None:
    """Theorems are about x - γ g, on both sides, and about a model that clients receive as it is."""
    server = experiment.server.optimizer
    if server.name != "sgd" or any(value for key, value in server.options.items() if key != "lr"):
        raise NoTheoremError(f'the theorems are about plain "sgd" on the server, not this "{server.name}"')
    if not work.plain_sgd:
        raise NoTheoremError(f'the theorems are about plain "sgd" on the clients, not this "{work.optimizer[0]}"')
    if experiment.downlink.name != "identity":
        raise NoTheoremError("the theorems here do not cover a compressing downlink")


def _check_weights(algorithm: Algorithm, problem: Problem) -> None:
    if getattr(algorithm, "weights", "uniform") == "size" and len(_sizes(problem)) > 1:
        raise NoTheoremError('the theorem weighs clients equally; set [algorithm] weights = "uniform"')


def _said(constants: Constants) -> str:
    assert constants.x_star is not None
    size = float(torch.linalg.vector_norm(constants.x_star))
    lowest = "" if constants.f_star is None else f", f* = {constants.f_star!r}"
    return f"x* is known: |x*| = {size:.6g}{lowest}, L = {constants.L:.6g}, mu = {constants.mu:.6g}"


__all__ = ["linear_problem", "solved_constants", "theoretical"]
