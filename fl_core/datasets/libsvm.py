"""Files in LIBSVM's format (`label index:value ...`), split evenly over the clients.

Two-valued labels become -1 and +1, for the "logistic" loss; other labels stay numbers, for "mse".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from sklearn.datasets import load_svmlight_files

from fl_core.datasets import FederatedData, Pair
from fl_core.datasets.roots import find_file
from fl_core.errors import ExperimentError
from fl_core.randomness import numpy_generator
from fl_core.theory.linear import Floats

LARGEST_BYTES = 8 * 2**30
"""Size in memory beyond which a file is refused rather than made dense."""


def load(
    *,
    data_root: Path | None = None,
    clients: int,
    seed: int,
    path: str,
    test_path: str | None = None,
    order: Literal["shuffled", "by-label"] = "shuffled",
) -> FederatedData:
    """Dense float64 inputs `[m, features]` and targets `[m]` a client; sizes differ by at most one.

    Args:
        data_root: where relative paths are looked for first; see `fl_core.datasets.roots`.
        clients: n.
        seed: of the run; it decides the shuffling.
        path: the training file; absolute, or relative to a data root or the current folder.
        test_path: the test file, likewise. Both get the number of features of the larger.
        order: "shuffled", or "by-label": sorted by label first, so that most clients hold one label only.

    Raises MissingDataError where a file is not there, and ExperimentError where one is not in the format, is
    too large to be dense, has labels in the test set that are not in the training set, or has fewer rows than
    there are clients.
    """
    if order not in ("shuffled", "by-label"):
        raise ExperimentError(f'must be "shuffled" or "by-label", not {order!r}', path="data.order")
    paths = [find_file(p, data_root, "libsvm") for p in (path, test_path) if p is not None]
    tables = _read(paths)
    labels = _Labels(tables[0][1])
    inputs, targets = tables[0][0], labels.normalised(tables[0][1], path)
    if len(targets) < clients:
        raise ExperimentError(f"{path} has {len(targets)} rows for {clients} clients", path="clients.total")
    if order == "by-label":
        rows = np.argsort(targets, kind="stable")
    else:
        rows = numpy_generator(seed, "libsvm", "shuffle").permutation(len(targets))
    train = [_pair(inputs[part], targets[part]) for part in np.array_split(rows, clients)]
    test = None
    if test_path is not None:
        test = _pair(tables[1][0], labels.normalised(tables[1][1], test_path))
    return FederatedData(train=train, test=test)


class _Labels:
    """How a training set's labels become targets: two values become -1 and +1, the larger +1."""

    def __init__(self, labels: Floats) -> None:
        values = np.unique(labels)
        self.values = np.array([-1.0, 1.0]) if set(values) <= {-1.0, 1.0} else values

    def normalised(self, labels: Floats, path: str) -> Floats:
        if len(self.values) != 2:
            return labels
        unknown = set(labels) - set(self.values)
        if unknown:
            raise ExperimentError(
                f"{path} has the label {min(unknown):g}, where the training set has {self.values[0]:g} and "
                f"{self.values[1]:g}",
                path="data.test_path",
            )
        return np.where(labels == self.values[1], 1.0, -1.0)


def _read(paths: list[Path]) -> list[tuple[Floats, Floats]]:
    """(inputs `[m, features]`, labels `[m]`) of each file, all with the same number of features."""
    names = " and ".join(str(p) for p in paths)
    try:
        read: list[Any] = load_svmlight_files([str(p) for p in paths], dtype=np.float64)
    except (ValueError, OverflowError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{names}: not in LIBSVM's format: {error}", path="data.path") from error
    size = sum(8 * table.shape[0] * table.shape[1] for table in read[::2])
    if size > LARGEST_BYTES:
        raise ExperimentError(f"{names} would take {size / 2**30:.0f} GiB as dense matrices", path="data.path")
    if any(table.shape[0] == 0 for table in read[::2]):
        raise ExperimentError(f"{names}: a file without rows", path="data.path")
    return [(table.toarray(), labels) for table, labels in zip(read[::2], read[1::2], strict=True)]


def _pair(inputs: Floats, targets: Floats) -> Pair:
    return torch.from_numpy(inputs), torch.from_numpy(targets)


__all__ = ["LARGEST_BYTES", "load"]
