"""scikit-learn's digits: 1,797 handwritten digits of 8x8 pixels, 10 classes (Alpaydin and Kaynak, UCI, 1998).

The file is read from the installed package without importing it: that import costs two seconds, the file 20
ms.
"""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from fl_core.datasets import Samples
from fl_core.errors import MissingDataError

_SPLIT_SEED = 20220203
_TEST_SHARE = 0.2


def load() -> Samples:
    """Inputs `[m, 1, 8, 8]` in 0..1, labels `[m]`; 1,438 to train, 359 to test, the same ones for ever.

    The test set has a fifth of every class, rounded, drawn by a constant seed.
    """
    table = _table()
    inputs = torch.from_numpy((table[:, :-1] / 16.0).astype(np.float32)).reshape(-1, 1, 8, 8)
    labels = table[:, -1].astype(np.int64)
    train, test = _split(labels)
    targets = torch.from_numpy(labels)
    return Samples(train=(inputs[train], targets[train]), test=(inputs[test], targets[test]), classes=10)


def _table() -> npt.NDArray[np.float64]:
    """`[1797, 65]`: 64 pixels in 0..16 and the label."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise MissingDataError(
            "the data set digits comes with scikit-learn, which is not installed: pip install scikit-learn"
        )
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if path.is_file():
        with gzip.open(path, "rt", encoding="ascii") as file:
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits  # another version of the package keeps the file elsewhere

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target]).astype(np.float64)


def _split(labels: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Indices (train, test), each ascending: of every class the same share is for the test."""
    source = np.random.Generator(np.random.PCG64(_SPLIT_SEED))
    test = []
    for label in range(10):
        members = np.flatnonzero(labels == label)
        test.append(source.permutation(members)[: round(_TEST_SHARE * len(members))])
    chosen = np.sort(np.concatenate(test))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen
