"""torch's Datasets as tensors: what a user's `load` may return in place of `Samples`.

A sample is `(input, target)`, or `(input, target, id)` where it is someone's; ids are whole numbers or names. Each
sample is asked for once, when the data is loaded: random transforms are then fixed for the run (by its seed).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from fl_core.datasets import Samples
from fl_core.errors import PlugInError


def in_tensors(loaded: Any) -> Any:
    """`Samples` of a training Dataset, or of a pair of Datasets (training, test); anything else as it is.

    Raises:
        PlugInError: a Dataset without samples, or whose samples have no two or three parts, or differ in shape.
    """
    parts = loaded if isinstance(loaded, tuple) else (loaded,)
    if not (1 <= len(parts) <= 2 and all(isinstance(part, Dataset) for part in parts)):
        return loaded
    inputs, targets, ids = _columns(parts[0], "the training set")
    test = None if len(parts) == 1 else _columns(parts[1], "the test set")[:2]
    return Samples(train=(inputs, targets), test=test, ids=None if ids is None else _numbered(ids))


def _columns(dataset: Dataset[Any], what: str) -> tuple[Tensor, Tensor, list[Hashable] | None]:
    rows = list(dataset) if isinstance(dataset, IterableDataset) else [dataset[j] for j in range(_length(dataset))]
    if not rows:
        raise PlugInError(f"data: {what} has no samples")
    widths = {len(row) if isinstance(row, tuple | list) else 0 for row in rows}
    if widths not in ({2}, {3}):
        raise PlugInError(f"data: a sample of {what} must be (input, target) or (input, target, id): {rows[0]!r:.80}")
    columns = list(zip(*rows, strict=True))
    ids = [part.item() if isinstance(part, Tensor) else part for part in columns[2]] if widths == {3} else None
    return _stacked(columns[0], f"inputs of {what}"), _stacked(columns[1], f"targets of {what}"), ids


def _length(dataset: Any) -> int:
    return len(dataset)


def _stacked(values: tuple[Any, ...], what: str) -> Tensor:
    try:
        return torch.stack([torch.as_tensor(value) for value in values])
    except (RuntimeError, TypeError, ValueError) as error:
        raise PlugInError(f"data: the {what} are no tensors of one shape: {error}") from None


def _numbered(ids: list[Hashable]) -> Tensor:
    """0, 1, … in the order in which the ids first appear."""
    numbers: dict[Hashable, int] = {}
    return torch.tensor([numbers.setdefault(each, len(numbers)) for each in ids])


__all__ = ["in_tensors"]
