"""The exact law, up to second moments, of the methods on quadratics: plain NumPy, nothing of the product.

With full gradients of f_i(x) = ½ xᵀ H_i x - r_iᵀ x a round of each method is z -> M z, z = (x, states, 1), for one of
finitely many M: who takes part, which mask each message gets, how the coin falls. All are listed, and E z zᵀ goes
through them: E Z+ = Σ prob M Z Mᵀ, exact for every number of rounds. The methods' rules are in `exact_methods`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
State = dict[str, Floats]
"""Blocks by name: `[d, columns]`, or `[n, d, columns]` for what each client has; "one" is `[columns]`."""


@dataclass(frozen=True)
class Quadratic:
    """H `[n, d, d]`, r `[n, d]`: ∇f_i(x) = H_i x - r_i; x* `[d]`; the methods start at x0 = 0."""

    H: Floats
    r: Floats

    @property
    def n(self) -> int:
        """Clients."""
        return int(self.H.shape[0])

    @property
    def d(self) -> int:
        """Parameters."""
        return int(self.H.shape[1])

    @property
    def x_star(self) -> Floats:
        """The minimiser of the mean."""
        return np.asarray(np.linalg.solve(self.H.mean(axis=0), self.r.mean(axis=0)))

    def gradient(self, i: int, x: Floats, one: Floats) -> Floats:
        """∇f_i at the columns of x."""
        return np.asarray(self.H[i] @ x - self.r[i][:, None] * one)


Mask = tuple[float, Floats]
"""A chance, and the diagonal C multiplies with."""


def randk(d: int, k: int) -> list[Mask]:
    """Rand-K's masks: d/K on K of d coordinates."""
    subsets = list(itertools.combinations(range(d), k))
    masks = []
    for kept in subsets:
        mask = np.zeros(d)
        mask[list(kept)] = d / k
        masks.append((1.0 / len(subsets), mask))
    return masks


def lazy(d: int, p: float) -> list[Mask]:
    """Lazy's masks: all of 1/p, or nothing."""
    return [(p, np.full(d, 1.0 / p)), (1.0 - p, np.zeros(d))]


def shrunk(masks: Sequence[Mask]) -> list[Mask]:
    """C/(1+ω) of an unbiased C: what an error-feedback method is given."""
    scale = 1.0 / (1.0 + omega(masks))
    return [(chance, scale * mask) for chance, mask in masks]


def omega(masks: Sequence[Mask]) -> float:
    """ω of such an operator: E C_jj² - 1, the same for every coordinate."""
    return float(sum(chance * mask[0] ** 2 for chance, mask in masks)) - 1.0


Sample = tuple[float, tuple[int, ...]]


def uniform(n: int, s: int) -> list[Sample]:
    """s of n without replacement."""
    subsets = list(itertools.combinations(range(n), s))
    return [(1.0 / len(subsets), S) for S in subsets]


def poisson(n: int, s: float) -> list[Sample]:
    """Each with probability s/n, independently."""
    q = s / n
    return [
        (q**size * (1.0 - q) ** (n - size), S) for size in range(n + 1) for S in itertools.combinations(range(n), size)
    ]


@dataclass(frozen=True)
class Draw:
    """What chance decides in one round: participants, the mask of (client, call), the coin."""

    S: tuple[int, ...]
    C: dict[tuple[int, int], Floats]
    coin: bool = False

    def mean(self, vectors: dict[int, Floats], like: Floats) -> Floats:
        """(1/|S|) Σ over the participants; 0 in an empty round."""
        return sum(vectors.values(), np.zeros_like(like)) / max(1, len(self.S))

    def compressed(self, i: int, v: Floats, call: int = 0) -> Floats:
        """C_i(v)."""
        return self.C[i, call][:, None] * v


Rule = Callable[[State, Draw], State]


@dataclass(frozen=True)
class Recursion:
    """A method on a problem: its blocks, its rule, and what may happen in a round.

    `first` is the rule of round 1 where it is another (no chance in it); `coin` the probability of the coin;
    `watched` the block s that is observed beside x: a vector, or the mean over clients of what each has.
    """

    quadratic: Quadratic
    vectors: tuple[str, ...]
    rule: Rule
    samples: list[Sample]
    masks: list[Mask]
    calls: int = 1
    coin: float = 0.0
    first: Rule | None = None
    of_clients: tuple[str, ...] = ()
    watched: str = ""

    def moments(self, rounds: int) -> Iterator[Floats]:
        """E|e|², E e `[d]`, and with a watched s E<e, s>, E|s|², for e = x_t - x* and t = 1, ..., rounds."""
        size = self._size
        Z = np.zeros((size, size))
        Z[-1, -1] = 1.0
        identity = self._unpack(np.eye(size))
        e = identity["x"] - self.quadratic.x_star[:, None] * identity["one"]
        s = identity[self.watched] if self.watched else np.zeros((0, size))
        s = s.mean(axis=0) if s.ndim == 3 else s
        always = self._matrices(self.rule, list(self._draws()))
        opening = always if self.first is None else self._matrices(self.first, [(1.0, Draw((), {}, True))])
        for t in range(1, rounds + 1):
            chances, maps = opening if t == 1 else always
            Z = np.einsum("m,mij,jk,mlk->il", chances, maps, Z, maps, optimize=True)
            squares = [np.trace(e @ Z @ s.T), np.trace(s @ Z @ s.T)] if self.watched else []
            yield np.array([np.trace(e @ Z @ e.T), *(e @ Z[:, -1]), *squares])

    @property
    def _size(self) -> int:
        return self.quadratic.d * (len(self.vectors) + self.quadratic.n * len(self.of_clients)) + 1

    def _draws(self) -> Iterator[tuple[float, Draw]]:
        if self.coin > 0.0:
            yield self.coin, Draw(tuple(range(self.quadratic.n)), {}, True)
        for chance, S in self.samples:
            slots = [(i, call) for i in S for call in range(self.calls)]
            for masks in itertools.product(self.masks, repeat=len(slots)):
                together = (1.0 - self.coin) * chance * math.prod(p for p, _ in masks)
                yield together, Draw(S, dict(zip(slots, (mask for _, mask in masks), strict=True)))

    def _matrices(self, rule: Rule, draws: list[tuple[float, Draw]]) -> tuple[Floats, Floats]:
        chances = np.array([chance for chance, _ in draws])
        assert abs(chances.sum() - 1.0) < 1e-12
        start = self._unpack(np.eye(self._size))
        return chances, np.stack([self._pack({**start, **rule(dict(start), draw)}) for _, draw in draws])

    def _unpack(self, z: Floats) -> State:
        n, d = self.quadratic.n, self.quadratic.d
        state: State = {"one": z[-1]}
        at = 0
        for name in self.vectors:
            state[name] = z[at : at + d]
            at += d
        for name in self.of_clients:
            state[name] = z[at : at + n * d].reshape(n, d, -1)
            at += n * d
        return state

    def _pack(self, state: State) -> Floats:
        vectors = [state[name] for name in self.vectors]
        stacks = [state[name].reshape(-1, state["one"].shape[-1]) for name in self.of_clients]
        return np.concatenate([*vectors, *stacks, state["one"][None]])


__all__ = ["Draw", "Floats", "Mask", "Quadratic", "Recursion", "Sample", "State"]
__all__ += ["lazy", "omega", "poisson", "randk", "shrunk", "uniform"]
