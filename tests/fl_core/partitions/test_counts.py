"""Counts of samples a client and class, and what sums them up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fl_core.partitions.counts import counts_of
from fl_core.shards import Shards


def shards(*targets: torch.Tensor) -> Shards:
    """Clients with these targets."""
    return Shards.of_clients([(torch.zeros(len(t), 1), t) for t in targets])


def test_counts_are_those_of_the_targets() -> None:
    """A row a client, a column a label that there is."""
    counts = counts_of(shards(torch.tensor([3, 3, 5]), torch.tensor([9]), torch.tensor([5, 5, 3, 9])))
    assert counts.labels == (3, 5, 9)
    assert counts.table.tolist() == [[2, 1, 0], [0, 0, 1], [1, 2, 1]]
    assert counts.sizes.tolist() == [3, 1, 4]
    assert counts.classes_each.tolist() == [2, 1, 3]


def test_labels_of_minus_and_plus_one_are_classes() -> None:
    """The logistic loss has them as floating-point numbers."""
    counts = counts_of(shards(torch.tensor([-1.0, 1.0]), torch.tensor([1.0, 1.0])))
    assert (counts.labels, counts.table.tolist()) == ((-1, 1), [[1, 1], [0, 2]])


@pytest.mark.parametrize("targets", [torch.tensor([0.5, 1.0]), torch.ones(2, 3)])
def test_numbers_are_no_classes(targets: torch.Tensor) -> None:
    """Regression has sizes alone."""
    counts = counts_of(shards(targets, targets))
    assert (counts.labels, counts.table.tolist()) == ((), [[2], [2]])


def test_distances_are_total_variation() -> None:
    """0 for a client like all, 1 - p for one that has a class of share p alone."""
    counts = counts_of(shards(torch.tensor([0, 1]), torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1])))
    assert np.allclose(counts.distances, 0)
    counts = counts_of(shards(torch.tensor([0]), torch.tensor([1, 1, 1])))
    assert np.allclose(counts.distances, [0.75, 0.25])
