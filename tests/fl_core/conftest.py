"""Small experiments, and the one-process loop that runs them as the master does: cohorts, bytes, memories, commits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from fl_core.execution import wire
from fl_core.execution.cohort import CohortResult, CohortRunner, CohortWork, decode
from fl_core.experiment.schema import Experiment, Role
from fl_core.memories import ClientMemories
from fl_core.server import Round, Server
from fl_core.session import Session, open_session
from fl_core.state import initial_values
from protocol.fields import Buffer
from protocol.headers import decode_header, encode_header

TABLES: dict[str, dict[str, Any]] = {
    "data": {"name": "quadratic", "d": 6, "samples_per_client": 7},
    "model": {"name": "linear", "loss": "mse", "dtype": "float64"},
    "clients": {"total": 5},
    "local": {"steps": 2, "batch_size": 3, "optimizer": {"name": "sgd", "lr": 0.1}},
    "algorithm": {"name": "fedavg"},
    "execution": {"cohort": 1},
}


def experiment_of(files: dict[tuple[Role, str], str] | None = None, **changes: Any) -> Experiment:
    """A small experiment. A table given is laid over ours; one with another name replaces it.

    Args:
        files: the user's own, (role, name) -> text.
    """
    tables: dict[str, Any] = {"name": "t", "rounds": 3, "seed": 1, **TABLES}
    for key, value in changes.items():
        ours = tables.get(key)
        lay = (
            isinstance(ours, dict)
            and isinstance(value, dict)
            and value.get("name", ours.get("name")) == ours.get("name")
        )
        tables[key] = {**ours, **value} if lay else value  # type: ignore[dict-item]
    sources = [
        {"role": role, "name": name, "sha256": hashlib.sha256(text.encode()).hexdigest(), "text": text}
        for (role, name), text in (files or {}).items()
    ]
    return Experiment.from_dict({**tables, "sources": sources})


def sent_of(packed: tuple[Any, list[np.ndarray]]) -> tuple[Any, list[np.ndarray]]:
    """What arrives of a message: its header's bytes read again, its buffers in memory of their own."""
    message, buffers = packed
    header = encode_header(message, [Buffer(b.nbytes, b.nbytes) for b in buffers])
    return decode_header(header)[0], [b.copy() for b in buffers]


@dataclass
class Loop:
    """The master's round loop without a cluster.

    Attributes:
        over_wire: whether broadcasts, tasks and results go through their messages and bytes.
        execute: runs one cohort's work; by default one CohortRunner, in this thread.
    """

    session: Session
    over_wire: bool = False
    execute: Callable[[Round, CohortWork], CohortResult] | None = None
    metrics: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        s = self.session
        self.server = s.server()
        declared = initial_values(s.algorithm.Memory, type(s.algorithm).__name__)
        self.memories = ClientMemories(declared, s.problem.d, s.problem.dtype)
        self.runner = CohortRunner(s.problem, s.algorithm, s.work, torch.device("cpu"), s.user_files())

    def begin(self, number: int) -> tuple[Round, list[CohortWork]]:
        """A round and its cohorts' work."""
        round = self.server.begin_round(number)
        works = []
        for index, cohort in enumerate(round.cohorts):
            own = {name: torch.stack([values[i] for i in cohort]) for name, values in round.broadcast.own.items()}
            works.append(CohortWork(number, index, cohort, self.memories.gather(cohort), own))
        return round, works

    def run_cohort(self, round: Round, work: CohortWork) -> CohortResult:
        """One cohort's result, through its messages where `over_wire` says so."""
        if self.execute is not None:
            return self.execute(round, work)
        broadcast = round.broadcast
        if self.over_wire:
            broadcast = wire.broadcast_of(*sent_of(wire.broadcast_message("run", broadcast)))
            work = wire.work_of(*sent_of(wire.task_message("run", work, 0)))
        result = self.runner.run(broadcast, work)
        return wire.result_of(*sent_of(wire.result_message("run", work, 0, result))) if self.over_wire else result

    def finish(self, round: Round, results: list[CohortResult]) -> dict[str, float]:
        """Commit the round."""
        s = self.session
        cohorts = [decode(result, round.number, s.work, s.layout) for result in results]
        found = self.server.finish_round(cohorts)
        for result in results:
            self.memories.commit(result.clients, result.memory)
        return {**found, "bits_up": sum(result.bits for result in results), "bits_down": round.broadcast.bits}

    def run(self, rounds: int | None = None, first: int = 1) -> Server:
        """Rounds first, first + 1, …; the server after the last."""
        last = self.session.experiment.rounds if rounds is None else first + rounds - 1
        for number in range(first, last + 1):
            round, works = self.begin(number)
            self.metrics.append(self.finish(round, [self.run_cohort(round, work) for work in works]))
        return self.server


@pytest.fixture(scope="session")
def experiment() -> Callable[..., Experiment]:
    """Makes small experiments; see `experiment_of`."""
    return experiment_of


@pytest.fixture(scope="session")
def session() -> Callable[..., Session]:
    """Makes sessions of small experiments, loaded and ready."""
    return lambda *arguments, **changes: open_session(experiment_of(*arguments, **changes))


@pytest.fixture(scope="session")
def loop() -> type[Loop]:
    """The master's round loop without a cluster."""
    return Loop


@pytest.fixture(scope="session")
def sent() -> Callable[[tuple[Any, list[np.ndarray]]], tuple[Any, list[np.ndarray]]]:
    """Sends a message and its buffers to itself; see `sent_of`."""
    return sent_of


@pytest.fixture
def global_generator_untouched() -> Iterator[None]:
    """The test must leave torch's global generator where it was."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(before, torch.get_rng_state())
