"""The trials whose law is known exactly, each beside its oracle; and the z-scores that compare the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.algorithms.statistics import exact_methods as exact
from tests.algorithms.statistics import exact_moments as chances
from tests.algorithms.statistics.exact_moments import Floats, Mask, Quadratic, Recursion, Sample
from tests.algorithms.statistics.trials import Swap, Table, Trial, observed, quadratic_of

ROUNDS = 7
DATA: Table = {"L": 1.0, "mu": 0.2, "samples_per_client": 4, "spectrum": "each"}
N, S, D = 4, 2, 3
Z_BOUND = 4.5
"""Of |z|. 20 to 30 numbers a case, 29 cases: by chance one is beyond it in about 1 of 190 choices of the seeds."""
Oracle = Callable[[Quadratic, list[Sample], list[Mask]], Recursion]


@dataclass(frozen=True)
class Chance:
    """What is random in a case: the operator, Rand-K or Lazy(p), and who takes part; whether clients are alike."""

    k: int | None = None
    p: float | None = None
    per_round: int = N
    sampling: str = "uniform"
    homogeneous: bool = False

    @property
    def uplink(self) -> Table:
        return {"name": "lazy", "p": self.p} if self.k is None else {"name": "randk", "k": self.k}

    @property
    def masks(self) -> list[Mask]:
        return chances.lazy(D, self.p or 1.0) if self.k is None else chances.randk(D, self.k)

    @property
    def samples(self) -> list[Sample]:
        drawn = chances.poisson if self.sampling == "poisson" else chances.uniform
        return drawn(N, self.per_round)

    @property
    def clients(self) -> Table:
        return {"total": N, "per_round": self.per_round, "sampling": self.sampling}


@dataclass(frozen=True)
class Case:
    """A trial of the product, and the exact recursion it must follow in distribution.

    `watched` is the field of the product's ServerState that the oracle calls by its own name.
    """

    trial: Trial
    oracle: Oracle
    chance: Chance
    watched: str = ""

    def scores(self, seeds: int, swap: Swap | None = None) -> Floats:
        """z-scores of the moments at t = 1, 2, 3, 5, 7: `[5, statistics]`, E|x_t - x*|² first.

        A score is the difference between the mean over `seeds` runs of the product and the exact number, in standard
        errors of that mean. Seeds are 0, 1, ...: the same every time.
        """
        session = (swap or Swap()).into(self.trial.session())
        q = quadratic_of(session.problem)
        exact_ones = np.array(list(self.oracle(q, self.chance.samples, self.chance.masks).moments(ROUNDS)))
        found = observed(session, q.x_star, self.watched, range(seeds))
        spread = found.std(axis=0, ddof=1) / np.sqrt(seeds)
        # What is the same in all runs has no spread, and must be exact to rounding.
        scores = (found.mean(axis=0) - exact_ones) / np.maximum(spread, 1e-12 * (1.0 + np.abs(exact_ones)))
        return np.asarray(scores[[t - 1 for t in (1, 2, 3, 5, 7)]])


Method = Callable[..., Recursion]
WATCHED = {"diana": "h", "cofig": "h", "frecon": "h", "scaffold": "c"} | dict.fromkeys(
    ("marina", "pp-marina", "ef21", "ef21-pp"), "g"
)
"""Fields of ServerState."""


def _case(name: str, chance: Chance, method: Method, gamma: float, *more: float) -> Case:
    """A gradient method: one local step of length 1, so that γ is the server's step."""
    data = {"d": D, **DATA, "homogeneous": chance.homogeneous}
    trial = Trial({"name": name}, chance.uplink, chance.clients, ROUNDS, server_lr=gamma, data=data)
    return Case(trial, lambda q, s, m: method(q, s, m, gamma, *more), chance, WATCHED.get(name, ""))


def _local(name: str, chance: Chance, method: Method, local: exact.Local, **options: object) -> Case:
    """A method with local steps."""
    data = {"d": D, **DATA}
    trial = Trial(
        {"name": name, **options}, chance.uplink, chance.clients, ROUNDS, local.lr, local.server_lr, local.tau, data
    )
    return Case(trial, lambda q, s, m: method(q, s, m, local), chance, WATCHED.get(name, ""))


RAND_1, LAZY, SOME, POISSON = Chance(k=1), Chance(p=0.5), Chance(k=2, per_round=S), Chance(2, None, S, "poisson")
WHOLE = Chance(k=D, per_round=S)
STEPS = exact.Local(tau=2, lr=0.4, server_lr=0.9)
ONE_STEP = exact.Local(tau=1, lr=0.5, server_lr=0.8)

CASES: dict[str, Case] = {
    # All clients.
    "dcgd, alike": _case("dcgd", Chance(k=1, homogeneous=True), exact.dcgd, 0.9),
    "dcgd, rand-1": _case("dcgd", RAND_1, exact.dcgd, 0.4),
    "dcgd, lazy": _case("dcgd", LAZY, exact.dcgd, 0.4),
    "diana, rand-1": _case("diana", RAND_1, exact.diana, 0.4),
    "diana, lazy": _case("diana", LAZY, exact.diana, 0.4),
    "marina, rand-1": _case("marina", RAND_1, exact.marina, 0.6, 1 / 3),  # p = 1/(1+ω) = K/d
    "marina, lazy": _case("marina", LAZY, exact.marina, 0.6, 0.5),
    "ef21, rand-1": _case("ef21", RAND_1, exact.ef21, 0.8),
    "ef21, lazy": _case("ef21", LAZY, exact.ef21, 0.8),
    "ef14, rand-1": _local("ef14", RAND_1, exact.ef14, ONE_STEP),
    "frecon, lazy": _case("frecon", LAZY, exact.frecon, 0.6, N),
    "frecon, alike": _case("frecon", Chance(p=0.5, homogeneous=True), exact.frecon, 1.2, N),
    # Two of four clients: subsets times masks.
    "dcgd, some": _case("dcgd", SOME, exact.dcgd, 0.4),
    "diana, some": _case("diana", SOME, exact.diana, 0.4),
    "cofig, some": _case("cofig", SOME, exact.diana, 0.4),
    "cofig, poisson": _case("cofig", POISSON, exact.diana, 0.4),
    "marina, some": _case("marina", SOME, exact.marina, 0.6, 2 / 3),
    "pp-marina, some": _case("pp-marina", SOME, exact.marina, 0.6, 1 / 3),  # p = (S/n) K/d
    "pp-marina, poisson": _case("pp-marina", POISSON, exact.marina, 0.6, 1 / 3),
    "ef21-pp, some": _case("ef21-pp", SOME, exact.ef21, 0.8),
    "ef21-pp, poisson": _case("ef21-pp", POISSON, exact.ef21, 0.8),
    "frecon, some": _case("frecon", SOME, exact.frecon, 0.6, S),
    "fedavg, some": _local("fedavg", SOME, exact.averaging, STEPS),
    "fednova, some": _local("fednova", SOME, exact.averaging, STEPS),
    "fedprox, some": _local("fedprox", SOME, exact.averaging, exact.Local(3, 0.4, 0.9, mu=1.5), mu=1.5),
    "ef14, some": _local("ef14", SOME, exact.ef14, ONE_STEP),
    "scaffold 1, some": _local("scaffold", SOME, exact.scaffold, exact.Local(2, 0.4, 0.9, option=1), option=1),
    "scaffold 2, some": _local("scaffold", SOME, exact.scaffold, STEPS, option=2),
    "scaffold 2, whole": _local("scaffold", WHOLE, exact.scaffold, STEPS, option=2),
}
