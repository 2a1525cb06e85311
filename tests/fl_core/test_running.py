"""What `run` may be given, and what it makes of it; that it runs is shown in tests/master/test_in_process.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fl_core import Experiment, run
from fl_core.errors import ExperimentError, InputError
from fl_core.experiment.schema import DataTable, ModelTable, PlugIn
from fl_core.running import experiments_of
from tests.conftest import small_experiment

TABLES: dict[str, Any] = {
    "rounds": 3,
    "data": {"name": "quadratic", "d": 4, "samples_per_client": 4},
    "model": {"name": "linear", "bias": False, "loss": "mse"},
    "clients": {"total": 3},
    "algorithm": "fedavg",
}
METHOD = (Path(__file__).resolve().parents[2] / "examples" / "my_algorithm.py").read_text()


def test_a_file_is_read_as_flmaster_reads_it(tmp_path: Path) -> None:
    """Sweeps are expanded, and overrides win over the file."""
    path = tmp_path / "quad.toml"
    path.write_text(small_experiment().to_toml())
    assert [e.digest() for e in experiments_of(path)] == [small_experiment().digest()]
    swept = experiments_of(str(path), {"rounds": 7, "sweep.seed": [4, 5]})
    assert [(e.rounds, e.seed) for e in swept] == [(7, 4), (7, 5)]


def test_a_dictionary_is_an_experiment() -> None:
    """With defaults filled in and a name; the dictionary itself stays as it was."""
    before = repr(TABLES)
    (experiment,) = experiments_of(TABLES, {"local.optimizer": {"name": "sgd", "lr": 0.25}})
    assert experiment.name == "notebook"
    assert experiment.clients.per_round == 3
    assert experiment.local.optimizer == PlugIn("sgd", {"lr": 0.25})
    assert repr(TABLES) == before


def test_a_sweep_in_a_dictionary_is_expanded() -> None:
    """As in a file."""
    experiments = experiments_of({**TABLES, "sweep": {"seed": [1, 2], "uplink": ["identity", "natural"]}})
    assert [(e.seed, e.uplink.name) for e in experiments] == [
        *((1, "identity"), (1, "natural")),
        *((2, "identity"), (2, "natural")),
    ]


def test_a_record_made_by_hand_is_completed_and_checked() -> None:
    """What the struct itself does not check is checked before anything runs."""
    experiment = Experiment(
        name="by-hand",
        rounds=2,
        data=DataTable(PlugIn("digits"), PlugIn("iid")),
        model=ModelTable(PlugIn("logistic")),
        clients=small_experiment().clients,
        algorithm=PlugIn("fedavg"),
    )
    (complete,) = experiments_of(experiment)
    assert complete.local.epochs == 1
    wrong = {"algorithm.name": "fedavgg"}
    with pytest.raises(
        ExperimentError, match=r'\[algorithm\] name: there is no algorithm "fedavgg"; did you mean "fedavg"'
    ):
        experiments_of(experiment, wrong)


def test_a_complete_record_keeps_its_digest() -> None:
    """So the run of a file and the run of its Experiment share one folder."""
    assert experiments_of(small_experiment())[0].digest() == small_experiment().digest()
    assert len(experiments_of([small_experiment(), small_experiment(seed=9)])) == 2


def test_files_of_ones_own_are_found_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And their text goes with the experiment from there on, wherever it is run again."""
    (tmp_path / "my_algorithm.py").write_text(METHOD)
    monkeypatch.chdir(tmp_path)
    (experiment,) = experiments_of({**TABLES, "algorithm": {"name": "my_algorithm.py", "strength": 0.5}})
    (tmp_path / "my_algorithm.py").unlink()
    (again,) = experiments_of(experiment, {"algorithm.strength": 0.25})
    assert again.sources == experiment.sources
    assert again.algorithm.options["strength"] == 0.25


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({**TABLES, "local": {"step": 3}}, r'\[local\] step: unknown key; did you mean "steps"\?'),
        ({**TABLES, "rounds": 0}, r"rounds: must be an integer of at least 1, not 0"),
    ],
)
def test_an_error_names_the_key_and_no_file(tables: dict[str, Any], said: str) -> None:
    """There is none to name."""
    with pytest.raises(ExperimentError, match=f"^{said}$"):
        experiments_of(tables)


def test_nothing_is_no_experiment() -> None:
    """Nor is a list of something else."""
    for wrong in ([], [1]):
        with pytest.raises(InputError, match="needs an experiment"):
            experiments_of(wrong)


def test_a_mistyped_option_is_an_error_with_the_right_name() -> None:
    """Before anything is read."""
    with pytest.raises(InputError, match='no option "device"; did you mean "devices"'):
        run(TABLES, device="cpu")  # type: ignore[call-arg]
