"""Fashion-MNIST itself, where it is installed; how its files are found and read is in test_idx.py."""

from __future__ import annotations

import pytest
import torch

from fl_core.datasets import fashion_mnist
from fl_core.datasets.roots import SYSTEM_FOLDERS


@pytest.mark.slow
@pytest.mark.skipif(
    not (SYSTEM_FOLDERS[0] / "fashion-mnist" / "train-images-idx3-ubyte.gz").is_file(),
    reason="Debian's dataset-fashion-mnist is not installed",
)
def test_the_real_set() -> None:
    """60,000 and 10,000 pictures, 6,000 and 1,000 a class, normalised over the training set."""
    data = fashion_mnist.load(data_root=SYSTEM_FOLDERS[0])
    assert data.test is not None
    assert data.train[0].shape == (60000, 1, 28, 28)
    assert torch.bincount(data.train[1]).tolist() == [6000] * 10
    assert torch.bincount(data.test[1]).tolist() == [1000] * 10
    assert abs(float(data.train[0].mean())) < 2e-3
    assert abs(float(data.train[0].std()) - 1) < 2e-3
