"""The exact law, up to second moments, of the methods on quadratics: plain NumPy, nothing of the product.

With full gradients of f_i(x) = ½ xᵀ H_i x - r_iᵀ x a round of each method is z -> M z, z = (x, states, 1), for one of
finitely many M: who takes part, which mask each message gets, how the coin falls. All are listed, and E z zᵀ goes
through them: E Z+ = Σ prob M Z Mᵀ, exact for every number of rounds. The rules are written down from the papers'
update formulas (sheet, section 1); shifts of the server are the mean of the clients' own, which is what they must be.
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


# --- the methods --------------------------------------------------------------------------------------------------


def dcgd(q: Quadratic, samples: list[Sample], masks: list[Mask], gamma: float) -> Recursion:
    """x - γ mean_S C_i(∇f_i(x))."""

    def rule(z: State, draw: Draw) -> State:
        m = {i: draw.compressed(i, q.gradient(i, z["x"], z["one"])) for i in draw.S}
        return {"x": z["x"] - gamma * draw.mean(m, z["x"])}

    return Recursion(q, ("x",), rule, samples, masks)


def diana(q: Quadratic, samples: list[Sample], masks: list[Mask], gamma: float) -> Recursion:
    """G = mean_n h_i + mean_S C_i(∇f_i(x) - h_i), h_i += α C_i(...); with S < n it is COFIG with one sample."""
    alpha = 1.0 / (1.0 + omega(masks))

    def rule(z: State, draw: Draw) -> State:
        m = {i: draw.compressed(i, q.gradient(i, z["x"], z["one"]) - z["h"][i]) for i in draw.S}
        g = z["h"].mean(axis=0) + draw.mean(m, z["x"])
        h = z["h"].copy()
        for i, sent in m.items():
            h[i] += alpha * sent
        return {"x": z["x"] - gamma * g, "h": h}

    return Recursion(q, ("x",), rule, samples, masks, of_clients=("h",), watched="h")


def marina(q: Quadratic, samples: list[Sample], masks: list[Mask], gamma: float, p: float) -> Recursion:
    """g = ∇f(x) with probability p, over all n; else g + mean_S C_i(∇f_i(x) - ∇f_i(x before the last step))."""

    def rule(z: State, draw: Draw) -> State:
        x, one = z["x"], z["one"]
        if draw.coin:
            g = np.mean([q.gradient(i, x, one) for i in range(q.n)], axis=0)
        else:
            m = {i: draw.compressed(i, q.gradient(i, x, one) - q.gradient(i, z["before"], one)) for i in draw.S}
            g = z["g"] + draw.mean(m, x)
        return {"x": x - gamma * g, "before": x, "g": g}

    return Recursion(q, ("x", "before", "g"), rule, samples, masks, coin=p, first=rule, watched="g")


def ef21(q: Quadratic, samples: list[Sample], masks: list[Mask], gamma: float) -> Recursion:
    """e_i += C_i(∇f_i(x) - e_i) for i in S, G = mean over all n of e_i; round 1: e_i = ∇f_i(x0). EF21-PP too."""
    small = shrunk(masks)

    def step(z: State, e: Floats) -> State:
        return {"x": z["x"] - gamma * e.mean(axis=0), "e": e}

    def first(z: State, draw: Draw) -> State:
        return step(z, np.stack([q.gradient(i, z["x"], z["one"]) for i in range(q.n)]))

    def rule(z: State, draw: Draw) -> State:
        e = z["e"].copy()
        for i in draw.S:
            e[i] += draw.compressed(i, q.gradient(i, z["x"], z["one"]) - z["e"][i])
        return step(z, e)

    return Recursion(q, ("x",), rule, samples, small, first=first, of_clients=("e",), watched="e")


@dataclass(frozen=True)
class Local:
    """Local work: τ steps of η_l, the server's η_g; SCAFFOLD's option; FedProx's μ."""

    tau: int
    lr: float
    server_lr: float
    option: int = 2
    mu: float = 0.0


def averaging(q: Quadratic, samples: list[Sample], masks: list[Mask], local: Local) -> Recursion:
    """FedAvg, and FedNova where all clients are of one size; with μ FedProx: x + η_g mean_S C_i(y_i - x)."""

    def rule(z: State, draw: Draw) -> State:
        moved = {}
        for i in draw.S:
            y = z["x"]
            for _ in range(local.tau):
                y = y - local.lr * (q.gradient(i, y, z["one"]) + local.mu * (y - z["x"]))
            moved[i] = draw.compressed(i, y - z["x"])
        return {"x": z["x"] + local.server_lr * draw.mean(moved, z["x"])}

    return Recursion(q, ("x",), rule, samples, masks)


def ef14(q: Quadratic, samples: list[Sample], masks: list[Mask], local: Local) -> Recursion:
    """v_i = C_i(e_i + x - y_i), e_i keeps the rest, x - η_g mean_S v_i; τ = 1."""
    small = shrunk(masks)

    def rule(z: State, draw: Draw) -> State:
        e, sent = z["e"].copy(), {}
        for i in draw.S:
            due = e[i] + local.lr * q.gradient(i, z["x"], z["one"])
            sent[i] = draw.compressed(i, due)
            e[i] = due - sent[i]
        return {"x": z["x"] - local.server_lr * draw.mean(sent, z["x"]), "e": e}

    return Recursion(q, ("x",), rule, samples, small, of_clients=("e",))


def scaffold(q: Quadratic, samples: list[Sample], masks: list[Mask], local: Local) -> Recursion:
    """τ steps along ∇f_i(y) - c_i + c; c_i += α C(c_i^+ - c_i) for i in S; x + η_g mean_S C'(y_i - x)."""
    alpha = 1.0 / (1.0 + omega(masks))

    def rule(z: State, draw: Draw) -> State:
        x, one, c_i = z["x"], z["one"], z["c"].copy()
        c = z["c"].mean(axis=0)
        moved = {}
        for i in draw.S:
            y = x
            for _ in range(local.tau):
                y = y - local.lr * (q.gradient(i, y, one) - z["c"][i] + c)
            fresh = q.gradient(i, x, one) if local.option == 1 else z["c"][i] - c + (x - y) / (local.tau * local.lr)
            moved[i] = draw.compressed(i, y - x, 0)
            c_i[i] += alpha * draw.compressed(i, fresh - z["c"][i], 1)
        return {"x": x + local.server_lr * draw.mean(moved, x), "c": c_i}

    return Recursion(q, ("x",), rule, samples, masks, calls=2, of_clients=("c",), watched="c")


def frecon(q: Quadratic, samples: list[Sample], masks: list[Mask], gamma: float, participants: float) -> Recursion:
    """q_i = C(∇f_i(x) - ∇f_i(before)), u_i = C'(∇f_i(before) - h_i): two masks a client; round 1: g = ∇f(x0)."""
    alpha = 1.0 / (1.0 + omega(masks))
    lam = participants * alpha / (2.0 * q.n)

    def first(z: State, draw: Draw) -> State:
        g = np.mean([q.gradient(i, z["x"], z["one"]) for i in range(q.n)], axis=0)
        return {"x": z["x"] - gamma * g, "before": z["x"], "g": g}

    def rule(z: State, draw: Draw) -> State:
        x, one, h = z["x"], z["one"], z["h"].copy()
        change, shift = {}, {}
        for i in draw.S:
            before = q.gradient(i, z["before"], one)
            change[i] = draw.compressed(i, q.gradient(i, x, one) - before, 0)
            shift[i] = draw.compressed(i, before - z["h"][i], 1)
            h[i] += alpha * shift[i]
        g = draw.mean(change, x) + (1.0 - lam) * z["g"] + lam * (draw.mean(shift, x) + z["h"].mean(axis=0))
        return {"x": x - gamma * g, "before": x, "g": g, "h": h}

    blocks = ("x", "before", "g")
    return Recursion(q, blocks, rule, samples, masks, calls=2, first=first, of_clients=("h",), watched="h")


__all__ = [
    "Local",
    "Quadratic",
    "Recursion",
    "averaging",
    "dcgd",
    "diana",
    "ef14",
    "ef21",
    "frecon",
    "lazy",
    "marina",
    "omega",
    "poisson",
    "randk",
    "scaffold",
    "uniform",
]
