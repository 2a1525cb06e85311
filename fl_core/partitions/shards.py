"""Samples sorted by label are cut into shards, each client gets some (McMahan et al. 2017, 1602.05629)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fl_core.options import Count
from fl_core.partitions import Indices, check_enough, labels_of


def split(targets: Tensor, clients: int, generator: np.random.Generator, *, per_client: Count = 2) -> list[Indices]:
    """clients x per_client shards of equal size (to within one), dealt at random, `per_client` to each."""
    check_enough(len(targets), clients, per_client)
    order = np.argsort(labels_of(targets, "shards"), kind="stable")
    shards = np.array_split(order, clients * per_client)
    dealt = generator.permutation(len(shards)).reshape(clients, per_client)
    return [np.sort(np.concatenate([shards[k] for k in hand])) for hand in dealt]
