"""What a data set is here: tensors, already in clients (`FederatedData`) or to be split (`Samples`).

A data set is a file of this folder with one function, `load(*, data_root, **options)`, that returns one of the two. A
user's own may return torch's Datasets too; see `fl_core.datasets.torch_dataset`. Nothing here reads a disk;
`fl_core.datasets.roots` says where the files of a data set are looked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from fl_core.errors import PlugInError

Pair: TypeAlias = tuple[Tensor, Tensor]
"""Inputs `[m, ...]` and targets `[m]` or `[m, ...]`: one row a sample."""


def _check_pair(pair: Pair, what: str) -> None:
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(t, Tensor) for t in pair):
        raise PlugInError(f"data: {what} must be a pair of tensors (inputs, targets), not {pair!r:.80}")
    inputs, targets = pair
    if inputs.dim() == 0 or targets.dim() == 0:
        raise PlugInError(f"data: the inputs and targets of {what} must have one row a sample, not be scalars")
    if len(inputs) != len(targets):
        raise PlugInError(f"data: {what} has {len(inputs)} inputs but {len(targets)} targets")
    if len(inputs) == 0:
        raise PlugInError(f"data: {what} has no samples; leave it out, or give it at least one")


@dataclass(frozen=True)
class Samples:
    """One set of samples that a partition still has to split over the clients.

    `train` inputs `[m, ...]`, targets `[m]` or `[m, k]`; `test` likewise or None; `classes` is the number of
    labels of a classification problem (targets then are int64 in 0..classes-1), None where targets are
    numbers. `ids` int64 `[m]` says whose each training sample is, where it is someone's: partition "natural",
    which is then the default, makes a client of each. Raises PlugInError if a pair is not a pair, is empty, or
    its two halves differ in length, or if there are not as many ids as samples.
    """

    train: Pair
    test: Pair | None = None
    classes: int | None = None
    ids: Tensor | None = None

    def __post_init__(self) -> None:
        _check_pair(self.train, "the training set")
        if self.ids is not None and self.ids.shape != self.train[1].shape[:1]:
            raise PlugInError(f"data: {len(self.train[1])} samples need as many ids, not {list(self.ids.shape)}")
        if self.test is not None:
            _check_pair(self.test, "the test set")


@dataclass(frozen=True)
class FederatedData:
    """Data that already comes in clients: `train[i]` is the pair (inputs, targets) of client i.

    `constants` holds what is known exactly about the problem (L, L_i, mu, x*) where the data set was made
    with it. Raises PlugInError if there is no client, or a pair is not a pair, is empty, or its halves differ
    in length.
    """

    train: Sequence[Pair]
    test: Pair | None = None
    classes: int | None = None
    constants: Any | None = None

    def __post_init__(self) -> None:
        if len(self.train) == 0:
            raise PlugInError("data: FederatedData.train is empty; it needs one pair (inputs, targets) a client")
        for client, pair in enumerate(self.train):
            _check_pair(pair, f"client {client}")
        if self.test is not None:
            _check_pair(self.test, "the test set")


__all__ = ["FederatedData", "Pair", "Samples"]
