"""What a step size may depend on: the problem, who takes part, the uplink operator, the local steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import gammaln

from fl_core.errors import InputError
from fl_core.theory.constants import Constants


@dataclass(frozen=True, eq=False)
class Setting:
    """One experiment, as the theorems see it.

    Args:
        constants: L, L_i, mu of the problem.
        per_round: S, the (expected) number of participants; None means all n clients.
        sampling: "uniform" without replacement, "poisson" (each with probability S/n) or "full".
        omega: of the uplink operator, where it is unbiased; else None.
        delta: of the uplink operator, where it is contractive; else None. An unbiased one that the method
            scales by
            1/(1+omega) has 1/(1+omega).
        tau: local steps a round.

    Raises InputError if one of them is out of range.
    """

    constants: Constants
    per_round: float | None = None
    sampling: Literal["uniform", "poisson", "full"] = "uniform"
    omega: float | None = 0.0
    delta: float | None = 1.0
    tau: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.S <= self.n:
            raise InputError(f"need 0 < participants <= {self.n} clients, not {self.S!r}")
        if self.omega is not None and not self.omega >= 0:
            raise InputError(f"need omega >= 0, not {self.omega!r}")
        if self.delta is not None and not 0 < self.delta <= 1:
            raise InputError(f"need 0 < delta <= 1, not {self.delta!r}")
        if self.tau < 1:
            raise InputError(f"need at least 1 local step, not {self.tau!r}")

    @property
    def n(self) -> int:
        """Number of clients."""
        return self.constants.n

    @property
    def S(self) -> float:  # noqa: N802  (the papers' symbol)
        """(Expected) number of participants."""
        return float(self.n if self.per_round is None or self.sampling == "full" else self.per_round)

    def noise(self, omega: float) -> float:
        """ω' of the mean over participants: E|(1/|S|) Σ_S C_i(v_i) - v̄|² <= ω' (1/n) Σ |v_i|².

        The operators are independent over clients. For s of n without replacement ω' = (n-s)/(s(n-1)) + ω/s,
        the first term being the variance of the sample mean. Under Poisson sampling, given its size the
        sample is uniform: ω' is the expectation over the sizes s >= 1 (in an empty round nothing moves,
        so that rates then count the rounds that are not). One client: only ω.
        """
        if self.sampling != "poisson" or self.n == self.S:
            return _without_replacement(self.n, self.S) + omega / self.S
        n, q = self.n, self.S / self.n
        s = np.arange(1, n + 1, dtype=np.float64)
        log_chance = s * np.log(q) + (n - s) * np.log1p(-q) - gammaln(s + 1) - gammaln(n - s + 1)
        chance = np.exp(log_chance - log_chance.max())
        sampled = (n - s) / (s * (n - 1)) if n > 1 else np.zeros(1)
        return float((chance * (sampled + omega / s)).sum() / chance.sum())


def _without_replacement(n: int, s: float) -> float:
    return (n - s) / (s * (n - 1)) if n > 1 else 0.0


__all__ = ["Setting"]
