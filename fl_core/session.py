"""An experiment made ready to run: its problem, its algorithm, and what `[local]` and the compressors say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from compressors.build import build as build_compressor
from compressors.compressor import Compressor, Layout
from compressors.contraction import contraction
from fl_core import plugins
from fl_core.algorithm import Algorithm
from fl_core.client import LocalWork
from fl_core.errors import ExperimentError
from fl_core.estimators import Estimator
from fl_core.experiment.checking import check_participation
from fl_core.experiment.schema import Experiment, PlugIn
from fl_core.problem import Problem, assemble
from fl_core.server import Effort, Server
from fl_core.state import initial_values
from fl_core.user_code import in_code_of, user_files


@dataclass(frozen=True)
class Session:
    """One run's parts. The same in every process that takes part in it.

    Attributes:
        work: what every client does, as `[local]`, `[uplink]` and the seed say.
        downlink: the operator the server compresses the model's change with.
        notes: what the user should read before the first round.
    """

    experiment: Experiment
    problem: Problem
    algorithm: Algorithm
    work: LocalWork
    downlink: Compressor
    notes: tuple[str, ...] = ()

    @cached_property
    def data_sha256(self) -> str:
        """Digest of the clients' data, by which a worker knows whether it has loaded the same."""
        return self.problem.shards.digest()

    @property
    def layout(self) -> Layout:
        """How a decoded vector of this problem looks: `[d]` in the model's type."""
        return Layout(self.problem.d, self.problem.dtype)

    def server(self) -> Server:
        """The server at x0."""
        return Server(
            self.algorithm, self.experiment, self.problem.x0, self.work.compressor, self.downlink, self.effort
        )

    @property
    def tau(self) -> float:
        """τ: local steps in a round, the mean over clients where their numbers of samples make them differ."""
        return self.effort.steps

    @cached_property
    def effort(self) -> Effort:
        """What a client does in a round, the mean over all of them."""
        shards, estimator = self.problem.shards, self.work.estimator
        sizes, counts = np.unique(shards.sizes(np.arange(shards.n)), return_counts=True)
        steps = [estimator.local_steps(int(size)) for size in sizes]
        clients = [int(count) for count in counts]
        samples = [k * estimator.size(int(size)) * n for k, size, n in zip(steps, sizes, clients, strict=True)]
        return Effort(sum(k * n for k, n in zip(steps, clients, strict=True)) / shards.n, sum(samples) / shards.n)

    def user_files(self) -> tuple[str, ...]:
        """Where the user's own files lie in this process."""
        return user_files()


def open_session(experiment: Experiment, data_root: Path | None = None) -> Session:
    """Load the data and put everything together. Raises InputError or UserCodeError where something is wrong."""
    session = with_problem(experiment, assemble(experiment, data_root))
    return _with_theory(session)


def with_problem(experiment: Experiment, problem: Problem) -> Session:
    """The session of an experiment whose problem is at hand (a worker may have been sent its data)."""
    algorithm = _algorithm(experiment)
    check_participation(algorithm, experiment)
    uplink = _uplink(algorithm, experiment, problem.d)
    downlink = contraction(_compressor(experiment, experiment.downlink))
    local = experiment.local
    estimator = Estimator(local.gradient, local.batch_size, local.tau, local.epochs, local.steps)
    work = LocalWork(estimator, (local.optimizer.name, local.optimizer.options), uplink, experiment.seed)
    return Session(experiment, problem, algorithm, work, downlink)


def _with_theory(session: Session) -> Session:
    """What only the process that runs the server needs of the theory: the step size, and x*. (It brings SciPy.)"""
    experiment, problem = session.experiment, session.problem
    asked_step = experiment.server.optimizer.options.get("lr") == "theory"
    asked_minimizer = "distance" in experiment.evaluate.metrics
    if not (asked_step or asked_minimizer):
        return session
    from fl_core.theory.step_size import solved_constants, theoretical

    notes = session.notes
    if asked_minimizer:
        problem.constants, text = solved_constants(problem)
        notes += (text,)
    if asked_step:
        lr, text = theoretical(session.algorithm, problem, session.work)
        experiment, notes = with_server_lr(experiment, lr), (*notes, text)
    return replace(session, experiment=experiment, notes=notes)


def _uplink(algorithm: Algorithm, experiment: Experiment, d: int) -> Compressor:
    """The operator of `[uplink]`, made what the algorithm needs. Raises ExperimentError if it cannot be."""
    uplink = _compressor(experiment, experiment.uplink)
    method, name, needs = experiment.algorithm.name, experiment.uplink.name, algorithm.compressor
    if needs == "contraction":
        uplink = contraction(uplink)
        if uplink.delta(d) is None:
            raise ExperimentError(
                f'{method} needs a contraction (or an unbiased operator), and "{name}" is neither', path="uplink.name"
            )
    elif needs == "unbiased" and uplink.omega(d) is None:
        raise ExperimentError(
            f'{method} needs an unbiased operator, and "{name}" is biased; '
            "take one of identity, randk, natural, qsgd, …, or an error-feedback method such as ef21",
            path="uplink.name",
        )
    elif needs == "lossless" and uplink.omega(d) != 0.0:
        raise ExperimentError(f'{method} sends whole vectors: take "identity", not "{name}"', path="uplink.name")
    if needs == "lossless" and experiment.downlink.name != "identity":
        raise ExperimentError(f'{method} needs x as it is: take "identity"', path="downlink.name")
    return uplink


def _algorithm(experiment: Experiment) -> Algorithm:
    table = experiment.algorithm
    kind = plugins.resolve("algorithm", table.name, experiment.sources)
    with in_code_of(table):
        algorithm = kind(**table.options)
    if not isinstance(algorithm, Algorithm):  # resolve() has looked: this tells the type checker
        raise TypeError(f"{kind!r} is no Algorithm")
    initial_values(algorithm.Memory, kind.__name__)  # refuses a field without an initial value
    return algorithm


def _compressor(experiment: Experiment, table: PlugIn) -> Compressor:
    if table.is_file:
        kind = plugins.resolve("compressor", table.name, experiment.sources)
        with in_code_of(table):
            built: Any = kind(**table.options)
        assert isinstance(built, Compressor)
        return built
    return build_compressor(table.name, table.options)


def with_server_lr(experiment: Experiment, lr: float) -> Experiment:
    """The experiment with its server's step size replaced by a number (that of a theorem)."""
    import msgspec

    optimizer = PlugIn(experiment.server.optimizer.name, {**experiment.server.optimizer.options, "lr": lr})
    return msgspec.structs.replace(experiment, server=msgspec.structs.replace(experiment.server, optimizer=optimizer))


__all__ = ["Session", "open_session", "with_problem", "with_server_lr"]
