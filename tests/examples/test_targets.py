"""What the examples say they reach, they reach; where their data is at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fl_core.datasets.roots import SYSTEM_FOLDERS
from fl_core.experiment.reading import read_experiments
from fl_core.problem import assemble
from fl_core.theory.step_size import solved_constants

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DATA = EXAMPLES.parents[1] / "shared" / "data"
PATIENCE_S = 900.0
FASHION = SYSTEM_FOLDERS[0] / "fashion-mnist" / "train-images-idx3-ubyte.gz"


def needs(path: Path) -> pytest.MarkDecorator:
    """Skips a test where its data is not on this machine."""
    return pytest.mark.skipif(not path.is_file(), reason=f"{path.name} is not on this machine")


@pytest.fixture
def last(daemons: Any, tmp_path: Path) -> Any:
    """Runs an example with flmaster as it is; what was measured in its last evaluation."""

    def run(name: str, *options: str) -> dict[str, float]:
        master = daemons.master(EXAMPLES / name, *options, "--runs-dir", str(tmp_path / "runs"), cwd=tmp_path)
        assert master.ended(PATIENCE_S) == 0, master.said[-2000:]
        (folder,) = (tmp_path / "runs").glob("*/*")
        found: dict[str, float] = json.loads((folder / "summary.json").read_text())["metrics"]
        return found

    return run


@needs(DATA / "a9a")
@pytest.mark.soak
@pytest.mark.timeout(PATIENCE_S)
def test_diana_reaches_the_minimum_of_a9a(last: Any) -> None:
    """f - f* <= 1e-8 with Rand-K, by f* from Newton's method, and by strong convexity from the gradient alone."""
    found = last("a9a_diana.toml", "--data-root", str(DATA))
    (experiment,) = read_experiments(EXAMPLES / "a9a_diana.toml")
    constants, _ = solved_constants(assemble(experiment, DATA))
    assert constants is not None
    assert constants.f_star is not None
    assert -1e-12 <= found["f"] - constants.f_star <= 1e-8
    assert found["grad_norm"] ** 2 / (2 * experiment.model.regularizer.options["alpha"]) <= 1e-8


@needs(FASHION)
@pytest.mark.soak
@pytest.mark.timeout(PATIENCE_S)
def test_a_cnn_reaches_85_percent_of_fashion_mnist(last: Any) -> None:
    """100 clients by Dirichlet(0.3): at least 85 % test accuracy at the end."""
    (experiment,) = read_experiments(EXAMPLES / "fashion_mnist.toml")
    assert experiment.clients.total == 100
    assert experiment.data.partition is not None
    assert experiment.data.partition.to_dict() == {"name": "dirichlet", "alpha": 0.3}
    assert last("fashion_mnist.toml")["accuracy"] >= 0.85


@needs(DATA / "tinyshakespeare.txt")
@pytest.mark.soak
@pytest.mark.timeout(PATIENCE_S)
def test_the_lstm_learns_more_than_the_commonest_character(last: Any) -> None:
    """A space alone is right in 16 % of the test set."""
    assert last("shakespeare.toml", "--data-root", str(DATA))["accuracy"] >= 0.30
