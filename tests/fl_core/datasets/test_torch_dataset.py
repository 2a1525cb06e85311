"""torch's Datasets from a user's load: as tensors, with or without ids, and what is said of those that cannot be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from fl_core.datasets import Samples
from fl_core.datasets.torch_dataset import in_tensors
from fl_core.errors import PlugInError, UserCodeError
from fl_core.experiment.schema import Experiment
from fl_core.problem import assemble

A, B = torch.arange(12.0).reshape(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])


class Rows(Dataset[Any]):
    """A map-style Dataset of these rows."""

    def __init__(self, *rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, j: int) -> Any:
        return self.rows[j]


class Stream(IterableDataset[Any]):
    """The same, without an order to ask in."""

    def __iter__(self) -> Iterator[Any]:
        return iter([(1.0, 0), (2.0, 1)])


def test_a_dataset_is_samples() -> None:
    """Inputs and targets are stacked, in the Dataset's order; a second Dataset is the test set."""
    data = in_tensors((TensorDataset(A, B), TensorDataset(A[:2], B[:2])))
    assert isinstance(data, Samples)
    assert torch.equal(data.train[0], A)
    assert torch.equal(data.train[1], B)
    assert data.test is not None
    assert torch.equal(data.test[0], A[:2])
    assert data.ids is None


def test_numbers_and_arrays_become_tensors() -> None:
    """Samples need not be tensors: NumPy arrays, floats and ints keep their kind."""
    data = in_tensors(Rows((np.ones((2, 3), np.float32), 4), (np.zeros((2, 3), np.float32), 5)))
    assert (data.train[0].shape, data.train[0].dtype) == ((2, 2, 3), torch.float32)
    assert data.train[1].tolist() == [4, 5]
    assert in_tensors(Stream()).train[0].tolist() == [1.0, 2.0]


def test_a_third_part_says_whose_it_is() -> None:
    """Names or numbers, numbered in the order in which they first appear."""
    names = in_tensors(Rows((1.0, 0, "ann"), (2.0, 1, "bob"), (3.0, 0, "ann")))
    assert names.ids.tolist() == [0, 1, 0]
    assert in_tensors(TensorDataset(A, B, torch.tensor([5, 5, 3, 3, 5, 9]))).ids.tolist() == [0, 0, 1, 1, 0, 2]


def test_anything_else_is_left_alone() -> None:
    """Samples, and what is none of all, are for the caller to judge."""
    samples = Samples(train=(A, B))
    for given in (samples, 3, (A, B), (TensorDataset(A), 3), ()):
        assert in_tensors(given) is given


@pytest.mark.parametrize(
    ("dataset", "text"),
    [
        (Rows(), "data: the training set has no samples"),
        (Rows(1.0, 2.0), r"a sample of the training set must be \(input, target\) or \(input, target, id\): 1.0"),
        (Rows((1.0, 2), (1.0, 2, 3)), "must be"),
        (Rows((torch.ones(2), 0), (torch.ones(3), 0)), "the inputs of the training set are no tensors of one shape"),
        (Rows((1.0, "cat"), (2.0, "dog")), "the targets of the training set are no tensors of one shape"),
    ],
)
def test_what_cannot_be_tensors(dataset: Any, text: str) -> None:
    """Said in words, before a run begins."""
    with pytest.raises(PlugInError, match=text):
        in_tensors(dataset)


HERS = """
import torch
from torch.utils.data import Dataset

class Mine(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, j):
        return torch.randn(3), j % 2{more}

def load():
    return Mine(), Mine()
"""


def hers(experiment: Callable[..., Experiment], more: str, **data: Any) -> Experiment:
    """An experiment on the user's own Dataset."""
    return experiment(
        {("data", "my_data.py"): HERS.format(more=more)},
        data={"name": "my_data.py", **data},
        model={"name": "logistic", "loss": "cross_entropy"},
        clients={"total": 2},
    )


def test_her_dataset_runs(experiment: Callable[..., Experiment]) -> None:
    """With ids her clients are those; without, a partition splits them. Random samples are drawn once, by the seed."""
    natural = assemble(hers(experiment, ", 'abbbbbbb'[j]"))
    assert [natural.shards.size(i) for i in range(2)] == [1, 7]
    assert natural.shape.outputs == 2
    split = assemble(hers(experiment, "", partition={"name": "iid"}))
    assert [split.shards.size(i) for i in range(2)] == [4, 4]
    again = assemble(hers(experiment, "", partition={"name": "iid"}))
    assert torch.equal(split.shards.whole()[0], again.shards.whole()[0])


def test_her_mistake_is_hers(experiment: Callable[..., Experiment]) -> None:
    """What her __getitem__ raises comes with her file and line."""
    with pytest.raises(UserCodeError, match=r"my_data\.py.*\n?.*ZeroDivisionError|ZeroDivisionError.*my_data\.py"):
        assemble(hers(experiment, ", 1 // 0"))
