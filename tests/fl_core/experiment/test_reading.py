"""Experiment files that are right: what they become, and that they come back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fl_core.experiment.reading import parse_override, read_experiments
from fl_core.experiment.schema import Experiment

Written = Callable[[Path, str], Path]
ErrorOf = Callable[..., str]

EXAMPLES = Path(__file__).parents[3] / "examples"


def test_a_composition_survives_the_round_trip(tmp_path: Path, good: str, written: Written) -> None:
    """Parts by table or by name, in their order."""
    (run,) = read_experiments(written(tmp_path, good), ["uplink={name='compose', of=[{name='topk', k=3}, 'Natural']}"])
    assert run.uplink.options == {"of": [{"name": "topk", "k": 3}, {"name": "natural"}]}
    assert read_experiments(written(tmp_path, run.to_toml())) == [run]


def test_defaults_and_what_depends_on_them(tmp_path: Path, good: str, written: Written) -> None:
    """What is not given is filled in: one epoch, plain averaging, no compression, full participation."""
    text = good.replace("per_round = 5\n", "")
    (run,) = read_experiments(written(tmp_path, text))
    assert (run.local.epochs, run.local.steps) == (1, None)
    assert run.clients.per_round == 10
    assert run.server.optimizer.to_dict() == {"name": "sgd", "lr": 1.0}
    assert (run.uplink.name, run.downlink.name, run.model.dtype) == ("identity", "identity", "float32")


def test_the_name_defaults_to_the_file_s(tmp_path: Path, good: str, written: Written) -> None:
    """A file without a name is named after itself."""
    (run,) = read_experiments(written(tmp_path, good.replace('name = "t"\n', "", 1)))
    assert run.name == "t"


def test_names_hyphens_and_case(tmp_path: Path, good: str, written: Written) -> None:
    """Hyphen is underscore and case does not count, so spelling does not change what a run is."""
    (one,) = read_experiments(written(tmp_path, good))
    odd = good.replace('"fedavg"', '"FedAvg"').replace('"sgd"', '"SGD"')
    odd = odd.replace('name = "logistic"', 'name = "Logistic"\nloss = "Cross-Entropy"')
    (other,) = read_experiments(written(tmp_path, odd))
    assert other == one
    assert other.digest() == one.digest()


def test_an_override_wins_over_file_and_takes_bare_strings(tmp_path: Path, good: str, written: Written) -> None:
    """--set has the last word; a value that is no TOML is a string."""
    overrides = ["rounds=7", "local.optimizer.name=adam", "data.partition={name = 'iid'}", "uplink=identity"]
    (run,) = read_experiments(written(tmp_path, good), overrides)
    assert run.rounds == 7
    assert run.local.optimizer.to_dict() == {"name": "adam", "lr": 0.1}
    assert run.data.partition is not None
    assert run.data.partition.to_dict() == {"name": "iid"}


@pytest.mark.parametrize(
    ("text", "value"),
    [("a=1", 1), ("a=1e-3", 1e-3), ("a=10%", "10%"), ("a=x\ny=2", "x\ny=2"), ("a='1'", "1"), ("a=", "")],
)
def test_override_values(text: str, value: object) -> None:
    """A value is TOML where it can be, and never more than one value."""
    assert parse_override(text).value == value


def test_options_take_the_type_they_are_asked_for(tmp_path: Path, good: str, written: Written) -> None:
    """An integer where a float is asked for is that float: 1 and 1.0 are one experiment."""
    (one,) = read_experiments(written(tmp_path, good), ["data.partition.alpha=1", "local.optimizer.lr=1"])
    (other,) = read_experiments(written(tmp_path, good), ["data.partition.alpha=1.0", "local.optimizer.lr=1.0"])
    assert one.digest() == other.digest()


@pytest.mark.parametrize("name", ["digits.toml", "fashion_mnist.toml"])
def test_the_resolved_file_reads_as_the_same_experiment(tmp_path: Path, name: str, written: Written) -> None:
    """Examples are right, and to_toml, to_dict and from_dict lose nothing."""
    for run in read_experiments(EXAMPLES / name):
        assert read_experiments(written(tmp_path, run.to_toml())) == [run]
        again = Experiment.from_dict(run.to_dict())
        assert (again, again.digest()) == (run, run.digest())


def test_a_rich_experiment_survives_the_round_trip(tmp_path: Path, good: str, written: Written) -> None:
    """Every kind of key at once: thresholds, theory, schedule, tau in percent, lists, labels, steps."""
    overrides = [
        "stop={accuracy=0.9}",
        "server.optimizer={name='adam', lr='theory', betas=[0.9, 0.99]}",
        "server.schedule={name='cosine', eta_min=0}",
        "local.gradient=nice",
        "local.tau=10%",
        "local.steps=4",
        "model={name='mlp', hidden=[30, 20], dropout=0.5, dtype='float64'}",
        "label=a, b",
        "on_error=stop",
        "execution.cohort=4",
    ]
    (run,) = read_experiments(written(tmp_path, good), overrides)
    assert run.model.plug.options == {"hidden": [30, 20], "dropout": 0.5}
    assert read_experiments(written(tmp_path, run.to_toml())) == [run]
    assert Experiment.from_dict(run.to_dict()) == run


def test_sweep_and_runs_are_read_in_order(tmp_path: Path, good: str, written: Written) -> None:
    """Variants first, then the sweep within each; labels say what differs, but not the seed."""
    text = good + (
        '\n[sweep]\nseed = [1, 2]\n"local.optimizer.lr" = [0.1, 0.2]\n'
        '\n[[run]]\nlabel = "plain"\n\n[[run]]\nlabel = "adam"\n'
        'local = { optimizer = { name = "adam", lr = 0.5 } }\n'
    )
    runs = read_experiments(written(tmp_path, text))
    assert [(r.label, r.seed, r.local.optimizer.to_dict()) for r in runs] == [
        (f"{label}, local.optimizer.lr = {lr}", seed, {"name": optimizer, "lr": lr})
        for label, optimizer in (("plain", "sgd"), ("adam", "adam"))
        for seed in (1, 2)
        for lr in (0.1, 0.2)
    ]
    assert len({r.digest() for r in runs}) == 8
    assert all(r.local.batch_size == 20 for r in runs)


def test_an_override_takes_the_place_of_a_sweep_axis(tmp_path: Path, good: str, written: Written) -> None:
    """--set seed=5 means seed 5, once, whatever the file sweeps over."""
    text = good + "\n[sweep]\nseed = [1, 2, 3]\nrounds = [1, 2]\n"
    runs = read_experiments(written(tmp_path, text), ["seed=5"])
    assert [(r.seed, r.rounds) for r in runs] == [(5, 1), (5, 2)]
    assert len(read_experiments(written(tmp_path, text), ["sweep.seed=[7]"])) == 2
