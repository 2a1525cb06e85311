"""An exact oracle for methods that are linear in their state on a quadratic: no Monte Carlo.

A round of such a method is z -> M z for one of finitely many random M. With the lazy operator (keep a
client's vector with probability q) the outcomes can be listed, and E V(z+) <= rate · V(z) for a quadratic
form V(z) = zᵀPz holds for *every* z if and only if rate · P - Σ prob Mᵀ P M is positive semidefinite.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from fl_core.theory import Constants

N, D = 3, 2


@dataclass(frozen=True)
class Quadratic:
    """f_i(x) = ½ xᵀ H_i x - b_iᵀ x with Σ b_i = 0, so that x* = 0; H `[n, d, d]`, b `[n, d]`."""

    H: np.ndarray
    b: np.ndarray
    constants: Constants

    @property
    def mean(self) -> np.ndarray:
        """The Hessian of f, `[d, d]`."""
        return self.H.mean(axis=0)


def quadratic(seed: int, convex: bool = True, shared: bool = True) -> Quadratic:
    """A random one: definite or indefinite H_i, b_i = 0 if `shared`."""
    source = np.random.default_rng(seed)
    H = []
    for _ in range(N):
        basis = np.linalg.qr(source.standard_normal((D, D)))[0]
        low = source.uniform(0.05, 0.3) if convex else -source.uniform(0.2, 1.0)
        H.append(basis @ np.diag([low, source.uniform(0.5, 3.0)]) @ basis.T)
    matrices = np.array(H)
    b = source.standard_normal((N, D))
    b = np.zeros((N, D)) if shared else b - b.mean(axis=0)
    values = np.linalg.eigvalsh(matrices.mean(axis=0))
    constants = Constants(
        L=float(np.abs(values).max()),
        L_i=torch.tensor([float(np.abs(np.linalg.eigvalsh(h)).max()) for h in matrices]).double(),
        mu=float(values.min()) if convex else 0.0,
        sigma_star_sq=float((b**2).sum(axis=1).mean()),
        convex=convex,
    )
    return Quadratic(matrices, b, constants)


@dataclass(frozen=True)
class Outcome:
    """Who takes part, and which of them keep their first and their second message."""

    chance: float
    S: tuple[int, ...]
    first: dict[int, bool]
    second: dict[int, bool]


def outcomes(s: int, q: float, messages: int = 1) -> Iterator[Outcome]:
    """All outcomes of s of n clients without replacement and lazy operators that keep with probability q."""
    subsets = list(itertools.combinations(range(N), s))
    kept = list(itertools.product([False, True], repeat=s)) if q < 1 else [(True,) * s]
    for S in subsets:
        for first in kept:
            for second in kept if messages == 2 else [(True,) * s]:
                flips = first + (second if messages == 2 else ())
                chance = float(np.prod([q if k else 1 - q for k in flips])) / len(subsets)
                yield Outcome(chance, S, dict(zip(S, first, strict=True)), dict(zip(S, second, strict=True)))


Round = Callable[[np.ndarray], np.ndarray]
"""A round on states in columns: `[k, columns]` to `[k, columns]`."""


@dataclass(frozen=True)
class Exact:
    """Outcomes of one round as matrices `[k, k]`, and their chances."""

    maps: list[tuple[float, np.ndarray]]

    @classmethod
    def of(cls, size: int, rounds: list[tuple[float, Round]]) -> Exact:
        total = sum(chance for chance, _ in rounds)
        assert total == pytest.approx(1.0, abs=1e-12)
        return cls([(chance, play(np.eye(size))) for chance, play in rounds])

    def expected(self, P: np.ndarray) -> np.ndarray:
        """Q with E V(z+) = zᵀQz."""
        return sum((chance * M.T @ P @ M for chance, M in self.maps), np.zeros_like(P))

    def excess(self, P: np.ndarray, bound: np.ndarray) -> float:
        """max over |z| = 1 of E V(z+) - zᵀ bound z, relative to P: <= 0 up to rounding if the bound holds for all z."""
        return float(np.linalg.eigvalsh(self.expected(P) - bound).max() / np.abs(P).max())

    def second_moments(self, z: np.ndarray, rounds: int) -> Iterator[np.ndarray]:
        """E z zᵀ `[k, k]` after 1, 2, ... rounds from z."""
        Z = np.outer(z, z)
        for _ in range(rounds):
            Z = sum((chance * M @ Z @ M.T for chance, M in self.maps), np.zeros_like(Z))
            yield Z

    def factor(self) -> float:
        """The asymptotic factor of E|z|² a round: the spectral radius of Z -> E M Z Mᵀ."""
        whole = sum((chance * np.kron(M, M) for chance, M in self.maps), np.zeros((1, 1)))
        return float(np.abs(np.linalg.eigvals(whole)).max())


def form(size: int, *squares: tuple[float, np.ndarray]) -> np.ndarray:
    """P with zᵀPz = Σ weight |R z|² for the given (weight, R)."""
    return sum((weight * R.T @ R for weight, R in squares), np.zeros((size, size)))


@dataclass(frozen=True)
class Oracle:
    """What a test of a step needs, in one fixture."""

    quadratic: Callable[..., Quadratic] = quadratic
    outcomes: Callable[..., Iterator[Outcome]] = outcomes
    exact: Callable[..., Exact] = Exact.of
    form: Callable[..., np.ndarray] = form
    N: int = N
    D: int = D


@pytest.fixture(scope="session")
def oracle() -> Oracle:
    """The tools of this module."""
    return Oracle()
