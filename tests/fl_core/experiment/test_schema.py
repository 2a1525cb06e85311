"""The record of an experiment: its canonical dictionary and its digest."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fl_core.errors import ExperimentError
from fl_core.experiment.schema import (
    CLIENT_METRICS,
    EVALUATED_METRICS,
    ROUND_METRICS,
    Experiment,
    Metric,
    SourceFile,
)

TABLES: dict[str, Any] = {
    "name": "t",
    "rounds": 3,
    "data": {"name": "my.py"},
    "model": {"name": "linear"},
    "clients": {"total": 2},
    "algorithm": {"name": "fedavg"},
    "sources": [{"role": "data", "name": "my.py", "sha256": "0" * 64, "text": "x = 1"}],
}


def test_the_dictionary_is_json_and_comes_back() -> None:
    """What is sent to a worker is plain JSON, and gives the same experiment there."""
    run = Experiment.from_dict(TABLES)
    assert Experiment.from_dict(json.loads(json.dumps(run.to_dict()))) == run
    assert run.sources == (SourceFile("data", "my.py", "0" * 64, "x = 1"),)


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"label": "another"}, True),
        ({"seed": 0}, True),
        ({"seed": 1}, False),
        ({"model": {"name": "linear", "bias": True}}, False),
        ({"sources": [{**TABLES["sources"][0], "sha256": "1" * 64}]}, False),
    ],
)
def test_the_digest_names_what_is_computed(changed: dict[str, Any], same: bool) -> None:
    """Labels do not count, defaults written out do not count, all else does."""
    digest = Experiment.from_dict(TABLES).digest()
    assert (Experiment.from_dict({**TABLES, **changed}).digest() == digest) is same


@pytest.mark.parametrize("sources", [3, [{"role": "kernel"}], [{"role": "data", "name": 1}]])
def test_foreign_sources_are_refused(sources: object) -> None:
    """A dictionary from the network is held against the record as a file is."""
    with pytest.raises(ExperimentError, match=r"\[?sources"):
        Experiment.from_dict({**TABLES, "sources": sources})


def test_the_metric_names_are_one_list() -> None:
    """The type that checks a file and the lists that others read name the same metrics."""
    assert set(Metric.__args__) == {*EVALUATED_METRICS, *CLIENT_METRICS, *ROUND_METRICS}  # type: ignore[attr-defined]
