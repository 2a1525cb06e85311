"""Label skew: each label's samples go to the clients in proportions drawn from a symmetric Dirichlet law.

Yurochkin et al., ICML 2019 (1905.12022), after Hsu, Qi, Brown 2019 (1909.06335): small alpha, few labels a
client.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fl_core.options import Count, Positive
from fl_core.partitions import Indices, check_enough, cut_by_shares, dirichlet_shares, labels_of, topped_up


def split(
    targets: Tensor, clients: int, generator: np.random.Generator, *, alpha: Positive, min_size: Count = 1
) -> list[Indices]:
    """For each label in ascending order: shuffle its samples, draw p ~ Dir(alpha, ..., alpha), cut by p.

    The papers draw again while a client has too few samples, which need not end. Here the law is drawn once,
    and clients with fewer than `min_size` get samples of the largest (see `topped_up`): always ends, changes
    few clients.
    """
    check_enough(len(targets), clients, min_size)
    labels = labels_of(targets, "dirichlet")
    parts: list[list[Indices]] = [[] for _ in range(clients)]
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        shares = dirichlet_shares(alpha, clients, generator)
        for part, piece in zip(parts, cut_by_shares(members, shares), strict=True):
            part.append(piece)
    return topped_up([np.concatenate(part) for part in parts], min_size, generator)
