"""Label skew: each label's samples go to the clients in proportions drawn from a symmetric Dirichlet law.

Yurochkin et al., ICML 2019 (1905.12022), after Hsu, Qi, Brown 2019 (1909.06335): small alpha, few labels a
client.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fl_core.options import Count, Positive
from fl_core.partitions import Indices, Parts, check_enough, cut_by_shares, dirichlet_shares, labels_of, topped_up


def split(
    targets: Tensor, clients: int, generator: np.random.Generator, *, alpha: Positive, min_size: Count = 1
) -> Parts:
    """For each label in ascending order: shuffle its samples, draw p ~ Dir(alpha, ..., alpha), cut by p.

    The papers draw again while a client has too few samples, which need not end. Here the law is drawn once,
    and clients with fewer than `min_size` get samples of the largest (see `topped_up`): always ends, changes
    few clients.
    """
    check_enough(len(targets), clients, min_size)
    labels = labels_of(targets, "dirichlet")
    members_of, owners_of = [], []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        shares = dirichlet_shares(alpha, clients, generator)
        members_of.append(members)
        owners_of.append(np.repeat(np.arange(clients), cut_by_shares(members, shares).sizes))
    owners = np.concatenate(owners_of)
    order: Indices = np.concatenate(members_of)[np.argsort(owners, kind="stable")]
    return topped_up(Parts.of_sizes(order, np.bincount(owners, minlength=clients)), min_size, generator)
