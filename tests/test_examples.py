"""The example files run as they are, and the user's own algorithm among them is what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fl_core.experiment.reading import read_experiments
from fl_core.reference import run_reference
from fl_core.session import open_session

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
MINE = EXAMPLES / "my_algorithm.toml"


def reference(*overrides: str) -> tuple[torch.Tensor, dict[str, Any]]:
    """x `[d]` after the last round of my_algorithm.toml, and its server's state."""
    (experiment,) = read_experiments(MINE, ["rounds=4", "clients.total=10", "clients.per_round=10", *overrides])
    *_, (server, _) = run_reference(open_session(experiment))
    return server.x, vars(server.state)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("**/*.toml")), ids=lambda path: path.stem)
def test_an_example_is_accepted(path: Path) -> None:
    """Every example stands for at least one run, says so in a comment, and names no file that is not there."""
    experiments = read_experiments(path)
    assert experiments
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_strength_0_is_fedavg() -> None:
    """Without the shift the example's algorithm ends with the very bytes of FedAvg with equal weights."""
    x, _ = reference("algorithm.strength=0.0")
    fedavg, _ = reference("sweep={}", 'algorithm={name="fedavg", weights="uniform"}')
    assert torch.equal(x, fedavg)


def test_strength_1_corrects() -> None:
    """With the shift it ends elsewhere, and c is the mean of what the clients' gradients are: neither is zero."""
    x, state = reference("algorithm.strength=1.0")
    fedavg, _ = reference("algorithm.strength=0.0")
    assert not torch.equal(x, fedavg)
    assert float(state["c"].norm()) > 0.01


@pytest.mark.slow
@pytest.mark.net
def test_it_is_shipped_to_workers(daemons: Any, tmp_path: Path) -> None:
    """Two workers, started where none of the example's files are, end with the reference's model, memories included."""
    short = ("--set", "rounds=3", "--set", "algorithm.strength=1.0")
    models = []
    for name, options in {"reference": ["--reference"], "workers": ["--spawn", "2"]}.items():
        folder = tmp_path / name
        folder.mkdir()
        run = daemons.master(MINE, *options, *short, "--runs-dir", str(folder / "runs"), cwd=folder)
        assert run.ended() == 0, run.said
        models += [path.read_bytes() for path in folder.glob("runs/*/*/model.safetensors")]
    assert len(models) == 2
    assert models[0] == models[1]
