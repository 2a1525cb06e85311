"""Whether a method gets anywhere on a small quadratic, and what it does there that gradient descent does too."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from fl_core.contract.finding import BrokenError, Check
from fl_core.contract.subject import UPLINKS, AlgorithmSubject, Scenario
from fl_core.errors import ExperimentError, InputError
from fl_core.metrics import full_objective
from fl_core.reference import run_reference
from fl_core.session import Session

_ROUNDS = 80
_SLOW = 0.1
"""Gradient descent brings |∇f| down further than this in 80 rounds at half of its largest step. Slower is no fault: a
momentum of 0.9 at the same step is slow."""

PLAIN = Scenario(1, "full", "identity", "float64", rounds=_ROUNDS, server_lr=0.5)


def converges(subject: AlgorithmSubject) -> str:
    """|∇f| falls, with all clients, one step, no compression, γ = 1/(2L). How fast is a fact, not a condition."""
    session = subject.session(PLAIN)
    start, end = _norms(session)
    told = f"|∇f| {start:.3g} -> {end:.3g} in {_ROUNDS} rounds (all clients, 1 step of 1/(2L), identity)"
    if not math.isfinite(end) or end > start:
        raise BrokenError(f"{told}: it diverges")
    if end == start:
        raise BrokenError(f"{told}: it gets nowhere")
    return told if end <= _SLOW * start else f"{told}: slowly, by a factor of {start / end:.2g}"


def _gradient_descent(subject: AlgorithmSubject) -> str:
    """The largest distance between its iterates and gradient descent's, over 30 rounds."""
    session = subject.session(replace(PLAIN, rounds=30))
    problem, oracle = session.problem, session.problem.oracle("cpu")
    x = problem.x0.clone()
    worst, when, size = 0.0, 0, 0.0
    for server, metrics in run_reference(session):
        x = x - 0.5 * _gradient(session, oracle, x)
        gap = float(torch.linalg.vector_norm(server.x - x))
        size = max(size, float(torch.linalg.vector_norm(x - problem.x0)))
        if gap > worst:
            worst, when = gap, int(metrics["round"])
    relative = worst / size
    setting = "identity, full gradients, 1 step, all clients, 30 rounds"
    if relative <= 1e-12:
        return f"follows gradient descent to {relative:.1e} ({setting})"
    return f"does not follow gradient descent: off by {relative:.2g} of the way in round {when} ({setting})"


def _compressed(subject: AlgorithmSubject) -> str:
    found = _way(subject.session(replace(PLAIN, uplink="randk", server_lr=0.3)))
    return f"{found} with Rand-K of {UPLINKS['randk']['k']} (1 step of 0.3/L)"


def _partial(subject: AlgorithmSubject) -> str:
    found = _way(subject.session(replace(PLAIN, sampling="uniform", server_lr=0.3)))
    return f"{found} with 3 of 6 clients (1 step of 0.3/L)"


def _several_steps(subject: AlgorithmSubject) -> str:
    return f"{_way(subject.session(replace(PLAIN, steps=5, server_lr=1.0)))} with 5 local steps of 1/(5L)"


def _way(session: Session) -> str:
    """How far it came, in words."""
    start, end = _norms(session)
    verdict = "converges" if end <= 1e-3 * start else "ends in a neighbourhood, or is slow:"
    return f"{verdict if end <= start else 'does not converge:'} |∇f| {start:.3g} -> {end:.3g} in {_ROUNDS} rounds"


def _theory(subject: AlgorithmSubject) -> str:
    session = subject.session(replace(PLAIN, rounds=1, server_lr="theory"))
    return session.notes[-1]


def _norms(session: Session) -> tuple[float, float]:
    """|∇f| at the beginning and at the end."""
    oracle = session.problem.oracle("cpu")
    x = session.problem.x0
    start = float(torch.linalg.vector_norm(_gradient(session, oracle, x)))
    for server, _ in run_reference(session):
        x = server.x
    return start, float(torch.linalg.vector_norm(_gradient(session, oracle, x)))


def _gradient(session: Session, oracle: object, x: Tensor) -> Tensor:
    gradient = full_objective(session.problem, oracle, x, gradient=True)[1]  # type: ignore[arg-type]  # of this problem
    assert gradient is not None
    return gradient


def _as_fact(check: Check[AlgorithmSubject]) -> Check[AlgorithmSubject]:
    """A fact about an experiment that the method refuses is its refusal."""

    def told(subject: AlgorithmSubject) -> str:
        try:
            return check(subject)
        except ExperimentError as error:
            return error.message
        except InputError as error:
            return str(error)

    return told


FACTS: dict[str, Check[AlgorithmSubject]] = {
    name: _as_fact(check)
    for name, check in {
        "gradient descent": _gradient_descent,
        "compressed": _compressed,
        "some of the clients": _partial,
        "local steps": _several_steps,
        'lr = "theory"': _theory,
    }.items()
}

__all__ = ["FACTS", "PLAIN", "converges"]
