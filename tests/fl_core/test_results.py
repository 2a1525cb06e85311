"""Results of runs as records and data frames; no run is needed for that."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from fl_core.errors import InputError
from fl_core.results import Results, RunResult


def result(seed: int, folder: Path = Path("nowhere"), **more: Any) -> RunResult:
    """A run of two rounds of which the second was evaluated."""
    return RunResult(
        name=f"fedavg-s{seed}",
        status="finished",
        config={"seed": seed, "algorithm": {"name": "fedavg"}, "evaluate": {"metrics": ["f"]}},
        settings={"seed": seed, "algorithm.name": "fedavg", "evaluate.metrics": ["f"]},
        metrics=[{"round": 1, "bits_up": 8}, {"round": 2, "bits_up": 16, "f": 0.5 * seed}],
        summary={"reason": "finished", **more},
        folder=folder,
    )


def test_what_was_not_measured_is_absent() -> None:
    """A series holds the rounds that were measured and no other."""
    assert result(1).series("f") == {2: 0.5}
    assert result(1).series("bits_up") == {1: 8, 2: 16}
    assert result(1).series("grad_norm") == {}


def test_labels_and_errors_are_said_in_words() -> None:
    """Without a label it is the algorithm's name; an error is the summary's."""
    assert result(1).label == "fedavg"
    assert result(1).error == ""
    assert result(1, error="round 3: f is NaN").error == "round 3: f is NaN"


def test_varying_settings_are_those_that_differ() -> None:
    """Lists among the settings do not disturb it, and one run differs in nothing."""
    assert Results([result(1), result(2)]).varying() == ["seed"]
    assert Results([result(1)]).varying() == []


def test_a_slice_is_results_again() -> None:
    """So that it has a data frame, too."""
    results = Results([result(1), result(2), result(3)])
    assert isinstance(results[1:], Results)
    assert [run.name for run in results[1:]] == ["fedavg-s2", "fedavg-s3"]
    assert results[0].name == "fedavg-s1"


def test_the_model_is_read_from_its_file_once(tmp_path: Path) -> None:
    """By name, and kept: the folder may go away afterwards."""
    weight = torch.arange(6.0).view(2, 3)
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors.torch.save({"weight": weight}))
    found = result(1, tmp_path)
    assert torch.equal(found.model["weight"], weight)
    path.unlink()
    assert torch.equal(found.model["weight"], weight)


def test_without_pandas_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records need no pandas; a data frame says what to install."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match=r"pip install 'flspan\[pandas\]'"):
        result(1).to_dataframe()
    with pytest.raises(InputError, match=r"pip install 'flspan\[pandas\]'"):
        Results([result(1)]).to_dataframe()


def test_a_data_frame_has_a_row_a_round() -> None:
    """With the settings that differ as columns, or those asked for; NaN where nothing was measured."""
    pytest.importorskip("pandas", reason="pandas is an optional extra")
    results = Results([result(1), result(2)])
    frame = results.to_dataframe()
    assert list(frame.columns) == ["run", "seed", "round", "bits_up", "f"]
    assert len(frame) == 4
    assert frame["f"].isna().tolist() == [True, False, True, False]
    assert list(results.to_dataframe(["algorithm.name"])["algorithm.name"]) == ["fedavg"] * 4
    assert list(results[0].to_dataframe()["bits_up"]) == [8, 16]
