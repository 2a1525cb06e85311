"""Whether clients are fused is decided once for a run and a machine: a rerun does the same without trying."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from master.observers.execution_record import read_execution
from tests.conftest import Daemons
from tests.system.conftest import MasterHere

pytestmark = [pytest.mark.net, pytest.mark.timeout(120)]

FUSIBLE = (
    "run=[{label='plain'}]",
    "algorithm={name='fedavg'}",
    "data={name='digits', partition={name='iid'}}",
    "execution={cohort=20}",
    "clients={total=40, per_round=40}",
)


async def decisions(run: MasterHere) -> list[dict[str, object]]:
    """Those of a finished run."""
    assert await run.ended() == 0, run.out.getvalue()[-2000:]
    return run.run.events("FusingDecided")


async def test_a_rerun_makes_the_same_choice(master_here: Callable[[], MasterHere]) -> None:
    """Told and recorded by the first; overwritten with its opposite, that is what the second does; the bytes agree."""
    first = master_here().start("plain", *FUSIBLE, "rounds=2", devices="cpu")
    (found,) = await decisions(first)
    path = first.run.path / "execution.json"
    kept = read_execution(path)
    assert kept["local"]["fused"] is found["fused"]
    assert str(found["reason"]) in first.out.getvalue()
    opposite = {"local": {**kept["local"], "fused": not found["fused"], "reason": "a test says so"}}
    again = MasterHere(first.experiment, first.runs.parent / "again")
    folder = again.runs / first.run.path.parent.name / first.run.path.name
    folder.mkdir(parents=True)
    (folder / "execution.json").write_text(json.dumps(opposite))
    (told,) = await decisions(again.start("plain", *FUSIBLE, "rounds=2", devices="cpu"))
    assert (told["fused"], told["reason"]) == (not found["fused"], "a test says so")
    assert again.run.model_sha256 == first.run.model_sha256


async def test_a_worker_tells_what_it_has_chosen(
    daemons: Daemons, master_here: Callable[[], MasterHere], tmp_path: Path
) -> None:
    """Its choice is recorded for its host, once."""
    worker = daemons.worker(tmp_path)
    daemons.listening(worker)
    run = master_here().start("plain", *FUSIBLE, "rounds=3", workers=(worker.address,))
    (found,) = await decisions(run)
    assert found["executor"] == worker.address
    assert list(read_execution(run.run.path / "execution.json")) == ["127.0.0.1"]
