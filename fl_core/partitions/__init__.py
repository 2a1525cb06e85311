"""How samples are split over the clients: one file each, `split(targets, clients, generator, **options)`.

Every partition gives each sample to exactly one client and no client nothing, is a function of its generator
alone, and always ends: `topped_up` moves samples where a law would leave a client with too few, it never
draws again.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fl_core.errors import ExperimentError

Indices: TypeAlias = npt.NDArray[np.int64]
Shares: TypeAlias = npt.NDArray[np.float64]


def labels_of(targets: Tensor, partition: str) -> Indices:
    """The labels as int64 `[m]`. Raises ExperimentError if the targets are no labels."""
    values = targets.detach().cpu().numpy()
    if values.ndim != 1 or not np.array_equal(values, np.round(values)):
        message = f'"{partition}" splits by label, but the targets of this data set are numbers'
        raise ExperimentError(message, path="data.partition.name")
    return values.astype(np.int64)


def check_enough(samples: int, clients: int, min_size: int = 1) -> None:
    """Raise ExperimentError unless every client can have `min_size` samples."""
    if samples < clients * min_size:
        each = "one" if min_size == 1 else str(min_size)
        message = f"{clients} clients cannot have {each} of {samples} samples each"
        raise ExperimentError(message, path="clients.total")


def topped_up(parts: list[Indices], min_size: int, generator: np.random.Generator) -> list[Indices]:
    """The parts, none below `min_size`: samples move, one by one, from the largest part to those below it.

    Clients are served in order; the giver is the largest part (the first of equals), the sample one of its
    own drawn uniformly. Ends after at most clients x min_size moves, since the largest has more than min_size
    while one has less.
    """
    kept = [list(part) for part in parts]
    for receiver in kept:
        while len(receiver) < min_size:
            giver = max(kept, key=len)
            receiver.append(giver.pop(int(generator.integers(len(giver)))))
    return [np.sort(np.asarray(part, dtype=np.int64)) for part in kept]


def dirichlet_shares(alpha: float, clients: int, generator: np.random.Generator) -> Shares:
    """p ~ Dir(alpha, ..., alpha) `[clients]`, sums to 1.

    For tiny alpha every gamma variate may underflow to 0; the law then has all its mass on one client, drawn
    uniformly.
    """
    shares = generator.dirichlet(np.full(clients, alpha))
    if np.isfinite(shares).all() and shares.sum() > 0:
        return shares
    one = np.zeros(clients)
    one[int(generator.integers(clients))] = 1.0
    return one


def cut_by_shares(indices: Indices, shares: Shares) -> list[Indices]:
    """The indices, in their order, cut at the cumulative shares (which sum to 1), each cut rounded."""
    ends = np.rint(np.cumsum(shares)[:-1] * len(indices)).astype(np.int64)
    return np.split(indices, np.minimum(ends, len(indices)))
