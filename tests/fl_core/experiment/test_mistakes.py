"""What users get wrong in an experiment file; the text of every error is part of the contract."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from fl_core.errors import ExperimentError
from fl_core.experiment.reading import read_experiments

Written = Callable[[Path, str], Path]
ErrorOf = Callable[..., str]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("rounds = 3", "round = 3", 't.toml:2: round: unknown key; did you mean "rounds"?'),
        ("batch_size = 20", "batchsize = 20", 't.toml:16: [local] batchsize: unknown key; did you mean "batch_size"?'),
        ("batch_size = 20", "lrr = 20", 't.toml:16: [local] lrr: unknown key; did you mean "optimizer.lr"?'),
        (
            "per_round = 5",
            "zzz = 5",
            "t.toml:13: [clients] zzz: unknown key; there are: total, per_round, sampling, client_memory",
        ),
        ("[local]", "[locl]", 't.toml:15: locl: unknown key; did you mean "local"?'),
        (
            "lr = 0.1",
            "lrr = 0.1",
            't.toml:17: [local] optimizer.lrr: "sgd" has no such option; did you mean "lr"?',
        ),
        ("rounds = 3", 'rounds = "3"', 't.toml:2: rounds: must be an integer of at least 1, not "3"'),
        ("rounds = 3", "rounds = 3.0", "t.toml:2: rounds: must be an integer of at least 1, not 3.0"),
        ("rounds = 3", "rounds = 0", "t.toml:2: rounds: must be an integer of at least 1, not 0"),
        ("rounds = 3", "rounds = true", "t.toml:2: rounds: must be an integer of at least 1, not true"),
        ("rounds = 3", "", "t.toml: rounds: missing: every experiment has this key"),
        ("lr = 0.1", "lr = -0.1", "t.toml:17: [local] optimizer.lr: must be a number greater than 0, not -0.1"),
        ("lr = 0.1", "lr = nan", "t.toml:17: [local] optimizer.lr: must be a number greater than 0, not NaN"),
        (
            "lr = 0.1",
            'lr = "theory"',
            't.toml:17: [local] optimizer.lr: must be a number greater than 0, not "theory"',
        ),
        (
            ", lr = 0.1",
            "",
            't.toml:17: [local] optimizer.lr: missing: "sgd" needs it, a number greater than 0',
        ),
        ('"sgd"', '"adma"', 't.toml:17: [local] optimizer.name: there is no optimizer "adma"; did you mean "adam"?'),
        (
            '"sgd", lr',
            '"sgd", nesterov = true, lr',
            "t.toml:17: [local] optimizer: torch refuses it: "
            "Nesterov momentum requires a momentum and zero dampening",
        ),
        (
            '"fedavg"',
            '"fedavgg"',
            't.toml:20: [algorithm] name: there is no algorithm "fedavgg"; did you mean "fedavg"?',
        ),
        ('"digits"', '"digit"', 't.toml:5: [data] name: there is no dataset "digit"; did you mean "digits"?'),
        (
            '"dirichlet"',
            '"dirichlett"',
            't.toml:6: [data] partition.name: there is no partition "dirichlett"; did you mean "dirichlet"?',
        ),
        (
            ", alpha = 0.3",
            "",
            't.toml:6: [data] partition.alpha: missing: "dirichlet" needs it, a number greater than 0',
        ),
        ("alpha = 0.3", "alpha = 0", "t.toml:6: [data] partition.alpha: must be a number greater than 0, not 0"),
        (
            'name = "logistic"',
            'name = "logistic"\nbais = false',
            't.toml:10: [model] bais: "logistic" has no such option; did you mean "bias"?',
        ),
        (
            'name = "logistic"',
            'name = "logistic"\nloss = "cross_entrpy"',
            't.toml:10: [model] loss: must be "cross_entropy" or "mse" or "logistic", not "cross_entrpy"; '
            'did you mean "cross_entropy"?',
        ),
        (
            'name = "logistic"',
            'name = "logistic"\nregularizer = { name = "l2" }',
            't.toml:10: [model] regularizer.alpha: missing: "l2" needs it, a number of at least 0',
        ),
        ("per_round = 5", "per_round = 50", "t.toml:13: [clients] per_round: must be at most total = 10, not 50"),
        (
            "per_round = 5",
            'per_round = 5\nsampling = "full"',
            't.toml:13: [clients] per_round: sampling = "full" means all 10 clients, not 5; leave per_round out',
        ),
        (
            "batch_size = 20",
            "epochs = 1\nsteps = 5",
            "t.toml:17: [local] steps: give epochs or steps, not both",
        ),
        (
            "batch_size = 20",
            'gradient = "nice"',
            't.toml:15: [local] tau: missing: gradient = "nice" needs it, '
            'an integer of at least 1 or a percentage like "10%"',
        ),
        (
            "batch_size = 20",
            "tau = 5",
            't.toml:16: [local] tau: means nothing with gradient = "minibatch"; leave it out, '
            'or take "nice" or "multi"',
        ),
        (
            "rounds = 3",
            "rounds = 3\nstop = { grad_norm = 1e-6 }",
            "t.toml:3: [stop] grad_norm: is not evaluated, so it would never stop the run; "
            "add it to [evaluate] metrics",
        ),
        (
            "rounds = 3",
            'rounds = 3\nevaluate.metrics = ["f", "acuracy"]',
            't.toml:3: [evaluate] metrics: "acuracy" is none of them; did you mean "accuracy"?',
        ),
        (
            "rounds = 3",
            'rounds = 3\nevaluate.metrics = "f"',
            't.toml:3: [evaluate] metrics: must be a list, not "f"; write ["f"]',
        ),
        ("rounds = 3", "rounds = 3\nevaluate = 3", "t.toml:3: evaluate: must be a table, not 3"),
        ("rounds = 3", "rounds = 3\nuplink = 3", "t.toml:3: uplink: must be a table with a name, not 3"),
        ("rounds = 3", "rounds = 3\nuplink = { k = 3 }", "t.toml:3: [uplink] name: missing: the table needs a name"),
        ('[algorithm]\nname = "fedavg"', "", "t.toml: algorithm: missing: every experiment has this table"),
        ('name = "t"', 'name = "../t"', 't.toml:1: name: names a folder, so it must begin with a letter or digit '
         'and have no slash: not "../t"'),
        ("rounds = 3", "rounds = ", "t.toml:2: is no TOML: Invalid value"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_one_exact_line(
    tmp_path: Path, old: str, new: str, expected: str, good: str, error_of: ErrorOf
) -> None:
    """Typical mistakes: file, line, key, what is wrong, what would be right, word for word."""
    assert old in good
    assert error_of(tmp_path, good.replace(old, new)) == expected


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("rounds", "--set rounds: must look like a.b=value"),
        ("=3", "--set =3: must look like a.b=value"),
        ("rounds=[1", "--set rounds=[1: the value is no TOML: Unclosed array"),
        ("rounds=many", '--set rounds=many: rounds: must be an integer of at least 1, not "many"'),
        ("rounds.x=1", "--set rounds.x=1: rounds: is 3, not a table"),
        ("locl.epochs=1", '--set locl.epochs=1: locl: unknown key; did you mean "local"?'),
        ("local.optimizer.lr=-1", "--set local.optimizer.lr=-1: [local] optimizer.lr: "
         "must be a number greater than 0, not -1"),
        ("data.name=nan", '--set data.name=nan: [data] name: must be a string, not NaN; '
         "quote it: --set \"data.name='nan'\""),
        ("clients.per_round=11", "--set clients.per_round=11: [clients] per_round: must be at most total = 10, not 11"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_one_exact_line(
    tmp_path: Path, override: str, expected: str, good: str, error_of: ErrorOf
) -> None:
    """A wrong --set is quoted itself: it stands on no line of the file."""
    line = error_of(tmp_path, good, override)
    assert re.sub(r"Unclosed array.*", "Unclosed array", line) == expected


def test_a_missing_file_names_the_nearest_one(tmp_path: Path, good: str, written: Written) -> None:
    """A misspelt file name gets the name of the file that is there."""
    written(tmp_path, good)
    with pytest.raises(ExperimentError, match=r'tt\.toml: there is no such experiment file; did you mean "t\.toml"\?'):
        read_experiments(tmp_path / "tt.toml")


def test_a_folder_is_called_one(tmp_path: Path, good: str, written: Written) -> None:
    """With the experiment files that lie in it."""
    with pytest.raises(ExperimentError, match=r"is a folder; there is no \*\.toml in it"):
        read_experiments(tmp_path)
    written(tmp_path, good)
    with pytest.raises(ExperimentError, match=r"is a folder; name a file in it: t\.toml$"):
        read_experiments(tmp_path)


@pytest.mark.parametrize(
    ("uplink", "expected"),
    [
        (
            "{name='compose', of=[{name='topk', kk=3}, 'natural']}",
            '[uplink] of.kk: "topk" has no such option; did you mean "k"?',
        ),
        (
            "{name='compose', of=['naturl']}",
            '[uplink] of.name: there is no compressor "naturl"; did you mean "natural"?',
        ),
        ("{name='compose', of=3}", '[uplink] of: must be a list like [{ name = "natural" }], not 3'),
        ("{name='compose', of=[{k=3}]}", '[uplink] of: each of it must be a table with a name, not {"k": 3}'),
        ("{name='natural', of=['topk']}", '[uplink] of: "natural" has no such option; there are none'),
        ("{name='randk', k=0}", "uplink: randk: k = 0 must be at least 1"),
    ],
)  # fmt: skip
def test_a_wrong_compressor_inside_another(
    tmp_path: Path, uplink: str, expected: str, good: str, error_of: ErrorOf
) -> None:
    """Parts of a composition are checked as compressors are."""
    assert error_of(tmp_path, good, f"uplink={uplink}") == f"--set uplink={uplink}: {expected}"


def test_a_method_without_sampling_is_refused_before_any_run(tmp_path: Path, good: str, error_of: ErrorOf) -> None:
    """Also where it is one of many runs: on the line of its file, when that is read."""
    assert error_of(tmp_path, good + '\n[sweep]\nalgorithm.name = ["fedavg", "gradskip"]\n') == (
        "t.toml:13: [clients] per_round: gradskip needs all 10 clients in every round; leave per_round out"
    )


def test_an_error_in_a_variant_or_axis_is_placed_there(tmp_path: Path, good: str, error_of: ErrorOf) -> None:
    """The line is the one that gave the wrong value, not the one it replaced."""
    sweep = good + "\n[sweep]\nseed = [1]\nlocal.optimizer.lr = [0.1, -1]\n"
    assert error_of(tmp_path, sweep) == ("t.toml:24: [local] optimizer.lr: must be a number greater than 0, not -1")
    variant = good + '\n[[run]]\nseed = 1\n[[run]]\nalgorithm = { name = "fedavgg" }\n'
    assert error_of(tmp_path, variant) == (
        't.toml:25: [algorithm] name: there is no algorithm "fedavgg"; did you mean "fedavg"?'
    )


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ("[sweep]\nseed = 3\n", "t.toml:23: [sweep] seed: must be a list of the values to run, not 3"),
        ("[sweep]\nseed = []\n", "t.toml:23: [sweep] seed: must be a list of the values to run, not []"),
        ("[sweep]\nsede = [1]\n", 't.toml:23: sede: unknown key; did you mean "seed"?'),
        ("[run]\nseed = 3\n", "t.toml:22: run: must be tables, each under its own [[run]]"),
    ],
)
def test_a_wrong_sweep_is_one_exact_line(
    tmp_path: Path, tail: str, expected: str, good: str, error_of: ErrorOf
) -> None:
    """A sweep or run of the wrong form says what form it must have."""
    assert error_of(tmp_path, f"{good}\n{tail}") == expected
