"""A small heterogeneous quadratic, experiments on it, and a run that shows what every client remembers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fl_core.execution.cohort import CohortRunner, CohortWork, decode
from fl_core.experiment.building import build
from fl_core.experiment.checking import checked
from fl_core.experiment.schema import Experiment
from fl_core.memories import ClientMemories
from fl_core.problem import Problem, Shape
from fl_core.reference import run_reference
from fl_core.server import Server
from fl_core.session import Session, open_session, with_problem
from fl_core.shards import Shards
from fl_core.state import initial_values

N, D = 5, 4
IDENTITY = {"name": "identity"}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def experiment(algorithm: str | dict[str, Any], **changes: Any) -> Experiment:
    """An experiment on N clients with distinct minimisers: full gradients, one local step of 0.25, float64.

    Args:
        algorithm: its table.
        changes: uplink, sampling, per_round, rounds, seed, lr (local), server_lr, dtype, data (more options),
            local (more keys), server (an optimizer's table), regularizer, metrics.
    """
    c = dict(changes)
    clients = {"total": c.pop("clients", N), "sampling": c.pop("sampling", "full")}
    if "per_round" in c:
        clients["per_round"] = c.pop("per_round")
    optimizer = {"name": "sgd", "lr": c.pop("lr", 0.25)}
    local = {"steps": 1, "gradient": "full", "optimizer": optimizer, **c.pop("local", {})}
    if "epochs" in local:
        del local["steps"]
    tables = {
        "name": "t",
        "rounds": c.pop("rounds", 30),
        "seed": c.pop("seed", 3),
        "data": {"name": "quadratic", "d": D, "L": 1.0, "mu": 0.5, "samples_per_client": 8, **c.pop("data", {})},
        "model": {
            "name": "linear",
            "loss": "mse",
            "dtype": c.pop("dtype", "float64"),
            "regularizer": c.pop("regularizer", {"name": "none"}),
        },
        "clients": clients,
        "local": local,
        "server": {"optimizer": c.pop("server", {"name": "sgd", "lr": c.pop("server_lr", 1.0)})},
        "algorithm": algorithm if isinstance(algorithm, dict) else {"name": algorithm},
        "uplink": c.pop("uplink", IDENTITY),
        "downlink": c.pop("downlink", IDENTITY),
        "evaluate": {"metrics": c.pop("metrics", ["f"])},
    }
    assert not c, f"unknown changes {c}"
    return checked(build(tables))


@dataclass(frozen=True)
class Played:
    """A round that has been run: metrics, and every client's memory, fields stacked `[n, …]`, before and after it."""

    server: Server
    metrics: dict[str, float]
    participants: tuple[int, ...]
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    bits_up: int

    def mean(self, field: str) -> Tensor:
        """(1/n) Σ over all clients of a field of Memory."""
        return self.after[field].mean(0)


def play(session: Session, rounds: int | None = None) -> Iterator[Played]:
    """Run as a cluster does: cohort by cohort, memories at the master, replies out of their bytes."""
    server, name = session.server(), type(session.algorithm).__name__
    memories = ClientMemories(initial_values(session.algorithm.Memory, name), session.problem.d, session.problem.dtype)
    runner = CohortRunner(session.problem, session.algorithm, session.work, torch.device("cpu"))
    everyone = tuple(range(session.problem.n))
    memories.commit(everyone, _initial(session))
    for t in range(1, (rounds or session.experiment.rounds) + 1):
        round = server.begin_round(t)
        before = {field: rows.clone() for field, rows in memories.gather(everyone).items()}
        results = []
        for index, cohort in enumerate(round.cohorts):
            own = {k: torch.stack([v[i] for i in cohort]) for k, v in round.broadcast.own.items()}
            results.append(runner.run(round.broadcast, CohortWork(t, index, cohort, memories.gather(cohort), own)))
        metrics = server.finish_round([decode(r, t, session.work, session.layout) for r in results])
        for result in results:
            memories.commit(result.clients, result.memory)
        after = memories.gather(everyone)
        yield Played(server, metrics, round.participants, before, after, sum(r.bits for r in results))


def _initial(session: Session) -> dict[str, Tensor]:
    memory = session.problem.initial_memory(session.algorithm)
    n = session.problem.n
    return {name: torch.stack([torch.as_tensor(value)] * n) for name, value in vars(memory).items()}


def path(session: Session) -> np.ndarray:
    """x^0, x^1, … of the reference, `[rounds + 1, d]`."""
    points = [session.problem.x0.clone()]
    points += [server.x.clone() for server, _ in run_reference(session)]
    return torch.stack(points).double().numpy()


def of_clients(experiment: Experiment, clients: Sequence[tuple[Tensor, Tensor]]) -> Session:
    """The experiment on given clients' rows and targets, instead of those its data set would give."""
    replaced = replace_clients(experiment, len(clients))
    d = clients[0][0].shape[1]
    return with_problem(replaced, Problem(replaced, Shape((d,), 1, None), Shards.of_clients(clients), None, None))


def replace_clients(experiment: Experiment, n: int) -> Experiment:
    """The experiment with n clients, all of them in every round."""
    tables = experiment.to_dict()
    tables["clients"] = {"total": n, "sampling": "full"}
    return checked(build(tables))


@dataclass(frozen=True)
class Quadratic:
    """f_i(x) = ½ xᵀH_i x - c_iᵀx + const. of a session's clients, in NumPy: H `[n, d, d]`, c `[n, d]`."""

    H: np.ndarray
    c: np.ndarray

    @classmethod
    def of(cls, session: Session) -> Quadratic:
        """From the clients' rows and targets."""
        H, c = [], []
        for i in range(session.problem.n):
            rows, targets = (t.double().numpy() for t in session.problem.shard(i))
            H.append(2.0 / len(rows) * rows.T @ rows)
            c.append(2.0 / len(rows) * rows.T @ targets.reshape(-1))
        return cls(np.array(H), np.array(c))

    @property
    def x_star(self) -> np.ndarray:
        """The minimiser of the mean."""
        return np.linalg.solve(self.H.mean(0), self.c.mean(0))

    def gradients(self, x: np.ndarray) -> np.ndarray:
        """∇f_i(x), `[n, d]`."""
        return self.H @ x - self.c

    def gradients_at(self, x: np.ndarray) -> np.ndarray:
        """∇f_i(x_i) for points of their own, `[n, d]`."""
        return np.einsum("nij,nj->ni", self.H, x) - self.c

    def descent(self, x0: np.ndarray, gamma: float, rounds: int) -> np.ndarray:
        """Gradient descent, `[rounds + 1, d]`."""
        points = [x0]
        for _ in range(rounds):
            points.append(points[-1] - gamma * self.gradients(points[-1]).mean(0))
        return np.array(points)

    def fixed_point(self, lr: float, tau: int, mu: float = 0.0) -> np.ndarray:
        """x with Σ R_i (H_i x - c_i) = 0, R_i = η Σ_{k<τ} (I - η(H_i + μI))^k: where FedAvg and FedProx stop."""
        eye = np.eye(self.c.shape[1])
        R = [lr * sum(np.linalg.matrix_power(eye - lr * (h + mu * eye), k) for k in range(tau)) for h in self.H]
        left = sum(r @ h for r, h in zip(R, self.H, strict=True))
        right = sum(r @ b for r, b in zip(R, self.c, strict=True))
        return np.linalg.solve(left, right)


class Lab:
    """The tools of this module, in one fixture."""

    n, d = N, D
    experiment = staticmethod(experiment)
    play = staticmethod(play)
    path = staticmethod(path)
    of_clients = staticmethod(of_clients)
    quadratic = staticmethod(Quadratic.of)

    def session(self, algorithm: str | dict[str, Any], **changes: Any) -> Session:
        """`experiment`, opened."""
        return open_session(experiment(algorithm, **changes))

    def final(self, algorithm: str | dict[str, Any], **changes: Any) -> tuple[np.ndarray, Quadratic]:
        """Where the reference ends, and the problem."""
        session = self.session(algorithm, **changes)
        return path(session)[-1], Quadratic.of(session)


@pytest.fixture(scope="session")
def lab() -> Lab:
    """Experiments, runs and the problem's formulas."""
    return Lab()
