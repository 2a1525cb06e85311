"""Once a second, how every executor is: for the table of workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from fl_core.execution.memory import gpu_bytes, resident_bytes
from master import events
from master.cluster import Cluster
from master.local_executor import LocalExecutor
from master.worker_link import WorkerLink

PERIOD_S = 1.0


class StatusReporter:
    """Emits a WorkerStatus for each executor."""

    def __init__(self, cluster: Cluster, links: Sequence[WorkerLink]) -> None:
        self._cluster = cluster
        self._links = links

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            now = time.time()
            for link in self._links:
                if link.executor is not None:
                    self._cluster.emit(self._of_link(link, now))
            for executor in self._cluster.executors.values():
                if isinstance(executor, LocalExecutor):
                    self._cluster.emit(self._of_local(executor, now))

    def _of_link(self, link: WorkerLink, now: float) -> events.WorkerStatus:
        executor = link.executor
        assert executor is not None
        busy = min(executor.slots, self._cluster.held(executor.id))
        silent = executor.link.last_heard_s
        return events.WorkerStatus(
            time_s=now,
            name=executor.name,
            slots=executor.slots,
            busy=busy,
            state="silent" if silent > 2.5 else "working" if busy else "idle",
            memory_bytes=executor.link.peer_memory.ram_bytes,
            gpu_memory_bytes=executor.link.peer_memory.gpu_bytes,
            sent_bytes=link.sent_bytes + executor.link.bytes_sent,
            received_bytes=link.received_bytes + executor.link.bytes_received,
            last_heard_s=now - silent,
        )

    def _of_local(self, executor: LocalExecutor, now: float) -> events.WorkerStatus:
        held = self._cluster.held(executor.id)
        return events.WorkerStatus(
            time_s=now,
            name="local",
            slots=executor.slots,
            busy=min(executor.slots, held),
            state="working" if held else "idle",
            memory_bytes=resident_bytes(),
            gpu_memory_bytes=gpu_bytes(executor.devices),
        )
