"""What the table of workers is told once a second."""

from __future__ import annotations

import asyncio

import pytest
import torch

from fl_core.execution.pool import DevicePool
from master import events, status
from master.cluster import Cluster
from master.local_executor import LocalExecutor
from master.status import StatusReporter


async def test_local_devices_say_their_slots_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """RAM of this process; no GPU memory where there is no GPU, and nothing sent or received."""
    monkeypatch.setattr(status, "PERIOD_S", 0.01)
    told: asyncio.Queue[events.Event] = asyncio.Queue()
    cluster = Cluster(told.put_nowait)
    pool = DevicePool([torch.device("cpu")], 2)
    cluster.join(LocalExecutor(cluster, pool))
    reporting = asyncio.create_task(StatusReporter(cluster, []).run())
    said = await asyncio.wait_for(told.get(), 30)
    reporting.cancel()
    await cluster.close()
    pool.close()
    assert isinstance(said, events.WorkerStatus)
    assert (said.name, said.slots, said.busy, said.state) == ("local", 2, 0, "idle")
    assert said.memory_bytes is not None
    assert said.memory_bytes > 50_000_000
    assert said.gpu_memory_bytes is said.sent_bytes is said.received_bytes is said.last_heard_s is None
