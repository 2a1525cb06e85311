"""Which of its samples a client uses at local step k: the gradient estimators of `[local] gradient`.

"full": all of them. "minibatch": consecutive slices of a fresh permutation each epoch. "nice": tau without replacement
(SGD-NICE; Gower et al. 2019, arXiv 1901.09401). "multi": tau with replacement. "uniform": one, uniformly.
Calls within one local step see the same samples, at whatever points: MARINA and its kind rely on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from fl_core.splitmix import Ints, permutations, picks, ragged_permutations, streams


def resolve_tau(tau: int | str | None, m: int) -> int:
    """tau as a number of samples of m: "10%" is max(1, ceil(10 m / 100)) in exact arithmetic; never more than m."""
    if tau is None:
        raise ValueError("this gradient estimator needs tau: a number of samples or a string like '10%'")
    if isinstance(tau, str):
        tau = max(1, math.ceil(Fraction(tau.rstrip("% ")) * m / 100))
    return min(tau, m)


@dataclass(frozen=True)
class Estimator:
    """Chooses samples by (seed, round, client, step).

    Args:
        kind: "full" | "minibatch" | "nice" | "multi" | "uniform".
        batch_size: samples a step for "minibatch".
        tau: samples a step for "nice" and "multi".
        epochs, steps: exactly one is given; what one round of local work is.
    """

    kind: str
    batch_size: int
    tau: int | str | None
    epochs: int | None
    steps: int | None

    def size(self, m: int) -> int:
        """Samples in a (whole) step on a client that has m."""
        if self.kind == "full":
            return m
        if self.kind == "uniform":
            return 1
        return min(self.batch_size, m) if self.kind == "minibatch" else resolve_tau(self.tau, m)

    def local_steps(self, m: int) -> int:
        """Local steps in one round on a client that has m samples."""
        if self.steps is not None:
            return self.steps
        return (self.epochs or 1) * -(-m // self.size(m))

    def indices(self, m: int, key: tuple[int, int, int], step: int) -> Tensor | None:
        """The samples of local step `step` (int64 `[b]`), or None for all of them in their stored order.

        Args:
            key: (seed, round, client).
        """
        place = self.place(m, step)
        if place is not None:
            epoch, samples = place
            return self.order(m, key, epoch)[samples]
        drawn = self.drawn(m, np.array(key[2:]), key[:2], step)
        return None if drawn is None else torch.from_numpy(drawn[0])

    def drawn(self, m: int, clients: Ints, key: tuple[int, int], step: int) -> Ints | None:
        """The samples of a local step of clients that have m each, `[n, b]`; None as for `indices`. No "minibatch".

        Args:
            key: (seed, round).
        """
        b = self.size(m)
        if b >= m and self.kind != "multi":
            return None
        starts = streams(clients, *key, "sample", step)
        return picks(starts, m, b) if self.kind == "multi" else permutations(starts, m)[:, :b]

    def place(self, m: int, step: int) -> tuple[int, slice] | None:
        """Of "minibatch" on fewer than m samples: the epoch of a local step, and where in its order the samples lie."""
        b = self.size(m)
        if self.kind != "minibatch" or b >= m:
            return None
        epoch, position = divmod(step, -(-m // b))
        return epoch, slice(position * b, (position + 1) * b)

    def order(self, m: int, key: tuple[int, int, int], epoch: int) -> Tensor:
        """In which order "minibatch" goes through the samples in an epoch: int64 `[m]`."""
        starts = streams(np.array(key[2:]), *key[:2], "epoch", epoch)
        return torch.from_numpy(permutations(starts, m)[0])

    def orders(self, m: Ints, clients: Ints, key: tuple[int, int], epoch: int) -> Ints:
        """The same of clients that have m `[n]` samples, one after the other: `[Σ m_i]`."""
        starts = streams(clients, *key, "epoch", epoch)
        first = int(m[0])
        return permutations(starts, first).reshape(-1) if (m == first).all() else ragged_permutations(starts, m)


class Orders:
    """`Estimator.order` of clients who ask one after the other: those of several are drawn at once.

    Args:
        key: (seed, round).
        sizes: of clients, how many samples each has.
    """

    def __init__(
        self, estimator: Estimator, key: tuple[int, int], clients: Sequence[int], sizes: Callable[[Ints], Ints]
    ) -> None:
        self._estimator = estimator
        self._key = key
        self._clients = np.array(clients)
        self._sizes = sizes
        self._drawn: dict[int, tuple[int, Sequence[Tensor]]] = {}  # epoch -> the first of some rows, and their orders

    def of(self, row: int, epoch: int) -> Tensor:
        """In which order the client of this row goes through its samples in an epoch: int64 `[m]`."""
        first, orders = self._drawn.get(epoch, (0, ()))
        if not first <= row < first + len(orders):
            first, orders = row, self._draw(row, epoch)
            if epoch < _EPOCHS:
                self._drawn[epoch] = (first, orders)
        return orders[row - first]

    def _draw(self, row: int, epoch: int) -> Sequence[Tensor]:
        """From this row on, of as many as make no great number; of one in an epoch that is not kept."""
        clients = self._clients[row : row + (_TOGETHER if epoch < _EPOCHS else 1)]
        m = self._sizes(clients)
        count = max(1, int(np.searchsorted(np.cumsum(m), _NUMBERS, side="right")))
        drawn = self._estimator.orders(m[:count], clients[:count], self._key, epoch)
        return torch.split(torch.from_numpy(drawn), m[:count].tolist())


_TOGETHER = 64
_NUMBERS = 1 << 16
"""Positions that are drawn at once: half a megabyte, for each of the first epochs of a round."""
_EPOCHS = 16
