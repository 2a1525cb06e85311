"""Fashion-MNIST: 60,000 + 10,000 pictures of clothes, 28x28, 10 classes (Xiao et al. 2017, 1708.07747).

The four files may lie below a data root as torchvision keeps them (FashionMNIST/raw/), or as .gz or unpacked in
FashionMNIST/, fashion-mnist/ or the root itself: Debian's package dataset-fashion-mnist puts them in
/usr/share/datasets/fashion-mnist. Nothing is downloaded unless the experiment says `download = true`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fl_core.datasets import Samples
from fl_core.datasets.idx import IdxSet, fetch_files, samples

SET = IdxSet("Fashion-MNIST", "FashionMNIST", "fashion-mnist")
_MOMENTS = (0.2860, 0.3530)
"""Mean and deviation of the training pixels in 0..1."""


def load(*, data_root: Path | None = None, download: bool = False) -> Samples:
    """Inputs `[m, 1, 28, 28]` float32 with mean 0 and deviation 1 over the training set, labels `[m]` int64.

    Args:
        download: fetch the four files (31 MB) into this user's cache, where no root has them.

    Raises:
        MissingDataError: no root has the four files, or they are not what they are called.
    """
    fetch = partial(fetch_files, SET.kind) if download else None
    return samples(SET.find(data_root, fetch), classes=10, moments=_MOMENTS)
