"""Runs with the step a theorem allows, and the bound it then gives on the distance to x*, round by round."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from msgspec import structs

from fl_core.session import Session
from fl_core.theory.setting import Setting
from fl_core.theory.steps import Step, dcgd_floor
from tests.algorithms.statistics.exact_moments import Floats, Quadratic
from tests.algorithms.statistics.trials import Swap, Table, Trial, observed, play, quadratic_of, reseeded

N, D = 4, 5
ALL: Table = {"total": N}
SOME: Table = {"total": N, "per_round": 2}
RANDK: Table = {"name": "randk", "k": 3}
TOPK: Table = {"name": "topk", "k": 2}
SEEDS = 4


@dataclass(frozen=True)
class Bounded:
    """A method whose theorem gives a linear rate.

    Args:
        measures: "distance" |x - x*|² or "gap" f - f*, whichever the theorem bounds.
        shifted: V has the term (4ω'/ρ) γ² (1/n) Σ |h_i - ∇f_i(x*)|² beside it, with h_i = 0 at the start.
        shared: all clients have the same minimiser.
        floor: the theorem leaves one.
        options, data: of the algorithm and the quadratic, over those that all have.
        most: rounds, where fewer do not bring the bound to 1e-6 of its start.
    """

    name: str
    uplink: Table
    clients: Table
    measures: str = "distance"
    shifted: bool = False
    shared: bool = False
    floor: bool = False
    options: Table = field(default_factory=dict)
    data: Table = field(default_factory=dict)
    most: int = 300

    def outcome(self, swap: Swap | None = None) -> Outcome:
        """The mean over a few seeds of what is bounded, beside the bound."""
        data: Table = {"d": D, "L": 1.0, "mu": 0.25, "samples_per_client": 6, "spectrum": "each"}
        data |= {"shared_minimizer": self.shared, **self.data}
        trial = Trial({"name": self.name, **self.options}, self.uplink, self.clients, 1, 0.01, "theory", data=data)
        session = trial.session()
        setting, step = theorem(session)
        assert step.rate is not None
        rounds = min(self.most, math.ceil(math.log(1e-6) / math.log(step.rate)))
        measured = self._measured((swap or Swap()).into(session), rounds)
        q = quadratic_of(session.problem)
        bound = self._start(q, setting, step) * step.rate ** np.arange(1, rounds + 1)
        if self.floor:
            bound += dcgd_floor(setting, step.gamma)
        return Outcome(measured, bound, step.rate)

    def _measured(self, session: Session, rounds: int) -> Floats:
        q = quadratic_of(session.problem)
        H = q.H.mean(axis=0)
        total = np.zeros(rounds)
        for seed in range(SEEDS):
            for t, x in enumerate(points(session, seed, rounds)):
                e = x - q.x_star
                total[t] += (e @ e if self.measures == "distance" else 0.5 * e @ H @ e) / SEEDS
        return total

    def _start(self, q: Quadratic, setting: Setting, step: Step) -> float:
        x_star = q.x_star
        if self.measures == "gap":
            return float(0.5 * x_star @ q.H.mean(axis=0) @ x_star)
        if not self.shifted:
            return float(x_star @ x_star)
        omega = setting.omega or 0.0
        rho = setting.S / setting.n / (1.0 + omega)
        sigma = np.mean([np.sum((q.H[i] @ x_star - q.r[i]) ** 2) for i in range(q.n)])
        return float(x_star @ x_star + 4.0 * setting.noise(omega) / rho * step.gamma**2 * sigma)


@dataclass(frozen=True)
class Outcome:
    """What was measured after rounds 1, 2, ..., what the theorem allows, and its rate."""

    measured: Floats
    bound: Floats
    rate: float

    @property
    def worst(self) -> float:
        """The largest measured/bound: at most 1 where the theorem holds."""
        with np.errstate(over="ignore"):
            return float(np.nan_to_num(self.measured / self.bound, nan=np.inf).max())


def theorem(session: Session) -> tuple[Setting, Step]:
    """What the product takes the theorem to say of this session."""
    problem, clients, uplink = session.problem, session.experiment.clients, session.work.compressor
    assert problem.constants is not None
    d = problem.d
    setting = Setting(problem.constants, clients.per_round, clients.sampling, uplink.omega(d), uplink.delta(d))
    step = session.algorithm.theoretical_step(setting)
    assert step is not None
    lr = float(session.experiment.server.optimizer.options["lr"])
    assert math.isclose(lr * session.work.lr, step.gamma, rel_tol=1e-12)  # "theory" gave this very step
    return setting, step


def points(session: Session, seed: int, rounds: int) -> list[Floats]:
    """x_1, x_2, ... of the product; where a run leaves all bounds, infinity from there on."""
    session = reseeded(session, seed)
    longer = structs.replace(session.experiment, rounds=rounds)
    found: list[Floats] = []
    for server, _ in play(replace(session, experiment=longer)):
        if not bool(torch.isfinite(server.x).all()) or float(server.x.abs().max()) > 1e60:
            break
        found.append(server.x.numpy().copy())
    return found + [np.full(session.problem.d, np.inf)] * (rounds - len(found))


BOUNDED: dict[str, Bounded] = {
    "dcgd": Bounded("dcgd", RANDK, ALL, shared=True),
    "dcgd, floor": Bounded("dcgd", RANDK, ALL, floor=True),
    "dcgd, some": Bounded("dcgd", RANDK, SOME, shared=True),
    "fedavg": Bounded("fedavg", RANDK, SOME, shared=True),
    "fedprox": Bounded("fedprox", RANDK, SOME, shared=True),
    "diana": Bounded("diana", RANDK, ALL, shifted=True),
    "cofig": Bounded("cofig", RANDK, SOME, shifted=True),
    "scaffold": Bounded("scaffold", RANDK, ALL, shifted=True),
    "scaffold, some": Bounded("scaffold", RANDK, SOME, shifted=True),
    "marina": Bounded("marina", RANDK, ALL, "gap"),
    # Ill-conditioned, and a synchronisation in twenty rounds: what happens between them decides.
    "marina, rare": Bounded(
        "marina",
        {"name": "randk", "k": 4},
        ALL,
        "gap",
        options={"p": 0.05},
        data={"mu": 0.02, "homogeneous": True},
        most=100,
    ),
    "pp-marina": Bounded("pp-marina", RANDK, SOME, "gap"),
    "ef21": Bounded("ef21", TOPK, ALL, "gap"),
    "ef21, rand-k": Bounded("ef21", RANDK, ALL, "gap"),
    "ef21-pp": Bounded("ef21-pp", TOPK, SOME, "gap"),
    "ef14": Bounded("ef14", TOPK, ALL, shared=True),
}


def excess_over_attained_bound(per_round: int, swap: Swap | None = None) -> float:
    """How far E|x_t - x*|² of DCGD lies above (1 - γ mu)^t |x0 - x*|² where that is least: in standard errors, t <= 5.

    With f_i = ½|x - x*|² for all i, all clients and γ = 1/(1 + ω/n), (1-γ)² + γ² ω/n = 1 - γ: equality. With some of
    them there is room, as equal gradients have no sampling noise, but little.
    """
    data: Table = {"d": 3, "L": 1.0, "mu": 1.0, "samples_per_client": 4, "spectrum": "each", "shared_minimizer": True}
    clients = {"total": N, "per_round": per_round}
    trial = Trial({"name": "dcgd"}, {"name": "randk", "k": 1}, clients, 5, 0.01, "theory", data=data)
    session = trial.session()
    _, step = theorem(session)
    q = quadratic_of(session.problem)
    bound = float(q.x_star @ q.x_star) * (1.0 - step.gamma) ** np.arange(1, 6)
    found = observed((swap or Swap()).into(session), q.x_star, "", range(200))[:, :, 0]
    return float(((found.mean(axis=0) - bound) / (found.std(axis=0, ddof=1) / np.sqrt(len(found)) + 1e-15)).max())
