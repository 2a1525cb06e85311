"""How a problem's samples are spread: counts a client and class, and a few numbers that sum them up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from fl_core.partitions import Indices, Shares

if TYPE_CHECKING:
    from fl_core.shards import Shards


@dataclass(frozen=True, eq=False)
class Counts:
    """Samples a client and class.

    Attributes:
        table: int64 `[n, classes]`; one column where targets are numbers.
        labels: of the columns, as the data has them; empty where targets are numbers.
    """

    table: Indices
    labels: tuple[int, ...]

    @property
    def sizes(self) -> Indices:
        """m_i `[n]`."""
        sizes: Indices = self.table.sum(axis=1, dtype=np.int64)
        return sizes

    @property
    def classes_each(self) -> Indices:
        """`[n]`: how many classes a client has samples of."""
        classes: Indices = (self.table > 0).sum(axis=1, dtype=np.int64)
        return classes

    @property
    def distances(self) -> Shares:
        """`[n]`: total variation ½ Σ_c |p_ic - p_c| between a client's classes and everyone's; 0 alike, 1 disjoint."""
        overall = self.table.sum(axis=0) / self.table.sum()
        distances: Shares = 0.5 * np.abs(self.table / self.sizes[:, None] - overall).sum(axis=1)
        return distances


def counts_of(shards: Shards) -> Counts:
    """The counts of all clients' data, which must be in this process.

    Classes are whole numbers that some sample has as its target; targets that are no such numbers, or several a
    sample, make one column of all samples.
    """
    targets = shards.whole()[1]
    sizes = torch.tensor([shards.size(i) for i in range(shards.n)])
    if targets.dim() != 1 or not bool((targets == targets.round()).all() if targets.is_floating_point() else True):
        return Counts(sizes[:, None].numpy(), ())
    labels, columns = torch.unique(targets.to(torch.int64), return_inverse=True)
    client = torch.repeat_interleave(torch.arange(shards.n), sizes)
    flat = torch.bincount(client * len(labels) + columns, minlength=shards.n * len(labels))
    return Counts(flat.view(shards.n, len(labels)).numpy(), tuple(labels.tolist()))


__all__ = ["Counts", "counts_of"]
