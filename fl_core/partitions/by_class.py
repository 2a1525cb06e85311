"""Every client has samples of few labels, each label shared evenly by those who have it."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fl_core.options import Count
from fl_core.partitions import Indices, Parts, check_enough, labels_of, topped_up


def split(targets: Tensor, clients: int, generator: np.random.Generator, *, labels_per_client: Count = 1) -> Parts:
    """Client i gets labels i·k, …, i·k+k-1 modulo their number, in a random order of labels and of clients.

    A label that no client has (more labels than clients x k) goes to the client whose turn would be next. A
    client that a rare label leaves with nothing gets a sample of the largest.
    """
    check_enough(len(targets), clients)
    labels = labels_of(targets, "by-class")
    names = generator.permutation(np.unique(labels))
    turns = generator.permutation(clients)
    k = min(labels_per_client, len(names))
    owners: list[list[int]] = [[] for _ in names]
    for turn in range(max(clients, -(-len(names) // k))):
        for offset in range(k):
            position = (turn * k + offset) % len(names)
            if turn < clients or not owners[position]:
                owners[position].append(int(turns[turn % clients]))
    parts: list[list[Indices]] = [[np.empty(0, dtype=np.int64)] for _ in range(clients)]
    for name, own in zip(names, owners, strict=True):
        members = generator.permutation(np.flatnonzero(labels == name))
        for client, piece in zip(own, np.array_split(members, len(own)), strict=True):
            parts[client].append(piece)
    return topped_up([np.concatenate(part) for part in parts], 1, generator)
