"""Run folders made of numbers (`make_run`), and of small experiments run by the specification (`reference_run`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from fl_core.experiment.reading import read_experiments
from fl_core.metrics import evaluate
from fl_core.reference import run_reference
from fl_core.session import open_session
from master.flctl.stored_run import StoredRun
from master.runs import RunFolder, environment

MakeRun = Callable[..., StoredRun]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """`make_run(tables, records)`: a run folder with these settings and these lines of metrics.jsonl."""
    made = iter(range(1000))

    def make(tables: dict[str, Any], records: Sequence[dict[str, Any]], name: str = "numbers") -> StoredRun:
        number = next(made)
        folder = RunFolder.at(tmp_path / "runs", name, f"r{number:03}-s{tables.get('seed', 0)}-{number:010x}")
        with folder.open(tomli_w.dumps({"name": name, **tables}), environment(["flmaster"], ["cpu"])):
            folder.metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
            folder.write_summary({"reason": "finished", "rounds": len(records)})
        return StoredRun(folder.path)

    return make


@pytest.fixture
def reference_run(tmp_path: Path, make_run: MakeRun) -> Callable[..., StoredRun]:
    """`reference_run(toml)`: the experiment of that text, really run, one record a round."""

    def run(text: str) -> StoredRun:
        path = tmp_path / "experiment.toml"
        path.write_text(text)
        experiment = read_experiments(path)[0]
        session = open_session(experiment)
        oracle, names = session.problem.oracle("cpu"), experiment.evaluate.metrics
        records: list[dict[str, Any]] = [{"round": 0, **evaluate(session.problem, oracle, session.problem.x0, names)}]
        for server, metrics in run_reference(session):
            records.append({"round": metrics["round"], **evaluate(session.problem, oracle, server.x, names)})
        return make_run({key: value for key, value in experiment.to_dict().items() if key != "sources"}, records)

    return run
