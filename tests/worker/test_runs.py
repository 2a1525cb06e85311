"""Runs as a worker makes them ready: whose data, whose code, and what is kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec
import pytest
import torch

from fl_core.experiment.schema import SourceFile
from fl_core.session import open_session
from master.cluster import OpenRun
from master.remote_executor import setup_message
from protocol.errors import MessageError
from protocol.messages import Setup
from tests.conftest import small_experiment
from worker.runs import Runs

HER_DATA = """
from pathlib import Path
import torch
from fl_core import FederatedData

def load(*, path: str) -> FederatedData:
    rows = torch.tensor([float(word) for word in Path(path).read_text().split()], dtype=torch.float64)
    return FederatedData(train=[(rows[:, None] + i, rows) for i in range(4)])
"""


def setup_of(**tables: object) -> Setup:
    """What a master sends of a small experiment, with these tables instead of its own."""
    return setup_message(OpenRun("r", open_session(small_experiment(**tables))))


@pytest.fixture
def with_her_data(tmp_path: Path) -> tuple[Setup, Path]:
    """The Setup of a run whose data is a file of hers, and that file."""
    path = tmp_path / "her-numbers.txt"
    path.write_text("1 2 3", encoding="utf-8")
    source = SourceFile.of("data", "her_data.py", HER_DATA)
    data = {"name": "her_data.py", "path": str(path)}
    return setup_of(data=data, sources=[msgspec.structs.asdict(source)]), path


def test_a_worker_that_loads_the_same_data_needs_none() -> None:
    """By name, options and seed it comes to the same digest; asked again it does not load again."""
    runs, setup = Runs(None, True), setup_of()
    first, again = runs.prepare(setup).run, runs.prepare(setup).run
    assert first.has_data
    assert again.has_data
    assert again.site.problem is first.site.problem
    assert again.site is not first.site


def test_other_data_of_the_same_name_is_not_used() -> None:
    """The digest decides: a worker that loads anything else waits for the master's shards."""
    setup = msgspec.structs.replace(setup_of(), data_sha256="00" * 32)
    prepared = Runs(None, True).prepare(setup).run
    assert not prepared.has_data
    shards = prepared.site.problem.shards
    assert (shards.n, [shards.has(i) for i in range(4)]) == (4, [False] * 4)
    assert prepared.site.problem.d == 3


def test_what_was_sent_for_one_run_is_there_for_the_next_over_the_same_data() -> None:
    """By the data's digest, not the experiment: a sweep's runs share it. Other data begins with nothing."""
    runs = Runs(None, True)
    lacking = msgspec.structs.replace(setup_of(), data_sha256="00" * 32)
    first = runs.prepare(lacking).run
    assert first is not None
    first.site.problem.shards.add(2, (torch.ones(5, 3).double(), torch.ones(5).double()))
    other_rate = setup_of(local={"steps": 3, "optimizer": {"name": "sgd", "lr": 0.2}})
    again = runs.prepare(msgspec.structs.replace(other_rate, data_sha256="00" * 32)).run
    elsewhere = runs.prepare(msgspec.structs.replace(other_rate, data_sha256="11" * 32)).run
    assert again is not None
    assert elsewhere is not None
    assert not again.has_data
    assert again.site.problem.shards.sent == [2]
    assert elsewhere.site.problem.shards.sent == []


def test_her_data_is_loaded_by_her_code_where_that_works(with_her_data: tuple[Setup, Path]) -> None:
    """The file of the experiment that loads data runs on the worker too; where it raises, the master sends."""
    setup, path = with_her_data
    assert Runs(None, True).prepare(setup).run.has_data
    path.unlink()
    lacking = Runs(None, True).prepare(setup).run
    assert not lacking.has_data
    assert lacking.site.problem.d == 1


def test_no_user_code_means_none(with_her_data: tuple[Setup, Path]) -> None:
    """Such a worker refuses with the name of the option, before it looks at the code; runs without any it takes."""
    runs = Runs(None, False)
    refused = runs.prepare(with_her_data[0])
    assert refused.run is None
    assert "--no-user-code" in refused.error.message
    assert runs.prepare(setup_of()).run.has_data


def test_code_that_is_not_what_its_hash_says_is_refused(with_her_data: tuple[Setup, Path]) -> None:
    """What would be imported is what was named."""
    setup, _ = with_her_data
    (source,) = setup.sources
    forged = msgspec.structs.replace(source, text=source.text + "raise SystemExit\n")
    with pytest.raises(MessageError, match=r"her_data\.py is not what its sha256 says"):
        Runs(None, True).prepare(msgspec.structs.replace(setup, sources=[forged]))
    assert hashlib.sha256(source.text.encode()).hexdigest() == source.sha256


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"[" * 100_000,
        json.dumps({"experiment": 3, "shape": {"inputs": [1], "outputs": 1, "classes": None}, "clients": 1}).encode(),
        json.dumps({"experiment": {}, "shape": {"inputs": 1, "outputs": 1, "classes": None}, "clients": 1}).encode(),
        json.dumps({"experiment": {}, "shape": None, "clients": 1}).encode(),
    ],
)
def test_an_illegible_setup_is_a_protocol_error(body: bytes) -> None:
    """Whatever a master sends as its experiment, the answer is an error of the protocol's tree."""
    with pytest.raises(MessageError, match="legible experiment"):
        Runs(None, True).prepare(Setup("r", body, [], "0"))


def test_a_worker_keeps_the_data_of_a_few_runs() -> None:
    """Memory does not grow with the runs of a sweep: of the fifth from the last nothing is left."""
    runs = Runs(None, True)
    setups = [setup_of(seed=seed) for seed in range(5)]
    problems = [runs.prepare(setup).run.site.problem for setup in setups]
    assert runs.prepare(setups[4]).run.site.problem is problems[4]
    assert runs.prepare(setups[1]).run.site.problem is problems[1]
    assert runs.prepare(setups[0]).run.site.problem is not problems[0]


def test_the_hash_of_her_code_is_in_the_log(
    with_her_data: tuple[Setup, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever keeps a worker can tell afterwards which code it ran."""
    setup, _ = with_her_data
    with caplog.at_level("INFO", logger="flworker"):
        Runs(None, True).prepare(setup)
    (source,) = setup.sources
    assert f"user code {source.name} ({source.role}) sha256 {source.sha256}" in caplog.text
