"""A user's own files, named by path in the experiment file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fl_core.errors import ExperimentError, UserCodeError
from fl_core.experiment.reading import read_experiments
from fl_core.experiment.schema import Experiment

Written = Callable[[Path, str], Path]
ErrorOf = Callable[..., str]

ALGORITHM = """\
from dataclasses import dataclass

from algorithms.fedavg import FedAvg


@dataclass(frozen=True)
class Mine(FedAvg):
    strength: float = 1.0
"""


def test_a_user_s_file_comes_as_text_and_runs_from_the_run_folder(tmp_path: Path, good: str, written: Written) -> None:
    """Her file is read relative to the experiment; the resolved file names it bare and reads beside a copy of it."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "my_algorithm.py").write_text(ALGORITHM, encoding="utf-8")
    text = good.replace('name = "fedavg"', 'name = "mine/my_algorithm.py"\nstrength = 2')
    (run,) = read_experiments(written(tmp_path, text))
    assert run.algorithm.to_dict() == {"name": "my_algorithm.py", "strength": 2.0}
    (source,) = run.sources
    assert (source.role, source.name, source.text) == ("algorithm", "my_algorithm.py", ALGORITHM)
    assert Experiment.from_dict(run.to_dict()) == run
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / source.name).write_text(source.text, encoding="utf-8")
    assert read_experiments(written(folder, run.to_toml())) == [run]


def test_a_changed_user_file_is_another_run(tmp_path: Path, good: str, written: Written) -> None:
    """The digest holds the hash of her text: an edited method never resumes the old one's run."""
    text = good.replace('"fedavg"', '"my_algorithm.py"')
    (tmp_path / "my_algorithm.py").write_text(ALGORITHM, encoding="utf-8")
    (before,) = read_experiments(written(tmp_path, text))
    (tmp_path / "my_algorithm.py").write_text(ALGORITHM + "\n# another thought\n", encoding="utf-8")
    (after,) = read_experiments(written(tmp_path, text))
    assert before.digest() != after.digest()


def test_a_user_s_option_is_checked_like_ours(tmp_path: Path, good: str, error_of: ErrorOf) -> None:
    """Her fields are the options: a misspelt one is found before anything runs."""
    (tmp_path / "my_algorithm.py").write_text(ALGORITHM, encoding="utf-8")
    text = good.replace('name = "fedavg"', 'name = "my_algorithm.py"\nstrenght = 2')
    assert error_of(tmp_path, text) == (
        't.toml:21: [algorithm] strenght: "my_algorithm.py" has no such option; did you mean "strength"?'
    )


def test_a_user_s_data_and_model_take_any_option_they_leave_open(tmp_path: Path, good: str, written: Written) -> None:
    """load(**options) and build(**options) get every key that is not the schema's own."""
    (tmp_path / "my_data.py").write_text("def load(**options):\n    raise NotImplementedError\n", encoding="utf-8")
    (tmp_path / "my_model.py").write_text("def build(**options):\n    raise NotImplementedError\n", encoding="utf-8")
    overrides = ["data={name='my_data.py', rows=3}", "model={name='my_model.py', width=4, loss='mse'}"]
    (run,) = read_experiments(written(tmp_path, good), overrides)
    assert (run.data.plug.options, run.data.partition) == ({"rows": 3}, None)
    assert (run.model.plug.options, run.model.loss) == ({"width": 4}, "mse")
    assert [source.role for source in run.sources] == ["data", "model"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("x = 1\n", 't.toml:20: [algorithm] name: my.py must hold exactly one subclass of Algorithm, and has none'),
        (
            ALGORITHM + "\n\nclass Other(FedAvg):\n    pass\n",
            "t.toml:20: [algorithm] name: my.py must hold exactly one subclass of Algorithm, and has 2: Mine, Other",
        ),
    ],
)  # fmt: skip
def test_a_file_that_is_no_algorithm(tmp_path: Path, content: str, expected: str, good: str, error_of: ErrorOf) -> None:
    """A file with no method in it, or with two, is refused with what it has."""
    (tmp_path / "my.py").write_text(content, encoding="utf-8")
    assert error_of(tmp_path, good.replace('"fedavg"', '"my.py"')) == expected


def test_a_user_s_file_that_is_not_there(tmp_path: Path, good: str, error_of: ErrorOf) -> None:
    """A misspelt file name gets the name of the file that lies beside the experiment."""
    (tmp_path / "my_algorithm.py").write_text(ALGORITHM, encoding="utf-8")
    assert error_of(tmp_path, good.replace('"fedavg"', '"my_algoritm.py"')) == (
        't.toml:20: [algorithm] name: there is no file "my_algoritm.py" beside the experiment file; '
        'did you mean "my_algorithm.py"?'
    )


def test_a_user_s_file_that_raises_names_her_line(tmp_path: Path, good: str, written: Written) -> None:
    """An error in her own file is hers: with her file and line, not a line of ours."""
    (tmp_path / "broken.py").write_text("import math\n\nmath.sqroot(2)\n", encoding="utf-8")
    with pytest.raises(UserCodeError) as caught:
        read_experiments(written(tmp_path, good.replace('"fedavg"', '"broken.py"')))
    assert Path(caught.value.file).name == "broken.py"
    assert caught.value.line == 3
    assert "math.sqroot(2)" in caught.value.traceback_text


MISTAKEN = {
    "algorithm": ALGORITHM,
    "uplink": ALGORITHM.replace("algorithms.fedavg", "compressors.identity").replace("FedAvg", "Identity"),
}


@pytest.mark.parametrize("table", MISTAKEN)
def test_an_option_that_her_own_check_refuses(tmp_path: Path, good: str, written: Written, table: str) -> None:
    """A ValueError of `__post_init__` is an error of the experiment, at the table that names the file."""
    check = '\n    def __post_init__(self):\n        raise ValueError("strength is never right")\n'
    (tmp_path / "my.py").write_text(MISTAKEN[table] + check, encoding="utf-8")
    with pytest.raises(ExperimentError, match="strength is never right") as caught:
        read_experiments(written(tmp_path, good), [f"{table}={{name='my.py'}}"])
    assert caught.value.path == table


@pytest.mark.parametrize("table", MISTAKEN)
def test_a_constructor_that_leaves_the_interpreter(tmp_path: Path, good: str, written: Written, table: str) -> None:
    """sys.exit() in `__post_init__` is an error of her file with its line, not a run that ends with 0."""
    leave = "\n    def __post_init__(self):\n        raise SystemExit(0)\n"
    (tmp_path / "my.py").write_text(MISTAKEN[table] + leave, encoding="utf-8")
    with pytest.raises(UserCodeError, match=r"my\.py:11: SystemExit: 0"):
        read_experiments(written(tmp_path, good), [f"{table}={{name='my.py'}}"])


def test_a_class_whose_options_would_be_none(tmp_path: Path, good: str, written: Written) -> None:
    """Without @dataclass above it a field is no option: the message says what to write."""
    (tmp_path / "my.py").write_text(ALGORITHM.replace("@dataclass(frozen=True)\n", ""), encoding="utf-8")
    expected = r"my\.py: Mine declares strength, but .*: put @dataclass\(frozen=True\) above class Mine"
    with pytest.raises(ExperimentError, match=expected):
        read_experiments(written(tmp_path, good), ["algorithm={name='my.py', strength=2}"])


def test_two_files_of_one_name_are_refused(tmp_path: Path, good: str, error_of: ErrorOf) -> None:
    """They could not lie side by side in the run's folder."""
    for folder, content in (("a", "x = 1\n"), ("b", "x = 2\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "c.py").write_text(content, encoding="utf-8")
    line = error_of(tmp_path, good, "uplink=a/c.py", "downlink=b/c.py")
    assert line == '--set downlink=b/c.py: [downlink] name: two different files are named "c.py"'
