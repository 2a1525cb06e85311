"""CIFAR100: 50,000 + 10,000 pictures of 32x32 pixels in colour, 100 classes (Krizhevsky 2009, "Learning multiple
layers of features from tiny images"); the fine labels.

The folder `cifar-100-python`, or the archive `cifar-100-python.tar.gz` as it is downloaded, may lie in a data root, or
in CIFAR100/, cifar100/ or cifar-100/ below one. Nothing is downloaded unless the experiment says `download = true`.
"""

from __future__ import annotations

from pathlib import Path

from fl_core.datasets import Samples
from fl_core.datasets.cifar import CifarSet

SET = CifarSet(
    name="CIFAR100",
    classes=100,
    folder="cifar-100-python",
    archive="cifar-100-python.tar.gz",
    mean=(0.5071, 0.4865, 0.4409),
    deviation=(0.2673, 0.2564, 0.2762),
)


def load(*, data_root: Path | None = None, download: bool = False) -> Samples:
    """Inputs `[m, 3, 32, 32]` float32, labels `[m]` int64; each channel has mean 0, deviation 1 over the training set.

    Args:
        download: fetch the archive (169 MB) from its author's page into this user's cache, where no root has it.

    Raises:
        MissingDataError: no root has it and none may be fetched, or its files are not what they are called.
    """
    return SET.load(data_root, download)
