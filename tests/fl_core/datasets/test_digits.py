"""scikit-learn's digits, read without scikit-learn."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from fl_core.datasets import digits


def test_it_is_scikit_learn_s_set() -> None:
    """The two halves together are load_digits(), pixel for pixel, each sample once."""
    from sklearn.datasets import load_digits

    data, bunch = digits.load(), load_digits()
    assert data.test is not None
    inputs = torch.cat([data.train[0], data.test[0]]).reshape(-1, 64).numpy() * 16
    targets = torch.cat([data.train[1], data.test[1]]).numpy()
    ours = np.column_stack([inputs, targets])
    theirs = np.column_stack([bunch.data, bunch.target])
    assert np.array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


def test_the_split_is_stratified_and_never_changes() -> None:
    """A fifth of every class is for the test, and always the same fifth: results compare across versions."""
    data = digits.load()
    assert data.test is not None
    (inputs, targets), (test_inputs, test_targets) = data.train, data.test
    assert (inputs.shape, test_inputs.shape, data.classes) == ((1438, 1, 8, 8), (359, 1, 8, 8), 10)
    assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)
    assert float(inputs.min()) == 0.0
    assert float(inputs.max()) == 1.0
    share = torch.bincount(test_targets) / (torch.bincount(targets) + torch.bincount(test_targets))
    assert float((share - 0.2).abs().max()) < 0.005
    digest = hashlib.sha256(test_inputs.numpy().tobytes() + test_targets.numpy().tobytes()).hexdigest()
    assert digest[:16] == "42aa5df115039bc3"
