"""An experiment being edited: what is typed, what flmaster would say, and how the command line carries it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_core.errors import ExperimentError, InputError
from fl_core.experiment.reading import parse_override, read_experiments
from master.workbench.draft import Draft, inline

TOML = """\
name = "quad"
rounds = 3
seed = 4
[data]
name = "quadratic"
d = 4
samples_per_client = 4
[model]
name = "linear"
bias = false
loss = "mse"
[clients]
total = 4
[local]
steps = 2
gradient = "full"
[algorithm]
name = "diana"
[sweep]
"uplink" = ["identity", { name = "randk", k = 2 }]
"""


@pytest.fixture
def draft(tmp_path: Path) -> Draft:
    """Of a file with a sweep."""
    (tmp_path / "quad.toml").write_text(TOML)
    return Draft.read(tmp_path / "quad.toml")


def test_a_new_experiment_runs_as_it_is() -> None:
    """The first thing a newcomer sees is right."""
    verdict = Draft.new().check()
    assert verdict.error == ""
    assert [experiment.name for experiment in verdict.experiments] == ["digits"]


def test_checking_changes_nothing(draft: Draft) -> None:
    """The tables stay those of the file, the sweep is expanded."""
    before = copy.deepcopy(draft.tables)
    assert len(draft.check().experiments) == 2
    assert draft.tables == before
    assert not draft.is_changed


def test_what_is_typed_is_toml_or_a_bare_string(draft: Draft) -> None:
    """And nothing typed is nothing said: the key leaves the file, and its empty table with it."""
    draft.put_text("local.batch_size", "8")
    draft.put_text("uplink.k", "10%")
    assert (draft.get("local.batch_size"), draft.get("uplink.k")) == (8, "10%")
    draft.put_text("uplink.k", "  ")
    assert draft.get("uplink.k") is None
    assert "uplink" not in draft.tables
    with pytest.raises(ExperimentError, match="no TOML"):
        draft.put_text("local.batch_size", "[1,")


def test_another_plug_in_takes_nothing_along(draft: Draft) -> None:
    """Its predecessor's options go; other keys of the table stay."""
    draft.choose("data", "digits", {"d", "samples_per_client"})
    draft.choose("data.partition", "iid", set())
    draft.choose("model", "logistic", {"bias"})
    draft.put("model.loss", None)
    draft.put("data.partition.extra", 1)
    assert draft.tables["data"] == {"name": "digits", "partition": {"name": "iid", "extra": 1}}
    draft.choose("data.partition", None, set())
    assert draft.tables["data"] == {"name": "digits"}


def test_a_name_alone_becomes_a_table(draft: Draft) -> None:
    """`uplink = "randk"` is what a file may say."""
    draft.tables["uplink"] = "randk"
    assert draft.get("uplink.name") == "randk"
    draft.put("uplink.k", 2)
    assert draft.tables["uplink"] == {"name": "randk", "k": 2}


def test_the_verdict_names_the_key(draft: Draft) -> None:
    """So that the form can mark it; the text names no file."""
    draft.put("local.steps", 0)
    verdict = draft.check()
    assert verdict.path == "local.steps"
    assert verdict.error == "[local] steps: must be an integer of at least 1, not 0"
    assert verdict.experiments == []


def test_saving_never_overwrites_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new draft gets a free name, and its own from then on."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits.toml").write_text("mine")
    draft = Draft.new()
    assert draft.save() == Path("digits-2.toml")
    saved = draft.is_changed
    draft.put("rounds", 7)
    assert (saved, draft.is_changed) == (False, True)
    assert draft.save() == Path("digits-2.toml")
    assert read_experiments("digits-2.toml")[0].rounds == 7
    assert (tmp_path / "digits.toml").read_text() == "mine"


def edits() -> list[Any]:
    """Changes to a draft, each as a user makes it."""
    return [
        lambda d: d.put("rounds", 9),
        lambda d: d.put_text("seed", ""),
        lambda d: d.put_text("name", "quad two"),
        lambda d: d.put("evaluate.metrics", ["f", "grad_norm"]),
        lambda d: d.put("stop.loss", None),
        lambda d: d.put("local.steps", None),
        lambda d: d.put("server.optimizer", {"name": "sgd", "lr": 0.25}),
        lambda d: d.choose("algorithm", "ef21", set()),
        lambda d: d.choose("data", "quadratic", {"samples_per_client"}),
        lambda d: d.put("model.regularizer", {"name": "l2", "alpha": 0.01}),
        lambda d: d.put("sweep", {"seed": [1, 2, 3]}),
        lambda d: d.put("sweep", None),
    ]


@pytest.mark.parametrize("number", range(len(edits())))
def test_the_command_line_carries_each_change(draft: Draft, number: int) -> None:
    """The file with `--set` is the draft: the same runs, whatever was changed or taken out."""
    edits()[number](draft)
    expected = draft.check()
    assert expected.error == ""
    carried = read_experiments(draft.path, draft.overrides())
    assert [e.digest() for e in carried] == [e.digest() for e in expected.experiments]


def test_all_changes_together_are_carried(draft: Draft) -> None:
    """As above, one on top of the other."""
    for edit in edits():
        edit(draft)
    assert draft.is_carried
    assert [e.digest() for e in read_experiments(draft.path, draft.overrides())] == [
        e.digest() for e in draft.check().experiments
    ]


def test_what_set_cannot_carry_is_saved_beside(draft: Draft) -> None:
    """A swept key that `--set` gives is swept no more: so the draft gets another file, and the first stays."""
    before = draft.path.read_text()
    assert draft.keep() is None
    draft.put("uplink", {"name": "randk", "k": 3})
    draft.put("sweep", {"uplink.k": [1, 2]})
    expected = [e.digest() for e in draft.check().experiments]
    assert [e.digest() for e in read_experiments(draft.path, draft.overrides())] != expected
    first, carried = draft.path, draft.is_carried
    assert draft.keep() == first.with_name("quad-2.toml")
    assert (carried, draft.is_carried) == (False, True)
    assert [e.digest() for e in read_experiments(draft.path)] == expected
    assert first.read_text() == before


values = st.recursive(
    st.booleans() | st.integers(-9, 10**9) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab-_ .", min_size=1, max_size=4), inner),
    max_leaves=6,
)


@given(values)
def test_a_value_on_one_line_is_read_back(value: Any) -> None:
    """Any value, also with quotes, controls and odd keys in it."""
    line = inline(value)
    assert "\n" not in line
    assert parse_override(f"a.b={line}").value == value


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """Named, in one line."""
    with pytest.raises(InputError, match=r"none.toml cannot be read"):
        Draft.read(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = [")
    with pytest.raises(InputError, match=r"bad.toml cannot be read"):
        Draft.read(tmp_path / "bad.toml")
