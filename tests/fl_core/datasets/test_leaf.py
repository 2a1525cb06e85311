"""FEMNIST and Shakespeare, from tiny json files in LEAF's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fl_core.datasets import femnist, shakespeare
from fl_core.errors import MissingDataError
from fl_core.experiment.schema import Experiment
from fl_core.problem import assemble

pytestmark = pytest.mark.usefixtures("alone")


def write(path: Path, users: dict[str, tuple[list[Any], list[Any]]]) -> None:
    """One file as LEAF's scripts write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {user: {"x": x, "y": y} for user, (x, y) in users.items()}
    record = {"users": list(users), "num_samples": [len(y) for _, y in users.values()], "user_data": data}
    path.write_text(json.dumps(record))


def picture(value: float) -> list[float]:
    """784 pixels, the first 1, the others alike."""
    return [1.0, *[value] * 783]


@pytest.mark.parametrize("below", ["femnist", "femnist/data", "leaf/femnist", "leaf/data/femnist/data"])
def test_femnist_is_by_writer(tmp_path: Path, below: str) -> None:
    """Files in the order of their names, writers numbered as they come; the test set is everyone's."""
    write(tmp_path / below / "train" / "b.json", {"w2": ([picture(0.5)], [61])})
    write(tmp_path / below / "train" / "a.json", {"w0": ([picture(0.25), picture(0.75)], [0, 7]), "w1": ([], [])})
    write(tmp_path / below / "test" / "a.json", {"w0": ([picture(0.0)], [3]), "new": ([picture(1.0)], [4])})
    data = femnist.load(data_root=tmp_path)
    inputs, labels = data.train
    assert (inputs.shape, inputs.dtype, data.classes) == ((3, 1, 28, 28), torch.float32, 62)
    assert inputs[:, 0, 0, :2].tolist() == [[1.0, 0.25], [1.0, 0.75], [1.0, 0.5]]
    assert labels.tolist() == [0, 7, 61]
    assert data.ids.tolist() == [0, 0, 1]
    assert data.test is not None
    assert data.test[1].tolist() == [3, 4]


def test_shakespeare_has_leaf_s_vocabulary(tmp_path: Path) -> None:
    """80 characters in LEAF's order; a sample is their numbers and that of the next one. No test set, no test set."""
    write(tmp_path / "shakespeare" / "train" / "a.json", {"HAMLET": (["\nTo be", "To be,"], [",", " "])})
    data = shakespeare.load(data_root=tmp_path)
    assert data.classes == len(set(shakespeare.VOCABULARY)) == 80
    assert data.train[0].dtype is torch.uint8
    texts = ["".join(shakespeare.VOCABULARY[k] for k in row) for row in data.train[0].tolist()]
    assert texts == ["\nTo be", "To be,"]
    assert [shakespeare.VOCABULARY[k] for k in data.train[1].tolist()] == [",", " "]
    assert data.test is None


def test_a_missing_set_says_what_to_put_where(tmp_path: Path) -> None:
    """One line with the files and the roots."""
    with pytest.raises(MissingDataError, match=r"femnist is not on this machine: put femnist/train/\*\.json and"):
        femnist.load(data_root=tmp_path)


@pytest.mark.parametrize(
    ("name", "users", "text"),
    [
        ("femnist", {"w": ([picture(0)[:-1]], [0])}, "a picture has 783 pixels, not 784"),
        ("femnist", {"w": ([picture(0)], [62])}, "labels go from 0 to 61, not 62 to 62"),
        ("femnist", {"w": ([picture(0)], [])}, "user 'w' has no x and y of one length"),
        ("femnist", {"w": (["text"], [0])}, r"a\.json is not in LEAF's layout: Expected `array`"),
        ("shakespeare", {"w": (["é"], ["a"])}, "'é' is none of LEAF's 80 characters"),
        ("shakespeare", {"w": (["ab"], ["ab"])}, "y one character each"),
        ("shakespeare", {"w": (["ab", "a"], ["a", "a"])}, "pieces of one length"),
    ],
)
def test_what_is_not_in_the_layout(tmp_path: Path, name: str, users: Any, text: str) -> None:
    """A damaged file is one line that says what is wrong."""
    write(tmp_path / name / "train" / "a.json", users)
    module = {"femnist": femnist, "shakespeare": shakespeare}[name]
    with pytest.raises(MissingDataError, match=text):
        module.load(data_root=tmp_path)


@pytest.mark.parametrize("partition", [None, {"name": "natural"}, {"name": "iid"}])
def test_its_clients_are_its_writers_unless_told_otherwise(tmp_path: Path, partition: dict[str, str] | None) -> None:
    """Without a partition clients are the users; another partition mixes them."""
    users = {f"w{k}": ([picture(k / 10)] * (k + 1), [k] * (k + 1)) for k in range(4)}
    write(tmp_path / "femnist" / "train" / "a.json", users)
    tables: dict[str, Any] = {
        "name": "t",
        "rounds": 1,
        "data": {"name": "femnist"} | ({} if partition is None else {"partition": partition}),
        "model": {"name": "logistic"},
        "clients": {"total": 4},
        "algorithm": {"name": "fedavg"},
    }
    problem = assemble(Experiment.from_dict(tables), tmp_path)
    alone = [set(problem.shard(i)[1].tolist()) for i in range(4)] == [{0}, {1}, {2}, {3}]
    assert alone is (partition != {"name": "iid"})
    assert problem.shape.outputs == 62
