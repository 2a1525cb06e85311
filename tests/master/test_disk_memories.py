"""What clients remember in a file of the run's folder: the same run, also when it is given up and resumed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fl_core.errors import ExperimentError
from fl_core.execution.pool import DevicePool, parse_devices
from fl_core.session import Session, open_session
from master import events
from master.checkpoint import Checkpoint, latest
from master.cluster import Cluster
from master.local_executor import LocalExecutor
from master.one_run import check_device
from master.outcome import Outcome
from master.round_loop import RoundLoop
from master.runs import MEMORIES
from tests.conftest import small_experiment
from tests.system.conftest import master_options

pytestmark = pytest.mark.timeout(60)


def session_of(memory: str) -> Session:
    """SCAFFOLD with a memory of d numbers a client, five rounds."""
    experiment = small_experiment(
        rounds=5,
        algorithm={"name": "scaffold"},
        clients={"total": 9, "per_round": 4, "client_memory": memory},
        checkpoint={"every": 1},
    )
    return open_session(experiment)


async def run(session: Session, folder: Path, stop_after: int = 99, resume: bool = False) -> Outcome:
    """A run on a local pool, saved to the folder; stopped, as one that is killed, while a later round is under way."""
    loops: list[RoundLoop] = []

    def told(event: events.Event) -> None:
        if isinstance(event, events.TaskFinished) and event.round > stop_after:
            loops[0].stop()

    cluster, pool = Cluster(told), DevicePool(parse_devices("cpu"), 2)
    try:
        cluster.join(LocalExecutor(cluster, pool))
        cluster.open_run("r", session)
        loops.append(RoundLoop("r", session, cluster, lambda saved: saved.save(folder) and None))
        loops[0].keep_memories_in(folder)
        if resume:
            found, complaints = latest(folder)
            assert isinstance(found, Checkpoint)
            assert complaints == []
            loops[0].resume(found)
        return await loops[0].run()
    finally:
        await cluster.close()
        await asyncio.to_thread(pool.close)


@pytest.mark.parametrize("memory", ["ram", "device", "disk"])
async def test_a_resumed_run_ends_with_the_same_bytes(tmp_path: Path, memory: str) -> None:
    """Wherever the memories lie; and only "disk" makes the file."""
    expected = await run(session_of("ram"), tmp_path)
    folder = tmp_path / memory
    folder.mkdir()
    stopped = await run(session_of(memory), folder, stop_after=2)
    assert stopped.reason == "stopped"
    resumed = await run(session_of(memory), folder, resume=True)
    assert (resumed.reason, resumed.rounds) == ("finished", 5)
    assert torch.equal(resumed.x, expected.x)
    assert (folder / MEMORIES).exists() is (memory == "disk")


@pytest.mark.parametrize("options", [{"workers": ("127.0.0.1:1",)}, {"devices": "none", "workers": ("127.0.0.1:1",)}])
def test_device_is_refused_where_clients_run_elsewhere(tmp_path: Path, options: dict[str, Any]) -> None:
    """What it would mean for workers is said, not guessed."""
    here = replace(master_options(tmp_path), devices="cpu")
    asked = small_experiment(clients={"total": 4, "client_memory": "device"})
    check_device(asked, here)
    with pytest.raises(ExperimentError, match=r"^\[clients\] client_memory: "):
        check_device(asked, replace(here, **options))
