"""FEMNIST: EMNIST's digits and letters by writer, 28x28, 62 classes, 3,550 writers (LEAF, Caldas et al. 2018,
1812.01097). Read from the json files that LEAF's scripts make, `femnist/train/*.json` and `femnist/test/*.json` (or
`femnist/data/train`, as they leave them) below a data root. Nothing is downloaded: LEAF's scripts do that.
"""

from __future__ import annotations

from pathlib import Path

import torch

from fl_core.datasets import Pair, Samples
from fl_core.datasets.leaf import Shard, find_folder, samples
from fl_core.errors import MissingDataError

_CLASSES, _SIDE = 62, 28


def load(*, data_root: Path | None = None) -> Samples:
    """Inputs `[m, 1, 28, 28]` float32 in 0..1 as LEAF has them, labels `[m]` int64; a client is a writer.

    Raises:
        MissingDataError: no root has the files, or they are not in the layout.
    """
    return samples(find_folder("femnist", data_root), list[float], int, _tensors, _CLASSES)


def _tensors(shard: Shard[list[float], int]) -> Pair:
    wrong = next((len(x) for x in shard.x if len(x) != _SIDE * _SIDE), None)
    if wrong is not None:
        raise MissingDataError(f"femnist: a picture has {wrong} pixels, not {_SIDE * _SIDE}")
    if min(shard.y) < 0 or max(shard.y) >= _CLASSES:
        raise MissingDataError(f"femnist: labels go from 0 to {_CLASSES - 1}, not {min(shard.y)} to {max(shard.y)}")
    return torch.tensor(shard.x, dtype=torch.float32).view(-1, 1, _SIDE, _SIDE), torch.tensor(shard.y)
