"""How samples are split over the clients: one file each, `split(targets, clients, generator, **options)`.

Every partition gives each sample to exactly one client and no client nothing, is a function of its generator
alone, and always ends: `topped_up` moves samples where a law would leave a client with too few, it never
draws again.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TypeAlias, overload

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


class Parts(Sequence[Indices]):
    """Every client's indices, in one array: a list of arrays of a million clients would be larger than their data.

    Attributes:
        order: the indices, client after client `[m]`.
        offsets: where each client's begin, and the end `[clients + 1]`.
    """

    def __init__(self, order: Indices, offsets: Indices) -> None:
        self.order, self.offsets = order, offsets

    @classmethod
    def of_sizes(cls, order: Indices, sizes: Indices) -> Parts:
        """The order cut into pieces of these sizes."""
        return cls(order, np.concatenate([[0], np.cumsum(sizes)]))

    @classmethod
    def even(cls, order: Indices, clients: int) -> Parts:
        """The order cut into pieces of equal sizes, to within one; the first are the larger ones."""
        size, larger = divmod(len(order), clients)
        return cls.of_sizes(order, size + (np.arange(clients) < larger).astype(np.int64))

    @property
    def sizes(self) -> Indices:
        """The clients' numbers of samples `[clients]`."""
        return np.diff(self.offsets)

    def ascending(self) -> Parts:
        """The same parts, each in ascending order."""
        owner = np.repeat(np.arange(len(self)), self.sizes)
        return Parts(self.order[np.lexsort((self.order, owner))], self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, i: int) -> Indices: ...
    @overload
    def __getitem__(self, i: slice) -> list[Indices]: ...
    def __getitem__(self, i: int | slice) -> Indices | list[Indices]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        k = range(len(self))[i]
        part: Indices = self.order[self.offsets[k] : self.offsets[k + 1]]
        return part


def gathered(parts: Sequence[Indices] | Sequence[Tensor]) -> Parts:
    """The parts in one array."""
    if isinstance(parts, Parts):
        return parts
    sizes = np.array([len(part) for part in parts], dtype=np.int64)
    return Parts.of_sizes(np.concatenate([np.asarray(part) for part in parts]).astype(np.int64, copy=False), sizes)


def topped_up(parts: Sequence[Indices], min_size: int, generator: np.random.Generator) -> Parts:
    """The parts, none below `min_size`: samples move, one by one, from the largest part to those below it.

    Clients are served in order; the giver is the largest part (the first of equals), the sample one of its
    own drawn uniformly. Ends after at most clients x min_size moves, since the largest has more than min_size
    while one has less.
    """
    whole = gathered(parts)
    sizes = whole.sizes
    givers = [(-int(size), k) for k, size in enumerate(sizes) if size > min_size]  # no other can become the largest
    heapq.heapify(givers)
    changed: dict[int, list[int]] = {}
    for receiver in np.flatnonzero(sizes < min_size).tolist():
        own = changed.setdefault(receiver, whole[receiver].tolist())
        while len(own) < min_size:
            size, giver = givers[0]
            theirs = changed.setdefault(giver, whole[giver].tolist())
            own.append(theirs.pop(int(generator.integers(-size))))
            heapq.heapreplace(givers, (size + 1, giver))
    if changed:
        whole = gathered([np.asarray(changed.get(k, part), dtype=np.int64) for k, part in enumerate(whole)])
    return whole.ascending()


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


def cut_by_shares(indices: Indices, shares: Shares) -> Parts:
    """The indices, in their order, cut at the cumulative shares (which sum to 1), each cut rounded."""
    ends = np.rint(np.cumsum(shares)[:-1] * len(indices)).astype(np.int64)
    offsets = np.concatenate([[0], np.minimum(ends, len(indices)), [len(indices)]])
    return Parts(indices, offsets)
