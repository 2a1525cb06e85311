"""What a data set may be made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fl_core.datasets import FederatedData, Samples
from fl_core.errors import PlugInError

PAIR = (torch.zeros(3, 2), torch.zeros(3))


@pytest.mark.parametrize(
    ("pair", "text"),
    [
        ((torch.zeros(3, 2), torch.zeros(2)), "data: client 1 has 3 inputs but 2 targets"),
        ((torch.zeros(0, 2), torch.zeros(0)), "data: client 1 has no samples; leave it out, or give it at least one"),
        ((torch.zeros(3, 2),), "data: client 1 must be a pair of tensors (inputs, targets), not "),
        ((torch.zeros(3, 2), [0, 1, 2]), "data: client 1 must be a pair of tensors (inputs, targets), not "),
        ((torch.tensor(1.0), torch.tensor(1.0)), "data: the inputs and targets of client 1 must have one row a sample"),
    ],
)  # fmt: skip
def test_a_client_that_is_no_pair_of_rows(pair: Any, text: str) -> None:
    """Her load() is told which client is wrong and how."""
    with pytest.raises(PlugInError) as caught:
        FederatedData(train=[PAIR, pair])
    assert str(caught.value).startswith(text)


def test_the_test_set_is_checked_too() -> None:
    """Also in a set that is still to be split."""
    with pytest.raises(PlugInError, match="the test set has 3 inputs but 2 targets"):
        Samples(train=PAIR, test=(torch.zeros(3, 2), torch.zeros(2)))


def test_no_client_at_all() -> None:
    """Data without clients is no federation."""
    with pytest.raises(PlugInError, match=r"FederatedData\.train is empty"):
        FederatedData(train=[])
