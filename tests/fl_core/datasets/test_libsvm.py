"""LIBSVM files: a tiny one written here, and the real ones beside the repository where they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fl_core.datasets import FederatedData
from fl_core.datasets.libsvm import load
from fl_core.errors import ExperimentError, MissingDataError
from fl_core.theory import LinearProblem, minimize, smoothness

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"


def rows(data: FederatedData) -> tuple[torch.Tensor, torch.Tensor]:
    """All clients' samples, back together."""
    return torch.cat([a for a, _ in data.train]), torch.cat([b for _, b in data.train])


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Seven rows, five features, CRLF line ends, a label-only row, labels 0 and 1."""
    lines = ["1 1:1 3:0.5", "0 2:2", "1", "0 5:-1.25", "1 1:3", "0 1:4 2:1", "1 4:1e-3"]
    (tmp_path / "tiny").write_bytes("\r\n".join(lines).encode() + b"\r\n")
    (tmp_path / "tiny.t").write_text("0 1:7\n1 2:8\n")
    return tmp_path


def test_tiny_file(tiny: Path) -> None:
    """Every value where it belongs, labels -1 and +1, sizes that differ by at most one, test with as many features."""
    data = load(data_root=tiny, clients=3, seed=1, path="tiny", test_path="tiny.t")
    assert sorted(len(b) for _, b in data.train) == [2, 2, 3]
    inputs, targets = rows(data)
    assert inputs.shape == (7, 5)
    assert inputs.dtype == targets.dtype == torch.float64
    found = sorted(zip(targets.tolist(), inputs.tolist(), strict=True))
    assert found == sorted(
        [
            (1.0, [1.0, 0.0, 0.5, 0.0, 0.0]),
            (-1.0, [0.0, 2.0, 0.0, 0.0, 0.0]),
            (1.0, [0.0] * 5),
            (-1.0, [0.0, 0.0, 0.0, 0.0, -1.25]),
            (1.0, [3.0, 0.0, 0.0, 0.0, 0.0]),
            (-1.0, [4.0, 1.0, 0.0, 0.0, 0.0]),
            (1.0, [0.0, 0.0, 0.0, 1e-3, 0.0]),
        ]
    )
    assert data.test is not None
    assert data.test[0].tolist() == [[7.0, 0, 0, 0, 0], [0, 8.0, 0, 0, 0]]
    assert data.test[1].tolist() == [-1.0, 1.0]


def test_order(tiny: Path) -> None:
    """ "by-label" sorts; "shuffled" depends on the seed, and on nothing else."""
    sorted_targets = rows(load(data_root=tiny, clients=2, seed=1, path="tiny", order="by-label"))[1]
    assert sorted_targets.tolist() == [-1.0] * 3 + [1.0] * 4
    first, again, other = (rows(load(data_root=tiny, clients=2, seed=s, path="tiny"))[0] for s in (1, 1, 3))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["1", "2", "2"], [-1.0, 1.0, 1.0]),
        (["-1", "+1", "-1"], [-1.0, 1.0, -1.0]),
        (["0", "1", "0"], [-1.0, 1.0, -1.0]),
        (["1", "1", "1"], [1.0, 1.0, 1.0]),
        (["0.5", "2.25", "-7"], [0.5, 2.25, -7.0]),
    ],
)
def test_labels(tmp_path: Path, labels: list[str], expected: list[float]) -> None:
    """Two values become -1 and +1; labels ±1 stay even if one is missing; numbers stay numbers."""
    (tmp_path / "f").write_text("".join(f"{label} 1:{i}\n" for i, label in enumerate(labels, start=1)))
    inputs, targets = rows(load(data_root=tmp_path, clients=1, seed=0, path="f"))
    assert targets[torch.argsort(inputs[:, 0])].tolist() == expected


def test_where_files_are_looked_for(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Absolute, below the data root, in the current folder; elsewhere it is one line that names the file."""
    load(clients=1, seed=0, path=str(tiny / "tiny"))
    monkeypatch.chdir(tiny)
    load(clients=1, seed=0, path="tiny")
    for path in ("absent", str(tiny / "absent")):
        with pytest.raises(MissingDataError, match="absent") as caught:
            load(data_root=tiny, clients=1, seed=0, path=path)
        assert "\n" not in str(caught.value)


def test_what_is_refused(tiny: Path) -> None:
    """Not the format, an empty file, too few rows, an unknown order, a label the training set has not."""
    (tiny / "bad").write_text("1 one:two\n")
    (tiny / "empty").write_text("")
    (tiny / "three").write_text("3 1:1\n0 1:1\n")
    with pytest.raises(ExperimentError, match="bad: not in LIBSVM's format"):
        load(data_root=tiny, clients=1, seed=0, path="bad")
    with pytest.raises(ExperimentError, match="empty"):
        load(data_root=tiny, clients=1, seed=0, path="empty")
    with pytest.raises(ExperimentError, match="7 rows for 8 clients"):
        load(data_root=tiny, clients=8, seed=0, path="tiny")
    with pytest.raises(ExperimentError, match="by-label"):
        load(data_root=tiny, clients=1, seed=0, path="tiny", order="random")
    with pytest.raises(ExperimentError, match="three has the label 3"):
        load(data_root=tiny, clients=1, seed=0, path="tiny", test_path="three")


def test_a_file_too_large_to_be_dense(tiny: Path) -> None:
    """One row with a feature of index 2·10⁹ would be 15 GiB: refused before memory is taken."""
    (tiny / "wide").write_text("1 2000000000:1\n")
    with pytest.raises(ExperimentError, match="15 GiB"):
        load(data_root=tiny, clients=1, seed=0, path="wide")


def shared(name: str) -> str:
    """The path of a real file, or a skip that says which one is missing."""
    if not (SHARED / name).is_file():
        pytest.skip(f"{SHARED / name} is not there")
    return str(SHARED / name)


@pytest.mark.parametrize(
    ("name", "test", "shape", "positives"),
    [
        ("a9a", "a9a.t", (32561, 123), 7841),
        ("w8a", None, (49749, 300), 1479),
        ("mushrooms.train", "mushrooms.test", (6513, 126), None),
    ],
)
def test_real_files(name: str, test: str | None, shape: tuple[int, int], positives: int | None) -> None:
    """Rows, features and label counts of the published files, CRLF and label-only rows included."""
    test_path = None if test is None else shared(test)
    data = load(clients=80, seed=1, path=shared(name), test_path=test_path)
    inputs, targets = rows(data)
    assert tuple(inputs.shape) == shape
    assert set(targets.tolist()) == {-1.0, 1.0}
    assert positives is None or int((targets > 0).sum()) == positives
    sizes = [len(b) for _, b in data.train]
    assert max(sizes) - min(sizes) <= 1
    if data.test is not None:
        assert data.test[0].shape[1] == shape[1]


def test_a9a_has_constants_and_a_minimiser() -> None:
    """Logistic regression on a9a over 80 clients: L against the eigenvalue of the whole, and x* to 1e-12."""
    data = load(clients=80, seed=1, path=shared("a9a"))
    problem = LinearProblem(data.train, "logistic", "l2", 1e-3)
    constants = smoothness(problem)
    hessian = np.mean([(a.T @ a).numpy() / (4 * len(a)) for a, _ in data.train], axis=0)
    assert pytest.approx(np.linalg.eigvalsh(hessian).max() + 1e-3, rel=1e-12) == constants.L
    assert constants.L_max >= constants.L
    assert minimize(problem).grad_norm <= 1e-12
