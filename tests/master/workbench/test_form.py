"""The forms are the schema's: every key is there, with its choices and defaults, and nothing is listed twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from algorithms.scaffold import Scaffold
from fl_core import plugins
from fl_core.experiment.schema import Experiment, SourceFile
from fl_core.options import MISSING, options_of
from master.workbench import form
from master.workbench.draft import STARTER
from tests.conftest import small_experiment

METHOD = Path(__file__).resolve().parents[3] / "examples" / "my_algorithm.py"


def paths(section: str, tables: dict[str, Any] = STARTER) -> list[str]:
    """The dotted keys of a page."""
    return [field.path for field in form.fields(section, tables)]


def field(path: str, tables: dict[str, Any] = STARTER) -> form.Field:
    """The field of that key."""
    section = path.partition(".")[0] if "." in path and not path.startswith("stop") else ""
    return next(found for found in form.fields(section, tables) if found.path == path)


def test_every_key_of_the_schema_has_a_field() -> None:
    """Whatever a resolved experiment says can be edited: a new key of the schema appears by itself."""
    experiment = small_experiment()
    tables = experiment.to_dict()
    shown = {path for section in form.sections() for path in paths(section.name, tables)}

    def keys(table: dict[str, Any], prefix: str = "") -> set[str]:
        inner = (keys(v, f"{prefix}{k}.") if isinstance(v, dict) else {f"{prefix}{k}"} for k, v in table.items())
        return set().union(*inner)

    assert keys(tables) <= shown


def test_the_pages_are_the_tables() -> None:
    """In the schema's order, after what stands above them."""
    names = [section.name for section in form.sections()]
    above = ("name", "rounds", "seed", "label", "on_error", "stop", "sources")
    assert names == ["", *(name for name in Experiment.__struct_fields__ if name not in above)]


def test_plug_ins_come_from_their_folders() -> None:
    """The choices are the files."""
    for path, kind in (("algorithm.name", "algorithm"), ("uplink.name", "compressor"), ("model.name", "model")):
        assert list(field(path).choices) == plugins.names(kind)


def test_a_methods_fields_are_its_dataclass() -> None:
    """With its own defaults; another method, other fields."""
    found = form.fields("algorithm", {"algorithm": {"name": "scaffold"}})
    options = options_of(Scaffold)
    assert {f.path.rpartition(".")[2]: f.default for f in found[1:]} == {k: o.default for k, o in options.items()}
    assert paths("uplink", {"uplink": "randk"}) == ["uplink.name", "uplink.k"]
    assert paths("uplink", {}) == ["uplink.name"]


def test_a_file_of_ones_own_has_its_fields_too() -> None:
    """Read off her class, and her file is among the choices."""
    source = SourceFile.of("algorithm", "my_algorithm.py", METHOD.read_text())
    found = form.fields("algorithm", {"algorithm": {"name": "my_algorithm.py"}}, [source])
    assert [f.path for f in found] == ["algorithm.name", "algorithm.weights", "algorithm.strength"]
    assert "my_algorithm.py" in found[0].choices


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("rounds", "integer ≥ 1; needed"),
        ("seed", "integer  [0]"),
        ("local.batch_size", "integer ≥ 1  [32]"),
        ("local.tau", 'integer ≥ 1 or "10%"'),
        ("model.dtype", "[float32]"),
        ("evaluate.metrics", "[loss, accuracy]"),
        ("data.partition.alpha", "number > 0; needed"),
    ],
)
def test_a_hint_says_what_fits_and_what_holds(path: str, hint: str) -> None:
    """In the few cells there are."""
    assert field(path).hint == hint


def test_where_a_table_is_left_out_its_defaults_are_the_schemas() -> None:
    """[local] optimizer is SGD with lr 0.1, not with torch's 0.001."""
    assert field("local.optimizer.lr", {"local": {}}).default == 0.1
    assert field("local.optimizer.lr", {"local": {"optimizer": {"name": "sgd"}}}).default == 0.001
    assert field("algorithm.name", {}).default in (MISSING, None)
    assert form.chosen_plug_in("data.partition", {}) is None


def test_what_a_plug_in_is_for_is_its_first_sentence() -> None:
    """Of an unknown one, nothing; the check says what is wrong with it."""
    assert form.about("compressor", "randk").startswith("Rand-K")
    assert form.about("optimizer", "sgd").startswith("Stochastic gradient descent")
    assert form.about("regularizer", "l2")
    assert form.about("algorithm", "no-such") == ""
    assert form.options_for("algorithm", "no-such") == {}
