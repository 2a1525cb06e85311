"""CIFAR10: 50,000 + 10,000 pictures of 32x32 pixels in colour, 10 classes (Krizhevsky 2009, "Learning multiple layers
of features from tiny images").

The folder `cifar-10-batches-py`, or the archive `cifar-10-python.tar.gz` as it is downloaded, may lie in a data root,
or in CIFAR10/, cifar10/ or cifar-10/ below one. Nothing is downloaded unless the experiment says `download = true`.
"""

from __future__ import annotations

from pathlib import Path

from fl_core.datasets import Samples
from fl_core.datasets.cifar import CifarSet

SET = CifarSet(
    name="CIFAR10",
    classes=10,
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    mean=(0.4914, 0.4822, 0.4465),
    deviation=(0.2470, 0.2435, 0.2616),
)


def load(*, data_root: Path | None = None, download: bool = False) -> Samples:
    """Inputs `[m, 3, 32, 32]` float32, labels `[m]` int64; each channel has mean 0, deviation 1 over the training set.

    Args:
        download: fetch the archive (170 MB) from its author's page into this user's cache, where no root has it.

    Raises:
        MissingDataError: no root has it and none may be fetched, or its files are not what they are called.
    """
    return SET.load(data_root, download)
