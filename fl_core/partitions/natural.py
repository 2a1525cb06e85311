"""Every client is one of those the data comes from: a writer of FEMNIST, a role of Shakespeare's plays."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fl_core.errors import ExperimentError
from fl_core.options import Count
from fl_core.partitions import Indices


def split(
    targets: Tensor, clients: int, generator: np.random.Generator, ids: Tensor | None, *, min_size: Count = 1
) -> list[Indices]:
    """The samples of each id, in the order of the ids; the default where the data has ids.

    Where more ids than clients have `min_size` samples, `clients` of them are drawn uniformly: the only partition
    that may leave samples out.

    Raises:
        ExperimentError: the data has no ids, or fewer with `min_size` samples than there are clients.
    """
    if ids is None:
        message = f'"natural" needs samples that are someone\'s, and nothing says whose these {len(targets)} are'
        raise ExperimentError(message, path="data.partition.name")
    owners = ids.numpy()
    order = np.argsort(owners, kind="stable")
    _, starts = np.unique(owners[order], return_index=True)
    parts = [part for part in np.split(order, starts[1:]) if len(part) >= min_size]
    if len(parts) < clients:
        most = f" of at least {min_size} samples" if min_size > 1 else ""
        raise ExperimentError(f"is {clients}, but the data comes in {len(parts)} clients{most}", path="clients.total")
    chosen = np.sort(generator.choice(len(parts), clients, replace=False))
    return [parts[k] for k in chosen]
