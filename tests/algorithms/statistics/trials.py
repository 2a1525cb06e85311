"""The product's methods on small quadratics: sessions, and a bare loop over `Server` and `Client` for many seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from msgspec import structs
from torch import Tensor

from compressors.compressor import Compressor
from fl_core.algorithm import Algorithm
from fl_core.client import Client, Message
from fl_core.experiment.building import build
from fl_core.problem import Problem
from fl_core.replies import CohortReplies
from fl_core.server import Server
from fl_core.session import Session, open_session
from fl_core.state import as_dict
from tests.algorithms.statistics.exact_moments import Floats, Quadratic

Table = dict[str, Any]
Memories = Mapping[int, Any]


@dataclass(frozen=True)
class Trial:
    """An experiment with full gradients on `[data] quadratic` in float64, from x0 = 0.

    Args:
        server_lr: a number, or "theory".
        data: options of the quadratic.
    """

    algorithm: Table
    uplink: Table
    clients: Table
    rounds: int
    lr: float = 1.0
    server_lr: float | str = 1.0
    tau: int = 1
    data: Table = field(default_factory=dict)

    def session(self, seed: int = 1) -> Session:
        """The product's, with a problem of its own."""
        return open_session(self._experiment(seed))

    def _experiment(self, seed: int) -> Any:
        return build(
            {
                "name": "trial",
                "rounds": self.rounds,
                "seed": seed,
                "data": {"name": "quadratic", **self.data},
                "model": {"name": "linear", "loss": "mse", "dtype": "float64"},
                "clients": self.clients,
                "local": {"steps": self.tau, "gradient": "full", "optimizer": {"name": "sgd", "lr": self.lr}},
                "server": {"optimizer": {"name": "sgd", "lr": self.server_lr}},
                "algorithm": self.algorithm,
                "uplink": self.uplink,
                "evaluate": {"metrics": []},
            }
        )


@dataclass(frozen=True)
class Swap:
    """What a mutant puts in place of the product's own parts."""

    algorithm: type[Algorithm] | None = None
    uplink: Callable[[Compressor], Compressor] | None = None

    def into(self, session: Session) -> Session:
        """The session with them."""
        if self.algorithm is not None:
            options = session.experiment.algorithm.options
            session = replace(session, algorithm=self.algorithm(**options))
        if self.uplink is not None:
            session = replace(session, work=replace(session.work, compressor=self.uplink(session.work.compressor)))
        return session


def quadratic_of(problem: Problem) -> Quadratic:
    """H_i and r_i from the clients' samples: f_i = (1/m)|A_i x - b_i|²."""
    H, r = [], []
    for i in range(problem.n):
        a, b = (part.double().numpy() for part in problem.shard(i))
        H.append(2.0 / len(a) * a.T @ a)
        r.append(2.0 / len(a) * a.T @ b.reshape(-1))
    return Quadratic(np.array(H), np.array(r))


def reseeded(session: Session, seed: int) -> Session:
    """The same problem, method and step under another seed: other masks, samples and coins."""
    experiment = structs.replace(session.experiment, seed=seed)
    return replace(session, experiment=experiment, work=replace(session.work, seed=seed))


class ClosedForm:
    """∇f_i = (2/m) A_iᵀ(A_i x - b_i) in one line: what the product's oracle finds by autograd, in a tenth of the time.

    (That the two agree to the last digits is a test of its own.)
    """

    def __init__(self, d: int) -> None:
        self.d = d
        self._value = torch.zeros((), dtype=torch.float64)  # of the loss, which no method here asks for

    def can_descend(self, x: Tensor) -> bool:
        """Steps are made from gradients."""
        return False

    def gradient(self, x: Tensor, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient `[d]`, and no value."""
        g = inputs.T @ (inputs @ x).sub_(targets.view(-1))
        return g.mul_(2.0 / len(inputs)), self._value


def play(session: Session) -> Iterator[tuple[Server, Memories]]:
    """Algorithm 1 by the product's Server and Client, without what only random models need; after every round."""
    server = session.server()
    memories: dict[int, Any] = {}
    oracle = ClosedForm(session.problem.d)
    for t in range(1, session.experiment.rounds + 1):
        round = server.begin_round(t)
        finished = [_cohort(session, round, cohort, memories, oracle) for cohort in round.cohorts]
        server.finish_round(finished)
        yield server, memories


def _cohort(
    session: Session, round: Any, cohort: tuple[int, ...], memories: dict[int, Any], oracle: Any
) -> CohortReplies:
    algorithm, problem = session.algorithm, session.problem
    replies, sizes = [], []
    for i in cohort:
        memory = memories.setdefault(i, problem.initial_memory(algorithm))
        own = {name: values[i] for name, values in round.broadcast.own.items()}
        s = algorithm.Broadcast(**round.broadcast.shared, **own)
        client = Client(i, round.number, problem.shard(i), memory, session.work, oracle)
        x = client.run(algorithm, round.broadcast.x, s)
        reply = as_dict(algorithm.local_state(client, round.broadcast.x, x, s))
        replies.append({k: v.value if isinstance(v, Message) else torch.as_tensor(v) for k, v in reply.items()})
        sizes.append(client.m)
    fields = {name: torch.stack([reply[name] for reply in replies]) for name in replies[0]}
    return CohortReplies(cohort, tuple(sizes), fields)


def observed(session: Session, x_star: Floats, watched: str, seeds: Iterable[int]) -> Floats:
    """|e|², e, and with a watched field s of the ServerState <e, s>, |s|², after every round, for every seed.

    e = x_t - x*; `[seeds, rounds, statistics]`.
    """
    star = torch.from_numpy(x_star)
    return np.stack([_path(reseeded(session, seed), star, watched) for seed in seeds])


def _path(session: Session, x_star: Tensor, watched: str) -> Floats:
    rows = []
    for server, _ in play(session):
        e = (server.x - x_star).numpy()
        row = [e @ e, *e]
        if watched:
            s = getattr(server.state, watched).numpy()
            row += [e @ s, s @ s]
        rows.append(row)
    return np.array(rows)
