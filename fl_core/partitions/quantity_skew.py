"""Clients of different sizes, all with the same distribution: sizes follow a symmetric Dirichlet law."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fl_core.options import Count, Positive
from fl_core.partitions import Parts, check_enough, cut_by_shares, dirichlet_shares, topped_up


def split(
    targets: Tensor, clients: int, generator: np.random.Generator, *, alpha: Positive, min_size: Count = 1
) -> Parts:
    """A random permutation cut by p ~ Dir(alpha, ..., alpha) (Li et al. 2022, 2102.02079, section 4.3)."""
    check_enough(len(targets), clients, min_size)
    order = generator.permutation(len(targets))
    return topped_up(cut_by_shares(order, dirichlet_shares(alpha, clients, generator)), min_size, generator)
